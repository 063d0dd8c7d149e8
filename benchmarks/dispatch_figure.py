"""The figure of `dispatch.py`: what each part of a mixture costs over the dense layer, and its backward pass against E."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import dispatch_tables
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from results import Row
from targets import DENSE, dense_target

LABELS = {"dispatch": "", "dispatch_kept": ", memory kept"}
FILLS = {"dispatch": "none", "dispatch_kept": None}
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#999999")
LINES = {
    dispatch_tables.DISPATCHED: "dispatched",
    dispatch_tables.WEIGHTS: "of it, gradients of the weights",
    dispatch_tables.ROWS: "of it, gradients of the rows",
    ("loop with masks", "autograd"): "loop with masks",
    DENSE: "dense layer",
}


def dispatch(layers: Mapping[str, Sequence[Row]], passes: Sequence[Row]) -> Figure:
    """Draw the ratios of each results file (bars at the targets), and the seconds of the backward pass."""
    figure = Figure(figsize=(10.4, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    _ratios(left, layers)
    _backward(right, [row for row in passes if row.direction == "backward"])
    return figure


def _ratios(axes: Axes, layers: Mapping[str, Sequence[Row]]) -> None:
    names = list(dict.fromkeys(row.key for rows in layers.values() for row in rows if row.key != DENSE))[::-1]
    experts = list(dict.fromkeys(row.n for rows in layers.values() for row in rows))
    for file, rows in layers.items():
        for row in (row for row in rows if row.key != DENSE and row.ratio is not None):
            colour, y = COLOURS[experts.index(row.n) % len(COLOURS)], names.index(row.key)
            axes.plot(row.ratio, y, "o", color=colour, markerfacecolor=FILLS[file] or colour, markersize=5)
            if target := dense_target(row):
                axes.plot([target.must] * 2, [y - 0.3, y + 0.3], color=colour, linewidth=2)
    handles = [
        axes.plot([], [], "o", color=colour, markerfacecolor=FILLS[file] or colour, label=f"E = {n}{LABELS[file]}")[0]
        for n, colour in zip(experts, COLOURS, strict=False)
        for file in layers
    ]
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set(title="forward+backward", xscale="log", xlabel="time / dense layer")
    axes.set_yticks(range(len(names)), [", ".join(name) for name in names])
    axes.legend(handles=handles, fontsize=6)


def _backward(axes: Axes, rows: Sequence[Row]) -> None:
    for (key, label), colour in zip(LINES.items(), COLOURS, strict=True):
        curve = sorted((row.n, 1e3 * row.seconds) for row in rows if row.key == key)
        if curve:
            axes.plot(*zip(*curve, strict=True), marker=".", color=colour, label=label)
    axes.set(title="backward", xscale="log", yscale="log", xlabel="E", ylabel="ms")
    axes.legend(fontsize=6)
