"""The tables of choosing.md from results: `python docs/tables.py`."""

from __future__ import annotations

import csv
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))
import results_file

ROOT = Path(__file__).parents[1]
OPERATORS = {
    "sigmoid_topk": "`SigmoidTopK()`",
    "sigmoid_topk(hard=True)": "`SigmoidTopK(hard=True)`",
    "project_capped_simplex": "`Euclidean()`",
    "lapsum_topk": "`LapSum()`",
    "sinkhorn_topk": "`Sinkhorn()`",
    "scaled_sigmoid": "`ScaledSigmoid()`",
    "successive_softmax": "`SuccessiveSoftmax()`",
    "perturbed_topk": "`Perturbed()`",
    "torch.topk": "`torch.topk`",
}
ESTIMATORS = {
    "straight-through, conditional Poisson": ("StraightThrough()", "1"),
    "second order, conditional Poisson": ("SecondOrder()", "1"),
    "MuProp, conditional Poisson": ("MuProp()", "2, and one at π"),
    "score function, conditional Poisson": ("ScoreFunction()", "2"),
    "SIMPLE": ("Simple()", "1"),
    "relaxed, hard": ("Relaxed()", "1"),
    "ReinMax, k-hot, conditional Poisson": ("ReinMax()", "1"),
}
POINTS = {("1024", "64"): "1024 rows of 64", ("1", "1000000"): "one row of 1e6"}


def table(head: Iterable[str], body: Iterable[Iterable[str]]) -> str:
    """In Markdown."""
    rows = [list(head), ["---"] * len(list(head)), *map(list, body)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def timings(name: str, titles: dict[str, str], directions: tuple[str, ...]) -> str:
    """The fastest execution of each operation, over softmax, at each point and in each direction."""
    found: dict[tuple[str, str, str], float] = {}
    with (ROOT / "benchmarks" / "results" / f"{name}-cpu.csv").open(newline="") as file:
        for line in csv.DictReader(file):
            point = (line["rows"], line["n"])
            if point in POINTS and line["ratio"]:
                key = (line["operation"], POINTS[point], line["direction"])
                found[key] = min(found.get(key, float("inf")), float(line["ratio"]))
    columns = [(point, direction) for point in POINTS.values() for direction in directions]
    head = ["", *(f"{point}, {direction.replace('+', ' and ')}" for point, direction in columns)]
    cell = [
        [title, *(f"{found[operation, *column]:.3g}" if (operation, *column) in found else "–" for column in columns)]
        for operation, title in titles.items()
    ]
    return table(head, cell)


def designs() -> dict[str, str]:
    """Every design of the results under its own name."""
    with (ROOT / "benchmarks" / "results" / "samplers-cpu.csv").open(newline="") as file:
        names = dict.fromkeys(line["operation"] for line in csv.DictReader(file))
    return {name: f"`{name}`" for name in names if name.endswith(")") and "." not in name}


def estimators() -> str:
    """Bias, its standard error, spread."""
    values: dict[tuple[str, str], list[float]] = {}
    for line in results_file.read(ROOT / "experiments" / "00_paper" / "results.csv"):
        values.setdefault((line["row"], line["metric"]), []).append(float(line["value"]))
    body = []
    for row, (name, evaluations) in ESTIMATORS.items():
        mean = {
            metric: statistics.fmean(values[f"estimator: {row}", f"{metric}, curvature 1"])
            for metric in ("bias", "standard error", "spread")
        }
        body.append(
            [f"`{name}`", f"{mean['bias']:.3f} ± {mean['standard error']:.3f}", f"{mean['spread']:.2f}", evaluations]
        )
    return table(["", "bias", "spread of one estimate", "evaluations"], body)


def tables() -> dict[str, str]:
    """Each table by the name of its place."""
    return {
        "relaxations": timings("relaxations", OPERATORS, ("forward", "forward+backward")),
        "designs": timings("samplers", designs(), ("forward",)),
        "estimators": estimators(),
    }


if __name__ == "__main__":
    for place, text in tables().items():
        results_file.write_into(ROOT / "docs" / "choosing.md", place, text)
