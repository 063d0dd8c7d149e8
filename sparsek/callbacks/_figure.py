"""The picture of one or more runs: loss, load over time, expert × kind of text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ._record import RoutingRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def routing_figure(runs: Mapping[str, RoutingRecord]) -> Figure:
    """Draw the training loss of all runs, and one column a run: MaxVio, load of the experts, kinds of text.

    Args:
        runs: Records by name, at least one.

    Returns:
        A matplotlib figure that no window manager knows; save it with `savefig`.

    Raises:
        ValueError: If there is no run.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 - slow to load, and only drawing needs it

    if not runs:
        raise ValueError("runs must hold at least one record, got none")
    figure = Figure(figsize=(5.2 * max(len(runs), 1), 11), layout="constrained")
    grid = figure.add_gridspec(4, len(runs), height_ratios=(1, 1, 1, 1.5))
    _draw_loss(figure.add_subplot(grid[0, :]), runs)
    shared: Axes | None = None
    for column, (name, record) in enumerate(runs.items()):
        shared = figure.add_subplot(grid[1, column], sharey=shared)
        _draw_violation(shared, record, name)
        _draw_shares(figure.add_subplot(grid[2, column]), record)
        _draw_domains(figure, figure.add_subplot(grid[3, column]), record)
    return figure


def _draw_loss(axes: Axes, runs: Mapping[str, RoutingRecord]) -> None:
    for name, record in runs.items():
        steps, bits = zip(*record.loss, strict=True) if record.loss else ((), ())
        axes.plot(steps, bits, label=name)
    axes.set(xlabel="optimizer step", ylabel="bits per byte", title="Training loss")
    axes.legend()


def _layers(record: RoutingRecord) -> dict[int, dict[int, dict[int, float]]]:
    """Shares by layer, step and expert."""
    layers: dict[int, dict[int, dict[int, float]]] = {}
    for step, layer, expert, share in record.load:
        layers.setdefault(layer, {}).setdefault(step, {})[expert] = share
    return layers


def _draw_violation(axes: Axes, record: RoutingRecord, name: str) -> None:
    for layer, by_step in _layers(record).items():
        violation = [max(shares.values()) * len(shares) - 1 for shares in by_step.values()]
        axes.plot(list(by_step), violation, label=f"layer {layer}", linewidth=0.9)
    axes.set(xlabel="optimizer step", ylabel="MaxVio", title=f"{name}: busiest expert above its share")
    if record.load:
        axes.legend(fontsize="small")


def _draw_shares(axes: Axes, record: RoutingRecord) -> None:
    layers = _layers(record)
    if layers:
        last = max(layers)
        experts = sorted(next(iter(layers[last].values())))
        shares = [[by_expert[e] for by_expert in layers[last].values()] for e in experts]
        axes.stackplot(list(layers[last]), shares)
        axes.set(ylim=(0, 1), title=f"Load of the {len(experts)} experts of layer {last}")
    axes.set(xlabel="optimizer step", ylabel="share of slots")


def _draw_domains(figure: Figure, axes: Axes, record: RoutingRecord) -> None:
    rows = sorted({(layer, domain) for domain, layer, _, _ in record.domain})
    experts = sorted({expert for _, _, expert, _ in record.domain})
    place = {row: i for i, row in enumerate(rows)}
    table = [[0.0] * len(experts) for _ in rows]
    for domain, layer, expert, share in record.domain:
        table[place[layer, domain]][expert] = share
    if rows:
        image = axes.imshow(table, aspect="auto", cmap="viridis", vmin=0)
        figure.colorbar(image, ax=axes, label="share of the kind's slots")
    axes.set_yticks(range(len(rows)), [f"layer {layer}, {domain}" for layer, domain in rows], fontsize="small")
    axes.set_xticks(range(len(experts)))
    axes.set(xlabel="expert", title="Which expert takes which kind of text")
