"""Tables and figure of this experiment from its results alone.

python experiments/06_nearest_neighbours/figure.py     # prints the tables, puts them into README.md, draws results.png
"""

from __future__ import annotations

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


def publish(results: Path, grid: Mapping[str, Any]) -> str:
    """Draw the figure beside the results; return the tables."""
    found = Results(results_file.read(results), grid)
    draw(found, grid, results.with_suffix(".png"))
    return tables(found, grid)


def tables(found: Results, grid: Mapping[str, Any]) -> str:
    """Markdown: a table for each size, and the seconds."""
    parts = [
        f"{dim} dimensions, test error in percent (mean ± standard deviation over seeds), and its difference from that of "
        f"{grid['reference']} with a 95 % interval, paired by seed:\n\n{_errors(found, grid, dim)}"
        for dim in sorted(grid["dims"])
    ]
    return "\n\n".join([*parts, f"Seconds of learning, median:\n\n{_seconds(found, grid)}"])


def _table(head: list[str], body: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *body])


def _name(found: Results, row: str, table: str, dim: int, metric: str) -> str:
    """A row without an embedding has one result for all sizes."""
    raw = f"{table}/{metric}"
    return raw if found.values(row, raw) else f"{table}, {dim}/{metric}"


def _errors(found: Results, grid: Mapping[str, Any], dim: int) -> str:
    body = []
    for row in grid["rows"]:
        cells = [row]
        for table in grid["tables"]:
            name = _name(found, row, table, dim, "error")
            spread, other = found.spread(row, name), f"{table}, {dim}/error"
            cells.append(f"{100 * spread.mean:.2f} ± {100 * spread.width:.2f}" if found.values(row, name) else "–")
            alone = row == grid["reference"] or not (found.values(row, name) and found.values(grid["reference"], other))
            paired = found.paired(row, name, grid["reference"], other)
            cells.append("–" if alone else f"{100 * paired.mean:+.2f} ± {100 * paired.width:.2f}")
        body.append(cells)
    head = [cell for table in grid["tables"] for cell in (table, f"− {grid['reference']}")]
    return _table(["metric of", *head], body)


def _seconds(found: Results, grid: Mapping[str, Any]) -> str:
    dims = sorted(grid["dims"])
    body = []
    for row, described in grid["rows"].items():
        if not described.get("raw", False):
            names = [f"{table}, {dim}/seconds" for table in grid["tables"] for dim in dims]
            body.append(
                [row, *(f"{found.median(row, name):.1f}" if found.values(row, name) else "–" for name in names)]
            )
    return _table(["metric of", *(f"{table}, {dim}" for table in grid["tables"] for dim in dims)], body)


def draw(found: Results, grid: Mapping[str, Any], path: Path) -> None:
    """Error against the size of the embedding, one panel a table."""
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    panels = figure.subplots(1, len(grid["tables"]), squeeze=False)[0]
    dims = sorted(grid["dims"])
    for axes, table in zip(panels, grid["tables"], strict=True):
        for place, row in enumerate(grid["rows"]):
            points = [(dim, _name(found, row, table, dim, "error")) for dim in dims]
            shown = [(dim, found.spread(row, name)) for dim, name in points if found.values(row, name)]
            if shown:
                sizes, means, widths = zip(*((d, 100 * s.mean, 100 * s.width) for d, s in shown), strict=True)
                style = "--" if place < 3 else "-"
                axes.errorbar(sizes, means, widths, fmt=f"o{style}", ms=4, color=f"C{place}", capsize=2, label=row)
        axes.set(xscale="log", yscale="log", title=table, xlabel="dimensions", xticks=dims, xticklabels=dims)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("test error, percent")
    panels[-1].legend(fontsize=7)
    figure.savefig(path, dpi=120, metadata={"Software": None})


if __name__ == "__main__":
    described = yaml.safe_load((HERE / "grid.yaml").read_text())
    written = publish(HERE / "results.csv", described)
    results_file.write_into(HERE / "README.md", "tables of figure.py", written)
    print(written)
