"""The tables and the figure of this experiment from its results alone.

python experiments/03_feature_selection/figure.py        # prints the tables, draws results.png, puts the tables into README.md
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from comparison import ACCURACIES, Measured, best_gate, measured, paired
from matplotlib.figure import Figure
from plan import Grid, Line, pairs

sys.path.insert(0, str(Path(__file__).parents[1]))
import results_file

HERE = Path(__file__).parent
Rows = Mapping[tuple[str, str], Measured]
HEAD = {
    "accuracy_extratrees": "ExtraTrees",
    "accuracy_mlp": "MLP",
    "recall": "recall",
    "rank": "rank",
    "stability": "stability",
    "selected": "columns",
    "open": "open gates",
    "seconds": "seconds",
}
DIGITS = {"accuracy_extratrees": 1, "accuracy_mlp": 1, "rank": 1, "selected": 1, "open": 0, "seconds": 2}


def tables(lines: Sequence[Line], grid: Grid) -> str:
    """Markdown: one table for each data set, best mean accuracy first; then what is not finished."""
    rows = measured(lines, grid)
    parts = []
    for table, described in grid["tables"].items():
        here = [row for row in rows.values() if row.table == table]
        if here:
            unlike = {"stability"} if described.get("drawn") else set()  # another table for each seed
            parts += [f"**{table}**, k = {described['k']}:", _table(here, best_gate(rows, grid, table), unlike)]
    return "\n\n".join([*parts, *_waiting(rows, grid)])


def _waiting(rows: Rows, grid: Grid) -> list[str]:
    """What has not been run, by method; nothing if all of it has."""
    missing: dict[str, list[str]] = {}
    for table, method in pairs(grid):
        if (table, method) not in rows:
            missing.setdefault(method, []).append(table)
    named = (f"{method} ({', '.join(found)})" for method, found in missing.items())
    return [f"Not run with all seeds: {'; '.join(named)}."] if missing else []


def _table(rows: Sequence[Measured], peer: Measured | None, left_out: Collection[str]) -> str:
    metrics = [metric for metric in HEAD if metric not in left_out and any(metric in row.values for row in rows)]
    against = [f"− {peer.method} [95 %]"] if peer else []
    head = ["method", "setting", *(HEAD[metric] for metric in metrics[:2]), *against, *(HEAD[m] for m in metrics[2:])]
    out = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in sorted(rows, key=lambda row: -statistics.fmean(row.accuracy().values())):
        cells = [_cell(row, metric) for metric in metrics]
        difference = [_difference(row, peer)] if peer else []
        out.append("| " + " | ".join([row.method, row.setting or "–", *cells[:2], *difference, *cells[2:]]) + " |")
    return "\n".join(out)


def _cell(row: Measured, metric: str) -> str:
    if metric not in row.values:
        return "–"
    digits, scale = DIGITS.get(metric, 2), 100 if metric in ACCURACIES else 1
    mean, spread = f"{scale * row.mean(metric):.{digits}f}", f"{scale * row.spread(metric):.{digits}f}"
    return mean if metric == "stability" else f"{mean} ± {spread}"


def _difference(row: Measured, peer: Measured) -> str:
    """Mean of both accuracies, less that of the peer."""
    if row is peer:
        return "–"
    mean, half = paired(row.accuracy(), peer.accuracy())
    return f"{100 * mean:+.1f} [{100 * (mean - half):+.1f}, {100 * (mean + half):+.1f}]"


def draw(lines: Sequence[Line], grid: Grid, path: Path) -> None:
    """Accuracy of every method on every data set without known columns and on madelon; recall where columns are known."""
    rows = measured(lines, grid)
    measured_tables = [name for name, each in grid["tables"].items() if not (each.get("drawn") or each.get("resplit"))]
    known = [
        name for name in grid["tables"] if any("recall" in row.values for key, row in rows.items() if key[0] == name)
    ]
    methods = [method for method in grid["methods"] if any(key[1] == method for key in rows)]
    figure = Figure(figsize=(15, 2.5 + 0.5 * len(methods)), layout="constrained")
    axes = figure.subplots(2, 4).ravel()
    for place, (table, panel) in enumerate(zip(measured_tables, axes, strict=False)):
        _accuracies(panel, rows, table, methods, labels=place % 4 == 0, k=grid["tables"][table]["k"])
    panels = iter(axes[len(measured_tables) :])
    _matrix(next(panels), rows, methods, known, "recall", "recall of the known columns")
    _matrix(next(panels), rows, methods, measured_tables, "stability", "stability (mean Jaccard)")
    figure.savefig(path, dpi=90, metadata={"Software": None})


def _accuracies(panel: Any, rows: Rows, table: str, methods: Sequence[str], labels: bool, k: int) -> None:
    for place, method in enumerate(methods):
        row = rows.get((table, method))
        for metric, colour, shift in zip(ACCURACIES, ("C0", "C1"), (-0.12, 0.12), strict=True):
            if row is not None:
                panel.errorbar(
                    row.mean(metric), place + shift, xerr=row.spread(metric), fmt="o", ms=4, lw=1, color=colour
                )
    panel.set_yticks(range(len(methods)), methods if labels else [""] * len(methods))
    panel.set_ylim(len(methods) - 0.5, -0.5)
    panel.set_title(f"{table}, k = {k}")
    panel.set_xlabel("test: trees (blue), MLP (orange)", fontsize=8)
    panel.grid(axis="y", color="0.9")


def _matrix(panel: Any, rows: Rows, methods: Sequence[str], names: Sequence[str], metric: str, title: str) -> None:
    for down, method in enumerate(methods):
        for across, table in enumerate(names):
            row = rows.get((table, method))
            if row is not None and metric in row.values:
                value = row.mean(metric)
                panel.scatter(across, down, s=260, marker="s", c=[[1 - 0.6 * value, 1 - 0.3 * value, 1.0]])
                panel.text(across, down, f"{value:.2f}", ha="center", va="center", fontsize=7)
    panel.set_xticks(range(len(names)), names, rotation=40, fontsize=8)
    panel.set_yticks(range(len(methods)), methods, fontsize=7)
    panel.set_xlim(-0.5, len(names) - 0.5)
    panel.set_ylim(len(methods) - 0.5, -0.5)
    panel.set_title(title)


if __name__ == "__main__":
    results, described = results_file.read(HERE / "results.csv"), yaml.safe_load((HERE / "grid.yaml").read_text())
    draw(results, described, HERE / "results.png")
    written = tables(results, described)
    results_file.write_into(HERE / "README.md", "tables of figure.py", written)
    print(written)
