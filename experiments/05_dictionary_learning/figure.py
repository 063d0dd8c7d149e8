"""Tables and figure of this experiment from its results alone.

python experiments/05_dictionary_learning/figure.py     # prints the tables, puts them into README.md, draws results.png
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from typing import Any

import yaml
from matplotlib.figure import Figure
from summary import Results

sys.path.insert(0, str(Path(__file__).parents[1]))
import results_file

HERE = Path(__file__).parent
COLOURS = (
    *(
        "#2f5d9b",
        "#7fa3d1",
        "#4aa3df",
        "#c8611b",
        "#1b2a49",
        "#a31f34",
        "#d98c99",
        "#6b1020",
        "#0b7a75",
        "#6fb98f",
        "#8a8a8a",
    ),
    "#b8860b",
)


def publish(results: Path, grid: Mapping[str, Any]) -> str:
    """Draw the figure beside the results; return the tables."""
    found = Results(results_file.read(results), grid)
    draw(found, grid, results.with_suffix(".png"))
    return tables(found, grid)


def tables(found: Results, grid: Mapping[str, Any]) -> str:
    """Markdown: patches for each k, the planted dictionary, denoising."""
    parts = {
        f"Patches, k = {k}, test error as a share of the squared norm:": _patches(found, grid, k)
        for k in grid["patches"]["k"]
    }
    parts["Planted dictionary, share of its atoms found:"] = _planted(found, grid)
    parts["Denoising:"] = _denoising(found, grid)
    return "\n\n".join(f"{title}\n\n{table}" for title, table in parts.items() if table)


def _table(head: list[str], body: list[list[str]]) -> str:
    """In Markdown; nothing where nothing was measured."""
    if not body:
        return ""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *body])


def _patches(found: Results, grid: Mapping[str, Any], k: int) -> str:
    metric, seconds, reference = f"patches/error, k = {k}", f"patches/seconds, k = {k}", grid["reference"]
    body = []
    for row in sorted(found.rows(metric), key=lambda row: found.spread(row, metric).mean):
        mean, spread = found.spread(row, metric)
        other = found.paired(row, metric, reference)
        alone = row == reference or reference not in found.rows(metric)
        difference = "–" if alone else f"{other.mean:+.4f} ± {other.width:.4f}"
        faster = "–" if alone or row == "random patches" else f"{found.ratio(row, seconds, reference):.1f}x"
        took = found.spread(row, seconds).mean
        body.append([row, found.settings[row, metric], f"{mean:.4f} ± {spread:.4f}", difference, f"{took:.1f}", faster])
    head = ["dictionary", "setting", "error", f"− {reference} [95 %]", "seconds", "faster than it"]
    return _table(head, body)


def _planted(found: Results, grid: Mapping[str, Any]) -> str:
    metrics = [f"planted/found, {decibels} dB" for decibels in grid["planted"]["decibels"]]
    cell = "{0.mean:.3f} ± {0.width:.3f}".format
    body = [[row, *(cell(found.spread(row, metric)) for metric in metrics)] for row in found.rows(metrics[0])]
    return _table(["dictionary", *(metric.split(", ")[1] for metric in metrics)], body)


def _denoising(found: Results, grid: Mapping[str, Any]) -> str:
    metric, reference, body = "denoising/psnr", grid["reference"], []
    for row in sorted(found.rows(metric), key=lambda row: -found.spread(row, metric).mean):
        mean, spread = found.spread(row, metric)
        other = found.paired(row, metric, reference)
        alone = row == reference or reference not in found.rows(metric)
        difference = "–" if alone else f"{other.mean:+.2f} ± {other.width:.2f}"
        noisy = found.spread(row, "denoising/noisy psnr").mean
        body.append([row, f"{mean:.2f} ± {spread:.2f}", difference, f"{noisy:.2f}"])
    return _table(["dictionary", "PSNR, dB", f"− {reference} [95 %]", "noisy"], body)


def draw(found: Results, grid: Mapping[str, Any], path: Path) -> None:
    """Error against seconds for each k, and atoms found against noise."""
    figure = Figure(figsize=(10, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for row, colour in zip(grid["rows"], cycle(COLOURS), strict=False):
        points = [
            (found.spread(row, f"patches/seconds, k = {k}").mean, found.spread(row, f"patches/error, k = {k}").mean)
            for k in grid["patches"]["k"]
            if row in found.rows(f"patches/error, k = {k}")
        ]
        if points and row != "random patches":
            left.plot(*zip(*points, strict=True), "o-", color=colour, label=row)
        for (_, error), k in zip(points, grid["patches"]["k"], strict=False):
            if row == "random patches":
                left.axhline(error, color=colour, ls=":", lw=1)
                left.annotate(
                    f"random patches, k = {k}",
                    (1, error),
                    xycoords=("axes fraction", "data"),
                    ha="right",
                    va="bottom",
                    fontsize=7,
                )
        levels = [level for level in grid["planted"]["decibels"] if row in found.rows(f"planted/found, {level} dB")]
        shares = [found.spread(row, f"planted/found, {level} dB") for level in levels]
        if shares:
            means, widths = zip(*shares, strict=True)
            right.errorbar(levels, means, widths, fmt="o-", color=colour, label=row, capsize=2)
    left.set(xscale="log", yscale="log", xlabel="seconds to learn, one core", ylabel="share of squared norm left, test")
    if left.lines:
        left.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    right.axhline(0.95, color="black", lw=0.8, ls=":")
    right.set(xlabel="signal to noise, dB", ylabel="planted atoms found", ylim=(0, 1.03))
    if right.lines:
        right.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130, metadata={"Software": None})


if __name__ == "__main__":
    described = yaml.safe_load((HERE / "grid.yaml").read_text())
    written = publish(HERE / "results.csv", described)
    results_file.write_into(HERE / "README.md", "tables of figure.py", written)
    print(written)
