"""Draw the figures from the results files alone: `python benchmarks/figures.py`. One file a kind and device."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl
from dispatch_figure import dispatch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from results import FOLDER, Row, stored
from targets import ratio_target

FIGURES = Path(__file__).parent / "figures"
COLOURS = {"eager": "#0072B2", "compiled": "#E69F00", "native": "#009E73", "triton": "#D55E00"}
REFERENCES = {"torch.softmax": "black", "torch.topk": "#999999"}
LINES = {"Systematic()": "--", "Pivotal()": ":"}
"""Operation to the style of its line in the figure of growth, solid for the others."""

mpl.use("Agg")
mpl.rcParams.update(
    {"svg.hashsalt": "sparsek", "svg.fonttype": "none", "font.size": 8, "axes.grid": True, "grid.alpha": 0.3}
)


def executions(rows: Sequence[Row], device: str) -> Figure:
    """Draw the ratio of every execution to softmax, shape by shape, with its targets: bars at "must", dots at "stretch"."""
    chosen = [row for row in rows if row.dtype == "float32" and row.operation == "sigmoid_topk"]
    figure, panels = _panels(_directions(chosen))
    shapes = list(dict.fromkeys(row.shape for row in chosen))
    for axes, direction in zip(panels, _directions(chosen), strict=True):
        here = [row for row in chosen if row.direction == direction]
        names = list(dict.fromkeys(row.execution for row in here))
        for row in here:
            colour = COLOURS[row.execution]
            x = shapes.index(row.shape) + 0.18 * (names.index(row.execution) - (len(names) - 1) / 2)
            axes.plot(x, row.ratio, "o", color=colour, markersize=5)
            if target := ratio_target(row, device == "cpu"):
                axes.plot([x - 0.08, x + 0.08], [target.must] * 2, color=colour, linewidth=2)
                axes.plot(x, target.stretch or float("nan"), ".", color=colour, markersize=3)
        axes.axhline(1, color="black", linewidth=0.8)
        axes.set(title=direction, yscale="log", ylabel="time / softmax")
        axes.set_xticks(range(len(shapes)), [f"({r:,}, {n:,})" for r, n in shapes], rotation=30, ha="right")
        axes.legend(handles=[axes.plot([], [], "o", color=COLOURS[name], label=name)[0] for name in names])
    return figure


def operations(rows: Sequence[Row], device: str) -> Figure:
    """Draw the ratio of every operation to softmax: a line an operation, a colour a shape."""
    chosen = [row for row in rows if row.key != ("torch.softmax", "eager")]
    figure, panels = _panels(_directions(chosen))
    shapes = list(dict.fromkeys(row.shape for row in chosen))
    colours = {shape: mpl.colormaps["viridis"](i / max(len(shapes) - 1, 1)) for i, shape in enumerate(shapes)}
    for axes, direction in zip(panels, _directions(chosen), strict=True):
        here = [row for row in chosen if row.direction == direction]
        names = list(dict.fromkeys(", ".join(row.key) for row in reversed(here)))
        for row in here:
            axes.plot(row.ratio, names.index(", ".join(row.key)), "o", color=colours[row.shape], markersize=4)
        axes.axvline(1, color="black", linewidth=0.8)
        axes.set(title=direction, xscale="log", xlabel="time / softmax")
        axes.set_yticks(range(len(names)), names)
    handles = [panels[0].plot([], [], "o", color=c, label=f"({r:,}, {n:,})")[0] for (r, n), c in colours.items()]
    panels[0].legend(handles=handles, fontsize=6)
    return figure


def growth(measured: dict[str, Sequence[Row]]) -> Figure:
    """Draw seconds forward, seconds forward and backward, and peak bytes a unit, against n, the batch and k."""
    figure = Figure(figsize=(10, 8), layout="constrained")
    grid = figure.subplots(3, len(measured), squeeze=False, sharex="col")
    for column, (axis, rows) in zip(grid.T, measured.items(), strict=True):
        place, label = AXES[axis]
        kept = [row for row in rows if axis != "batch" or row.n == max(other.n for other in rows)]
        forward = [row for row in kept if row.direction == "forward"]
        _curves(column[0], forward, place, lambda row: row.seconds)
        _curves(column[1], [row for row in kept if row.direction != "forward"], place, lambda row: row.seconds)
        _curves(column[2], forward, place, lambda row: (row.peak_bytes or 0) / (row.rows * row.n))
        column[2].set_xlabel(label)
    for axes, label in zip(
        grid[:, 0], ("forward, s", "forward+backward, s", "forward, peak bytes a unit"), strict=True
    ):
        axes.set_ylabel(label)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure


AXES: dict[str, tuple[Callable[[Row], int], str]] = {
    "n": (lambda row: row.n, "n, one row"),
    "batch": (lambda row: row.rows, "rows of 128"),
    "k": (lambda row: row.k, "k, 16 rows of 16,384"),
}


def draw(results: Path, out: Path) -> list[Path]:
    """Draw every figure there are results for; return their paths."""
    figures: dict[str, Figure] = {}
    figures |= {f"sigmoid_topk-{d}": executions(r.rows, d) for d, r in stored("sigmoid_topk", results).items()}
    for name in ("relaxations", "samplers"):
        figures |= {f"{name}-{d}": operations(r.rows, d) for d, r in stored(name, results).items()}
    measured = {axis: stored(f"growth_{axis}", results) for axis in AXES}
    for device in dict.fromkeys(device for found in measured.values() for device in found):
        here = {axis: found[device].rows for axis, found in measured.items() if device in found}
        figures[f"growth-{device}"] = growth(here)
    for device, found in stored("dispatch", results).items():
        kept, passes = (stored(name, results).get(device) for name in ("dispatch_kept", "dispatch_growth"))
        layers = {"dispatch": found.rows} | ({"dispatch_kept": kept.rows} if kept else {})
        figures[f"dispatch-{device}"] = dispatch(layers, passes.rows if passes else [])
    out.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(out / f"{name}.svg", metadata={"Date": None})
    return [out / f"{name}.svg" for name in figures]


def _directions(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row.direction for row in rows))


def _panels(directions: list[str]) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(5.2 * len(directions), 4), layout="constrained")
    return figure, list(figure.subplots(1, len(directions), squeeze=False)[0])


def _curves(axes: Axes, rows: Sequence[Row], place: Callable[[Row], int], value: Callable[[Row], float]) -> None:
    for operation, execution in dict.fromkeys(row.key for row in rows):
        curve = sorted((place(row), value(row)) for row in rows if row.key == (operation, execution))
        colour, line = REFERENCES.get(operation, COLOURS[execution]), LINES.get(operation, "-")
        axes.plot(*zip(*curve, strict=True), line, marker=".", color=colour, label=f"{operation}, {execution}")
    axes.set(xscale="log", yscale="log")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=FOLDER)
    parser.add_argument("--out", type=Path, default=FIGURES)
    arguments = parser.parse_args()
    print(*draw(arguments.results, arguments.out), sep="\n")
