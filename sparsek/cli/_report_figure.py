"""The figure of a report: a panel a metric, a colour a group of runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ._report_runs import Run
from ._report_table import Table, label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS, _MOST = 3, 12


def report_figure(runs: Sequence[Run], metrics: Sequence[str], found: Table) -> Figure:
    """Draw every metric over the steps, the first twelve of them.

    Args:
        runs: In any order.
        metrics: Names.
        found: The groups.

    Returns:
        A matplotlib figure that no window manager knows.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 - slow to load, and only drawing needs it

    shown = metrics[:_MOST]
    rows = -(-len(shown) // _COLUMNS)
    columns = min(len(shown), _COLUMNS)
    figure = Figure(figsize=(4.6 * columns, 3.2 * rows + 0.28 * len(found.groups)), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, metric in zip(panels, shown, strict=False):
        _panel(axes, metric, found)
    for axes in panels[len(shown) :]:
        axes.set_axis_off()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", fontsize="small")
    return figure


def _panel(axes: Axes, metric: str, found: Table) -> None:
    for number, (key, runs) in enumerate(found.groups.items()):
        for place, run in enumerate(runs):
            steps, values = zip(*run.curves.get(metric, [(float("nan"), float("nan"))]), strict=True)
            name = label(found.settings, key) if place == 0 else None
            marker = "o" if len(steps) < 20 else ""
            axes.plot(
                steps,
                values,
                color=f"C{number % 10}",
                marker=marker,
                markersize=3,
                linewidth=1.2,
                alpha=0.8,
                label=name,
            )
    axes.set_title(metric, fontsize="medium")
    axes.set_xlabel("step")
    axes.grid(alpha=0.3)
