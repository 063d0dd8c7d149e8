"""The tables and the figure of this experiment from its results alone.

python experiments/02_sae/figure.py            # prints the tables, draws results.png, puts the tables into README.md
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from comparison import Interval, Tested, paired, tested_rows
from matplotlib.figure import Figure
from plan import Line

sys.path.insert(0, str(Path(__file__).parents[1]))
import results_file

HERE = Path(__file__).parent
TITLES = {
    "quick": "400 steps of 512 tokens",
    "offset": "400 steps of 512 tokens with a mean offset",
    "headline": "4,000 steps of 512 tokens",
    "wide": "24,576 latents, 400 steps",
    "causal": "layer 15 of SmolLM2, 400 steps",
}


def tables(lines: Sequence[Line], grid: Mapping[str, Any]) -> str:
    """Markdown, for each length: the rows with differences to the reference, and FVU against k."""
    parts = []
    for length, plan in grid["lengths"].items():
        rows = tested_rows(lines, grid, length)
        if rows:
            parts += [f"**{length}**: {plan['steps']:,} steps.", _differences(rows, grid), _by_k(rows, grid)]
            refined = {row: read for row, tested in rows.items() if (read := tested.read_refined())}
            parts += [_by_k(refined, grid, "FVU after a step of refinement at k =")] if refined else []
            parts += [single] if (single := _against_single(rows, grid)) else []
            waiting = [row for row in grid["rows"] if row not in rows]
            parts += [f"Not run at this length yet: {'; '.join(waiting)}."] if waiting else []
    return "\n\n".join(parts)


def _differences(rows: Mapping[str, Tested], grid: Mapping[str, Any]) -> str:
    """One line per row, the least geometric mean first."""
    k, l0, reference = f"fvu_k{grid['k']}", f"fvu_threshold_l0_{grid['threshold_l0']}", grid["reference"]
    head = ["row", "setting", "seeds", f"FVU at k = {grid['k']}", f"− {reference} [95 %]", f"FVU at threshold, L0 {grid['threshold_l0']}",
            f"− {reference} [95 %]", "L0 on test", "geometric mean over k", "dead, %", "ms a step"]  # fmt: skip
    out = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in ordered(rows):
        tested = rows[row]
        cells = [
            row,
            _setting(tested),
            str(len(tested.values)),
            _cell(tested, k, 4),
            _difference(rows, row, reference, k),
        ]
        cells += [_cell(tested, l0, 4), _difference(rows, row, reference, l0), _cell(tested, "l0_threshold", 2)]
        cells += [_cell(tested, "gmean", 4), f"{100 * tested.mean('dead'):.2f}", f"{tested.mean('step_ms'):.0f}"]
        out.append("| " + " | ".join(cells) + " |")
    return "\n".join(out)


def _by_k(rows: Mapping[str, Tested], grid: Mapping[str, Any], title: str = "FVU at k =") -> str:
    """FVU at each k, mean over seeds."""
    out = [f"| {title} | " + " | ".join(map(str, grid["levels"])) + " |", "|---" * (len(grid["levels"]) + 1) + "|"]
    for row in ordered(rows):
        cells = [f"{rows[row].mean(f'fvu_k{level}'):.4f}" for level in grid["levels"]]
        out.append("| " + " | ".join([row, *cells]) + " |")
    return "\n".join(out)


def _against_single(rows: Mapping[str, Tested], grid: Mapping[str, Any]) -> str:
    """By how much rows that train at several k differ from the row that trains at each k alone, as both are read and refined."""
    single = {k: rows[row] for k, row in grid["single"].items() if row in rows}
    if len(single) < 2:
        return ""
    out = ["| against the row trained at k alone, % at k = | " + " | ".join(map(str, single)) + " |"]
    out.append("|---" * (len(single) + 1) + "|")
    for row in (row for row in ordered(rows) if row in grid["several"]):
        refined = rows[row].read_refined()
        out.append(_percents(row, rows[row], single))
        if refined and all(one.read_refined() for one in single.values()):
            out.append(
                _percents(f"{row}; both refined", refined, {k: replace(one, refined=True) for k, one in single.items()})
            )
    return "\n".join(out)


def _percents(name: str, tested: Tested, single: Mapping[int, Tested]) -> str:
    cells = [f"{100 * (tested.mean(f'fvu_k{k}') / one.mean(f'fvu_k{k}') - 1):+.1f}" for k, one in single.items()]
    return "| " + " | ".join([name, *cells]) + " |"


def ordered(rows: Mapping[str, Tested]) -> list[str]:
    """Rows by their geometric mean; one that is not a number last."""
    return sorted(rows, key=lambda row: (math.isnan(rows[row].mean("gmean")), rows[row].mean("gmean")))


def _setting(tested: Tested) -> str:
    own = "" if tested.run.coefficient is None else f", coefficient {tested.run.coefficient:g}"
    return f"lr {tested.run.learning_rate:g}{own}"


def _cell(tested: Tested, metric: str, digits: int) -> str:
    spread = f" ± {tested.spread(metric):.{digits}f}" if len(tested.values) > 1 else ""
    return f"{tested.mean(metric):.{digits}f}{spread}"


def _difference(rows: Mapping[str, Tested], row: str, reference: str, metric: str) -> str:
    return "–" if row == reference or reference not in rows else _interval(paired(rows[row], rows[reference], metric))


def _interval(value: Interval) -> str:
    if math.isinf(value.half):
        return f"{value.mean:+.4f}"
    return f"{value.mean:+.4f} [{value.mean - value.half:+.4f}, {value.mean + value.half:+.4f}]"


def draw(lines: Sequence[Line], grid: Mapping[str, Any], path: Path) -> None:
    """FVU against k, each row over the best at that k; and every seed at k and at the threshold."""
    found = {length: rows for length in grid["lengths"] if (rows := tested_rows(lines, grid, length))}
    figure = Figure(figsize=(13, 5.5 * max(len(found), 1)), layout="constrained")
    for place, (length, rows) in enumerate(found.items()):
        left, right = figure.add_subplot(len(found), 2, 2 * place + 1), figure.add_subplot(len(found), 2, 2 * place + 2)
        _ratios(left, rows, grid)
        left.set_title(f"{length}: {TITLES.get(length, length)}")
        _points(right, rows, grid)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _ratios(axes: Any, rows: Mapping[str, Tested], grid: Mapping[str, Any]) -> None:
    levels = grid["levels"]
    best = {level: min(tested.mean(f"fvu_k{level}") for tested in rows.values()) for level in levels}
    for number, row in enumerate(ordered(rows)):
        ratio = [rows[row].mean(f"fvu_k{level}") / best[level] for level in levels]
        axes.plot(levels, ratio, label=row, marker=".", lw=1, color=f"C{number % 10}", ls=("-", "--")[number // 10 % 2])
    axes.set_xscale("log", base=2)
    axes.set_xticks(levels, map(str, levels))
    axes.set_ylim(0.97, 2)
    axes.set_xlabel("k at reading")
    axes.set_ylabel("FVU over the least FVU at this k")
    axes.legend(fontsize=7)


def _points(axes: Any, rows: Mapping[str, Tested], grid: Mapping[str, Any]) -> None:
    """Every seed of every row, read at k and at the threshold."""
    k, l0 = f"fvu_k{grid['k']}", f"fvu_threshold_l0_{grid['threshold_l0']}"
    names = ordered(rows)
    for place, row in enumerate(names):
        for metric, marker, color in ((k, "o", "C0"), (l0, "x", "C1")):
            values = list(rows[row].of(metric).values())
            axes.plot(values, [place] * len(values), marker, ms=5, color=color, label=metric if place == 0 else None)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.invert_yaxis()
    axes.grid(axis="y", color="0.9")
    axes.set_xlabel("FVU")
    axes.legend(fontsize=8)


if __name__ == "__main__":
    results, described = results_file.read(HERE / "results.csv"), yaml.safe_load((HERE / "grid.yaml").read_text())
    draw(results, described, HERE / "results.png")
    written = tables(results, described)
    results_file.write_into(HERE / "README.md", "tables of figure.py", written)
    print(written)
