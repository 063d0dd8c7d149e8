"""Tables and figure of this experiment from its results alone.

python experiments/09_attribution/figure.py     # prints the tables, puts them into README.md, draws results.png
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).parents[1]))
import results_file

HERE = Path(__file__).parent
COLOURS = {
    "learned": "#2f5d9b",
    "learned, sampled": "#7fa3d1",
    "gradient × activation": "#c8611b",
    "random": "#8a8a8a",
}
PANELS = (
    ("language model", "loss", "bits per byte, units at their means"),
    ("language model, zeros", "loss", "bits per byte, units at 0"),
    ("sentence encoder", "loss", "cross-entropy, units at their means"),
    ("sentence encoder", "accuracy", "accuracy, units at their means"),
)

Results = dict[tuple[str, str, str], list[float]]


def collect(lines: Sequence[Mapping[str, str]], grid: Mapping[str, Any]) -> Results:
    """Values of the test seeds by problem, row and metric."""
    seeds = {str(seed) for seed in grid["test"]["seeds"]}
    found: Results = {}
    for line in lines:
        if line["seed"] in seeds:
            problem = line["config"].partition(" {")[0]
            found.setdefault((problem, line["row"], line["metric"]), []).append(float(line["value"]))
    return found


def unit(problem: str, measure: str) -> float:
    """What a value is divided by to be shown: a language model's nats are shown as bits."""
    return math.log(2) if problem.startswith("language") and measure == "loss" else 1.0


def publish(results: Path, grid: Mapping[str, Any]) -> str:
    """Draw the figure beside the results; return the tables."""
    lines = results_file.read(results)
    found = collect(lines, grid)
    draw(found, grid, results.with_suffix(".png"))
    return "\n\n".join(part for part in (tables(found, grid), validation_table(lines, grid)) if part)


def tables(found: Results, grid: Mapping[str, Any]) -> str:
    """Markdown: for each problem and measure, mean ± standard deviation over seeds by row and share of units kept."""
    parts = []
    for problem, measure, title in PANELS:
        body = []
        for row in grid["rows"]:
            cells = [found.get((problem, row, f"{measure}@{share:g}")) for share in grid["shares"]]
            if all(values and len(values) == len(grid["test"]["seeds"]) for values in cells):
                body.append([row, *(_cell(values or [], unit(problem, measure)) for values in cells)])
        if body:
            head = [f"{problem}: {title}", *(f"{100 * share:.3g} %" for share in grid["shares"])]
            parts.append("\n".join("| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *body]))
    return "\n\n".join(parts)


def validation_table(lines: Sequence[Mapping[str, str]], grid: Mapping[str, Any]) -> str:
    """Markdown: what the settings of rows were chosen by, one line a setting."""
    problem, seed = grid["validation"]["problem"], str(grid["validation"]["seed"])
    found: dict[tuple[str, str], dict[str, float]] = {}
    for line in lines:
        name, _, setting = line["config"].partition(" {")
        if (line["seed"], name) == (seed, problem):
            found.setdefault((line["row"], "{" + setting), {})[line["metric"]] = float(line["value"])
    head = [f"{problem}: bits per byte, validation", *(f"{100 * share:.3g} %" for share in grid["shares"])]
    body = []
    for (row, setting), values in found.items():
        (chosen,) = json.loads(setting).values()
        cells = [values[f"loss@{share:g}"] / unit(problem, "loss") for share in grid["shares"]]
        body.append([f"{row}, {chosen}", *(f"{cell:.2f}" for cell in cells)])
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *body]) if body else ""


def _cell(values: Sequence[float], scale: float) -> str:
    scaled = [value / scale for value in values]
    spread = statistics.stdev(scaled) if len(scaled) > 1 else 0.0
    return f"{statistics.fmean(scaled):.2f} ± {spread:.2f}"


def draw(found: Results, grid: Mapping[str, Any], path: Path) -> None:
    """The measure against the share of units kept, of every problem that has been run."""
    figure, whole = Figure(layout="constrained"), len(grid["test"]["seeds"])
    full = {(problem, name) for (problem, _, name), values in found.items() if len(values) == whole}
    panels = [panel for panel in PANELS if all((panel[0], f"{panel[1]}@{share:g}") in full for share in grid["shares"])]
    figure.set_size_inches(5 + 4 * max(0, len(panels) - 1), 3.8)
    for axis, (problem, measure, title) in zip(
        figure.subplots(1, max(1, len(panels)), squeeze=False)[0], panels, strict=False
    ):
        for row in grid["rows"]:
            points = [
                (share, [value / unit(problem, measure) for value in found[problem, row, f"{measure}@{share:g}"]])
                for share in grid["shares"]
                if len(found.get((problem, row, f"{measure}@{share:g}"), [])) == len(grid["test"]["seeds"])
            ]
            if points:
                shares, values = zip(*points, strict=True)
                axis.plot(shares, [statistics.fmean(v) for v in values], "o-", ms=3, color=COLOURS[row], label=row)
                axis.fill_between(
                    shares, [min(v) for v in values], [max(v) for v in values], color=COLOURS[row], alpha=0.2
                )
        axis.set(xscale="log", xlabel="share of units kept", title=f"{problem}\n{title}")
        axis.title.set_fontsize(8)
        axis.spines[["top", "right"]].set_visible(False)
        if axis.lines:
            axis.legend(fontsize=6)
    figure.savefig(path, dpi=130, metadata={"Software": None})


if __name__ == "__main__":
    described = yaml.safe_load((HERE / "grid.yaml").read_text())
    written = publish(HERE / "results.csv", described)
    results_file.write_into(HERE / "README.md", "tables of figure.py", written)
    print(written)
