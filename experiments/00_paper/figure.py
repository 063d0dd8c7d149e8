"""Figures and the table of claims from the results alone.

python experiments/00_paper/figure.py     # draws *.png beside results.csv, puts the table into README.md
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import claims
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from summary import Results

sys.path.insert(0, str(Path(__file__).parents[1]))
import results_file

HERE = Path(__file__).parent
BLUE, ORANGE = "#2f5d9b", "#c8611b"
CORNERS = ((0.0, 1.0), (-(3**0.5) / 2, -0.5), (3**0.5 / 2, -0.5))


def publish(results: Path, grid: Mapping[str, Any]) -> str:
    """Draw what there are results for, beside them; return the table of claims."""
    found = Results(results_file.read(results))
    for name, (prefix, drawing) in FIGURES.items():
        if found.rows(prefix):
            figure = drawing(found, grid)
            for axis in figure.axes:
                axis.spines[["top", "right"]].set_visible(False)
            figure.savefig(
                results.with_name(f"{name}{results.stem.removeprefix('results')}.png"),
                dpi=120,
                metadata={"Software": None},
            )
    return claims.table(found, grid)


def numbers(found: Results, row: str, prefix: str) -> tuple[list[float], list[tuple[float, float, float]]]:
    """The number at the end of each metric that begins so, and the metric's values, by rising number."""
    pairs = [(float(metric.removeprefix(prefix)), found.spread(row, metric)) for metric in found.metrics(row, prefix)]
    return [number for number, _ in sorted(pairs)], [tuple(spread) for _, spread in sorted(pairs)]


def band(axis: Axes, x: list[float], spreads: list[tuple[float, float, float]], **style: Any) -> None:
    """A line with the range over seeds."""
    mean, least, most = zip(*spreads, strict=True)
    (line,) = axis.plot(x, mean, **style)
    axis.fill_between(x, least, most, color=line.get_color(), alpha=0.2, lw=0)


def values(found: Results, grid: Mapping[str, Any]) -> Figure:
    """π₁ and its derivative for the scores (t, 0), k = 1."""
    rows = found.rows("value:")
    figure = Figure(figsize=(2 * len(rows), 4), layout="constrained")
    axes = figure.subplots(2, len(rows), sharex=True, sharey="row", squeeze=False)
    for column, row in zip(axes.T, rows, strict=True):
        for axis, kind, colour in zip(column, ("value", "gradient"), (BLUE, ORANGE), strict=True):
            band(axis, *numbers(found, row, f"{kind}, t = "), color=colour)
        column[0].set_title(row.removeprefix("value: "), fontsize=9)
        column[1].set_xlabel("t")
    axes[0, 0].set_ylabel("π₁ of (t, 0)")
    axes[1, 0].set_ylabel("∂π₁/∂t")
    return figure


def tempering(found: Results, grid: Mapping[str, Any]) -> Figure:
    """From hard to uniform, of softmax and of sigmoid top-k, and the way through the capped simplex of three units."""
    figure = Figure(figsize=(13, 3.1), layout="constrained")
    axes = figure.subplots(1, 5)
    for axis, row in zip(axes, ("temper: softmax", "temper: sigmoid top-k"), strict=False):
        for unit in range(8):
            band(axis, *numbers(found, row, f"unit {unit}, T = "), color=BLUE, alpha=1 - unit / 10)
        axis.set(xscale="log", xlabel="temperature", ylabel="π", ylim=(-0.03, 1.03))
        axis.set_title(row.removeprefix("temper: ") + (", k = 3" if "top-k" in row else ""), fontsize=9)
    for axis, row in zip(axes[2:], found.rows("simplex:"), strict=False):
        simplex(axis, found, row)
    return figure


def simplex(axis: Axes, found: Results, row: str) -> None:
    """One line for each seed, from the middle to a corner."""
    k = float(row.rpartition("= ")[2])
    whole, part = int(k), k - int(k)
    corners = [1.0] * whole + [part, 0.0, 0.0][: 3 - whole]
    turns = [
        [corners[i] for i in order] for order in ((0, 1, 2), (0, 2, 1), (1, 2, 0), (2, 1, 0), (2, 0, 1), (1, 0, 2))
    ]
    axis.fill(
        *zip(*map(_plane, [t for i, t in enumerate(turns) if t not in turns[:i]]), strict=True), color=BLUE, alpha=0.12
    )
    for seed in sorted(found.values[row, found.metrics(row)[0], ""]):
        temperatures = [float(metric.rpartition("= ")[2]) for metric in found.metrics(row, "unit 0")]
        points = [
            _plane([found.values[row, f"unit {unit}, T = {t:g}", ""][seed] for unit in range(3)])
            for t in sorted(temperatures)
        ]
        axis.plot(*zip(*points, strict=True), ".-", color=BLUE, lw=0.8, ms=3)
    axis.set(aspect="equal", xlim=(-1, 1), ylim=(-1.05, 1.1))
    axis.axis("off")
    axis.set_title(f"three units, k = {k:g}", fontsize=9)


def _plane(probs: list[float]) -> tuple[float, float]:
    return tuple(sum(p * corner[axis] for p, corner in zip(probs, CORNERS, strict=True)) for axis in (0, 1))


def scalability(found: Results, grid: Mapping[str, Any]) -> Figure:
    """Seconds forward, with backward, and bytes by n; seconds by k."""
    figure = Figure(figsize=(14, 3.6), layout="constrained")
    axes = figure.subplots(1, 4)
    fixed, growing = grid["scale"]["k"], grid["scale"]["growing"]["units"]
    panels = (
        ("forward, seconds", f"n, k = {fixed}", "seconds forward", rf"n = (\d+), k = {fixed}$"),
        ("forward+backward, seconds", f"n, k = {fixed}", "seconds forward and backward", rf"n = (\d+), k = {fixed}$"),
        (
            "forward+backward, peak bytes",
            f"n, k = {fixed}",
            "bytes at the peak, with backward",
            rf"n = (\d+), k = {fixed}$",
        ),
        ("forward, seconds", f"k, n = {growing:,}", "seconds forward", rf"n = {growing}, k = (\d+)$"),
    )
    names = ("softmax", "sigmoid top-k", "successive softmax", "Sinkhorn, 200 rounds", "Sinkhorn, solved by Newton")
    for axis, (metric, label, title, pattern) in zip(axes, panels, strict=True):
        points = sorted((int(match[1]), row) for row in found.rows("scale:") if (match := re.search(pattern, row)))
        for name in names:
            measured = [
                (x, found.spread(row, f"{metric}: {name}")) for x, row in points if found.has(row, f"{metric}: {name}")
            ]
            band(axis, [x for x, _ in measured], [tuple(s) for _, s in measured], marker="o", ms=3, label=name)
        axis.set(xscale="log", yscale="log", xlabel=label, title=title)
    axes[0].legend(fontsize=7)
    return figure


def estimators(found: Results, grid: Mapping[str, Any]) -> Figure:
    """Bias by curvature, with what chance alone gives; bias and spread of all at curvature 1."""
    figure = Figure(figsize=(14, 4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    rows = found.rows("estimator:")
    for row in rows:
        if row.endswith("conditional Poisson") or row.count(",") == 0 or row.endswith("hard"):
            name = row.removeprefix("estimator: ").removesuffix(", conditional Poisson")
            x, spreads = numbers(found, row, "bias, curvature ")
            (line,) = left.plot(x, [mean for mean, _, _ in spreads], "o-", ms=3, label=name)
            x, chance = numbers(found, row, "standard error, curvature ")
            left.plot(x, [mean for mean, _, _ in chance], ":", lw=0.8, color=line.get_color())
    left.set(
        xscale="log", yscale="log", xlabel="curvature ε of the loss f(εs)/ε", ylabel="relative bias (dotted: by chance)"
    )
    left.legend(fontsize=7)
    for axis, metric in ((middle, "bias"), (right, "spread")):
        spreads = [found.spread(row, f"{metric}, curvature 1") for row in rows]
        means = [s.mean for s in spreads]
        error = [[s.mean - s.least for s in spreads], [s.most - s.mean for s in spreads]]
        axis.barh(range(len(rows)), means, xerr=error, color=BLUE, alpha=0.7, error_kw={"lw": 0.8})
        if metric == "bias":
            chance = [found.spread(row, "standard error, curvature 1").mean for row in rows]
            axis.plot(chance, range(len(rows)), "|", color="black", ms=8, label="by chance")
            axis.legend(fontsize=7)
        axis.set(xscale="log" if metric == "bias" else "linear", xlabel=f"relative {metric} at curvature 1")
    middle.set_yticks(range(len(rows)), [row.removeprefix("estimator: ") for row in rows], fontsize=7)
    right.set_yticks([])
    return figure


def subset(found: Results, grid: Mapping[str, Any]) -> Figure:
    """The toy, each estimator at the rate that the seed of tuning chose."""
    described, figure = grid["subset"], Figure(figsize=(7, 3.8), layout="constrained")
    axis = figure.subplots()
    for row in found.rows("subset:"):
        config = tuned(found, row, described)
        metrics = found.metrics(row, "excess, step ")
        spreads = [tuple(found.spread(row, metric, config, described["seeds"])) for metric in metrics]
        steps = [int(metric.rpartition(" ")[2]) for metric in metrics]
        band(axis, steps, spreads, label=f"{row.removeprefix('subset: ')}, {config}")
    axis.set(
        yscale="log", xlabel="step, two samples each", ylabel="excess over the best subset\n(1 = a subset by chance)"
    )
    axis.legend(fontsize=7)
    return figure


def tuned(found: Results, row: str, described: Mapping[str, Any]) -> str:
    """The rate that has the least excess with the seed of tuning."""
    metric = f"excess, step {described['steps']}"
    return min(
        (f"lr {rate:g}" for rate in described["rates"]),
        key=lambda config: found.spread(row, metric, config, [described["tuning"]]).mean,
    )


def planted_k(found: Results, grid: Mapping[str, Any]) -> Figure:
    """Learnt k by step, for each kind of mask."""
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    kinds = list(dict.fromkeys(row.removeprefix("k: ").split(",")[0] for row in found.rows("k:")))
    for axis, kind in zip(figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0], kinds, strict=True):
        for row in found.rows(f"k: {kind}"):
            axis.axhline(found.spread(row, "planted").mean, color="black", ls=":", lw=0.8)
            band(axis, *numbers(found, row, "k, step "), color=BLUE)
        axis.set(title=kind, xlabel="step", ylabel="k" if kind == kinds[0] else "")
    return figure


FIGURES: dict[str, tuple[str, Callable[[Results, Mapping[str, Any]], Figure]]] = {
    "values": ("value:", values),
    "tempering": ("temper:", tempering),
    "scalability": ("scale:", scalability),
    "estimators": ("estimator:", estimators),
    "subset": ("subset:", subset),
    "planted_k": ("k:", planted_k),
}

if __name__ == "__main__":
    described = yaml.safe_load((HERE / "grid.yaml").read_text())
    written = publish(HERE / "results.csv", described)
    results_file.write_into(HERE / "README.md", "table of figure.py", written)
    print(written)
