"""Tables and figure of this experiment from its results alone.

python experiments/08_beam_search/figure.py     # prints the tables, puts them into README.md, draws results.png
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.stats import t as student_t

sys.path.insert(0, str(Path(__file__).parents[1]))
import results_file

HERE = Path(__file__).parent
COLOURS = ("#c8611b", "#2f5d9b", "#7fa3d1", "#0b7a75", "#8a5a9e")
STYLES = {"lowest temperature": "-", "middle": "--", "highest": ":"}
TARGETS = ("entropy", "score")


class Results:
    """Errors of the estimators that validation chose."""

    def __init__(self, lines: Sequence[Mapping[str, str]], grid: Mapping[str, Any]) -> None:
        self.grid = grid
        self.errors: dict[tuple[str, str, int], dict[str, float]] = {}
        for line in lines:
            key = (line["config"], line["row"], int(line["seed"]))
            self.errors.setdefault(key, {})[line["metric"]] = float(line["value"])

    def chosen(self, config: str, row: str, target: str) -> str:
        """The estimator with the least error on the validation problem."""
        errors = self.errors[config, row, self.grid["validation"]["seed"]]
        return min((name for name in errors if name.startswith(target)), key=errors.__getitem__)

    def error(self, config: str, row: str, target: str, seed: int) -> float:
        """Its error on another problem."""
        return self.errors[config, row, seed][self.chosen(config, row, target)]

    def gain(self, config: str, row: str, target: str) -> tuple[float, float, float]:
        """How many times less the error is than with replacement: geometric mean over seeds, and its 95 % t-interval."""
        logs = [
            math.log(self.error(config, self.grid["reference"], target, seed) / self.error(config, row, target, seed))
            for seed in self.grid["test"]["seeds"]
            if (config, row, seed) in self.errors
        ]
        half = math.inf
        if len(logs) > 1:
            half = float(student_t.ppf(0.975, len(logs) - 1)) * statistics.stdev(logs) / math.sqrt(len(logs))
        mean = statistics.fmean(logs)
        return math.exp(mean), math.exp(mean - half), math.exp(mean + half)

    def has(self, config: str, row: str) -> bool:
        """Whether there are runs of validation and of a test."""
        seeds = (self.grid["validation"]["seed"], self.grid["test"]["seeds"][0])
        return all((config, row, seed) in self.errors for seed in seeds)


def configs(grid: Mapping[str, Any], problem: str) -> list[tuple[float, int, str]]:
    """Temperature, k and the name of every setting of a problem."""
    described = grid[problem]
    return [(t, k, f"{problem}, T = {t:g}, k = {k}") for t in described["temperatures"] for k in described["k"]]


def publish(results: Path, grid: Mapping[str, Any]) -> str:
    """Draw the figure beside the results; return the tables."""
    found = Results(results_file.read(results), grid)
    draw(found, grid, results.with_suffix(".png"))
    return tables(found, grid)


def tables(found: Results, grid: Mapping[str, Any]) -> str:
    """Markdown: for each problem and quantity, how many times less the error is, by row and setting."""
    parts = []
    for problem in ("exact", "text"):
        for target in TARGETS:
            body = _body(found, grid, problem, target)
            if body:
                head = ["T, k", *_rows(grid, problem)]
                lines = "\n".join("| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *body])
                parts.append(
                    f"Problem `{problem}`, expected {target}: error of sampling with replacement / error\n\n{lines}"
                )
    return "\n\n".join(parts)


def _rows(grid: Mapping[str, Any], problem: str) -> list[str]:
    return [row for row, where in grid["rows"].items() if problem in where and row != grid["reference"]]


def _body(found: Results, grid: Mapping[str, Any], problem: str, target: str) -> list[list[str]]:
    rows, body = _rows(grid, problem), []
    for temperature, k, config in configs(grid, problem):
        if all(found.has(config, row) for row in (*rows, grid["reference"])):
            gains = [found.gain(config, row, target) for row in rows]
            cells = [f"{mean:.3g} [{low:.3g}, {high:.3g}]" for mean, low, high in gains]
            body.append([f"{temperature:g}, {k}", *cells])
    return body


def draw(found: Results, grid: Mapping[str, Any], path: Path) -> None:
    """The gain against k for every temperature."""
    figure = Figure(figsize=(11, 6), layout="constrained")
    axes = figure.subplots(2, 2)
    for column, problem in enumerate(("exact", "text")):
        for line, target in enumerate(TARGETS):
            _draw_gains(axes[line][column], found, grid, problem, target)
    colours = zip(_rows(grid, "exact"), COLOURS, strict=True)
    handles = [Line2D([], [], color=colour, label=row) for row, colour in colours]
    handles += [Line2D([], [], color="black", ls=style, label=name) for name, style in STYLES.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=8)
    figure.savefig(path, dpi=130, metadata={"Software": None})


def _draw_gains(axis: Any, found: Results, grid: Mapping[str, Any], problem: str, target: str) -> None:
    for row, colour in zip(_rows(grid, "exact"), COLOURS, strict=True):
        for temperature, style in zip(grid[problem]["temperatures"], STYLES.values(), strict=False):
            points = [
                (k, *found.gain(config, row, target))
                for t, k, config in configs(grid, problem)
                if t == temperature and found.has(config, row)
            ]
            if points:
                k, mean, low, high = zip(*points, strict=True)
                axis.plot(k, mean, style, marker="o", ms=3, color=colour)
                axis.fill_between(k, low, high, color=colour, alpha=0.06, lw=0)
    axis.axhline(3, color="black", lw=0.8, ls=":")
    axis.axhline(1, color="black", lw=0.8)
    temperatures = ", ".join(f"{temperature:g}" for temperature in grid[problem]["temperatures"])
    axis.set(xscale="log", yscale="log", xlabel="k", ylabel="times less error")
    axis.set_title(f"{problem}: {target}; T = {temperatures}", fontsize=10)
    axis.set_xticks(grid[problem]["k"], [str(k) for k in grid[problem]["k"]], minor=False)
    axis.minorticks_off()
    axis.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    described = yaml.safe_load((HERE / "grid.yaml").read_text())
    written = publish(HERE / "results.csv", described)
    results_file.write_into(HERE / "README.md", "tables of figure.py", written)
    print(written)
