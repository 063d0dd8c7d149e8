"""Tables and figure of this experiment from its results alone.

python experiments/10_sparse_networks/figure.py     # prints the tables, puts them into README.md, draws results.png
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from matplotlib.figure import Figure
from summary import Results

sys.path.insert(0, str(Path(__file__).parents[1]))
import results_file

HERE = Path(__file__).parent
TITLES = {"mlp": "LeNet-300-100, 266,200 weights", "conv": "Two convolutions and two linear layers, 105,744 weights"}
COLOURS = {
    "sigmoid top-k": "#2f5d9b",
    "magnitude, gradual": "#c8611b",
    "magnitude, once": "#e3b07f",
    "RigL": "#0b7a75",
    "L0": "#8a5a9e",
    "random": "#8a8a8a",
}


def publish(results: Path, grid: Mapping[str, Any]) -> str:
    """Draw the figure beside the results; return the tables."""
    found = Results(results_file.read(results), grid)
    draw(found, grid, results.with_suffix(".png"))
    return tables(found, grid)


def tables(found: Results, grid: Mapping[str, Any]) -> str:
    """Markdown: for each network accuracies, then differences to the reference paired by seed."""
    parts = []
    for task in grid["tasks"]:
        if found.rows(task):
            parts.append(f"{TITLES[task]}, test accuracy in %:\n\n{_accuracies(found, grid, task)}")
            parts.append(
                f"The same, less that of {grid['reference']} [95 % of the mean of paired seeds]:\n\n"
                + _differences(found, grid, task)
            )
    return "\n\n".join(parts)


def _table(head: list[str], body: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *body])


def _accuracies(found: Results, grid: Mapping[str, Any], task: str) -> str:
    body = []
    for row in found.rows(task):
        cells = []
        for sparsity in grid["sparsities"]:
            mean, spread = found.accuracy(task, row, 0.0 if row == "dense" else sparsity)
            cells.append("" if math.isnan(mean) else f"{mean:.2f} ± {spread:.2f}")
        body.append([row, found.setting(task, row), *cells, f"{found.seconds(task, row):.0f}"])
    return _table(["row", "setting", *(f"{100 * s:g} %" for s in grid["sparsities"]), "seconds"], body)


def _differences(found: Results, grid: Mapping[str, Any], task: str) -> str:
    body = []
    for row in found.rows(task):
        if row in ("dense", grid["reference"]):
            continue
        cells = []
        for sparsity in grid["sparsities"]:
            mean, width = found.difference(task, row, grid["reference"], sparsity)
            cells.append("" if math.isnan(mean) else f"{mean:+.2f} ± {width:.2f}")
        body.append([row, *cells])
    return _table(["row", *(f"{100 * s:g} %" for s in grid["sparsities"])], body)


def draw(found: Results, grid: Mapping[str, Any], path: Path) -> None:
    """Accuracy against sparsity, a panel for each network."""
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    places = [f"{100 * sparsity:g} %" for sparsity in grid["sparsities"]]
    for axis, task in zip(figure.subplots(1, 2), grid["tasks"], strict=True):
        for row, colour in COLOURS.items():
            points = [(i, *found.accuracy(task, row, s)) for i, s in enumerate(grid["sparsities"])]
            points = [point for point in points if not math.isnan(point[1])]
            if points:
                at, means, spreads = zip(*points, strict=True)
                axis.errorbar(at, means, spreads, fmt="o-", color=colour, label=row, capsize=2)
        dense = found.accuracy(task, "dense", 0.0).mean
        if not math.isnan(dense):
            axis.axhline(dense, color="black", lw=0.8, ls=":", label="dense")
        axis.set_title(TITLES[task], fontsize=10)
        axis.set(xlabel="sparsity", ylabel="test accuracy, %")
        axis.set_xticks(range(len(places)), places)
        axis.spines[["top", "right"]].set_visible(False)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=7)
    figure.savefig(path, dpi=130, metadata={"Software": None})


if __name__ == "__main__":
    described = yaml.safe_load((HERE / "grid.yaml").read_text())
    written = publish(HERE / "results.csv", described)
    results_file.write_into(HERE / "README.md", "tables of figure.py", written)
    print(written)
