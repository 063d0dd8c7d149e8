"""The tables and the figure of this experiment from its results alone.

python experiments/01_routers/figure.py            # prints the tables, draws results.png, puts both tables into README.md
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from comparison import Interval, Tested, measured_rows, paired
from matplotlib.figure import Figure
from plan import Line

sys.path.insert(0, str(Path(__file__).parents[1]))
import results_file

HERE = Path(__file__).parent
HEAD = ("router", "setting", "seeds", "bits/byte", "− softmax + Switch [95 %]", "MaxVio", "load CV", "utilisation")
MAX_VIO_TICKS = (0, 0.05, 0.1, 0.2, 0.5, 1)
DIGITS = {"bits_per_byte": 3, "max_vio": 3, "load_cv": 3, "utilisation": 3, "unrouted": 3, "tokens_per_second": 0}


def tables(lines: Sequence[Line], grid: Mapping[str, Any]) -> str:
    """Markdown: every row at its best, at matched MaxVio, and temperature × balancer."""
    best, even = measured_rows(lines, grid), measured_rows(lines, grid, matched=True)
    parts = ["Each row at its best on validation:", _table(best, grid["reference"])]
    parts += [
        f"Each row at its best among the settings with MaxVio ≤ {grid['max_vio']} on validation "
        "(a row that is not here had none, or was not run with it):",
        _table(even, grid["reference"]),
    ]
    parts += ["Gate × balancer, bits/byte (MaxVio), each at its best:", _square(best, grid["square"])]
    waiting = [row for row in grid["rows"] if row not in best]
    return "\n\n".join([*parts, *([f"Not run yet: {'; '.join(waiting)}."] if waiting else [])])


def _table(rows: Mapping[str, Tested], reference: str) -> str:
    """One line per row, fewest bits first."""
    head = [*HEAD, "unrouted", "tokens/s"]
    out = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for tested in sorted(rows.values(), key=lambda tested: tested.mean("bits_per_byte")):
        difference = (
            "–" if tested.row == reference or reference not in rows else _interval(paired(tested, rows[reference]))
        )
        cells = [_cell(tested, metric) for metric in DIGITS]
        seeds = str(len(tested.values["bits_per_byte"]))
        out.append("| " + " | ".join([tested.row, tested.setting, seeds, cells[0], difference, *cells[1:]]) + " |")
    return "\n".join(out)


def _cell(tested: Tested, metric: str) -> str:
    digits = DIGITS[metric]
    return f"{tested.mean(metric):.{digits}f} ± {tested.spread(metric):.{digits}f}"


def _interval(value: Interval) -> str:
    if math.isinf(value.half):
        return f"{value.mean:+.3f}"
    return f"{value.mean:+.3f} [{value.mean - value.half:+.3f}, {value.mean + value.half:+.3f}]"


def _square(rows: Mapping[str, Tested], square: Mapping[str, Mapping[str, str]]) -> str:
    """Gates down, balancers across."""
    balancers = list(next(iter(square.values())))
    out = ["| gate | " + " | ".join(balancers) + " |", "|---" * (len(balancers) + 1) + "|"]
    for gate, by_balancer in square.items():
        cells = [
            f"{rows[row].mean('bits_per_byte'):.3f} ({rows[row].mean('max_vio'):.3f})" if row in rows else "–"
            for row in (by_balancer[balancer] for balancer in balancers)
        ]
        out.append(f"| {gate} | " + " | ".join(cells) + " |")
    return "\n".join(out)


def draw(lines: Sequence[Line], grid: Mapping[str, Any], path: Path) -> None:
    """Differences to the reference with intervals, and bits against MaxVio, the rows numbered from the fewest bits on."""
    best = measured_rows(lines, grid)
    rows = sorted(best.values(), key=lambda tested: tested.mean("bits_per_byte"))
    figure = Figure(figsize=(12, 1.5 + 0.25 * len(rows)), layout="constrained")
    left, right = figure.subplots(1, 2)
    if grid["reference"] in best:
        _forest(left, rows, best[grid["reference"]])
    for number, tested in enumerate(rows, start=1):
        place = (tested.mean("max_vio"), tested.mean("bits_per_byte"))
        right.errorbar(*place, yerr=tested.spread("bits_per_byte"), fmt="o", ms=3, lw=0.8, color="C0")
        right.annotate(str(number), place, xytext=(4, 2), textcoords="offset points", fontsize=8)
    right.axvline(grid["max_vio"], color="0.8", zorder=0)
    right.set_xscale("symlog", linthresh=0.1)
    right.set_xticks(MAX_VIO_TICKS, [f"{tick:g}" for tick in MAX_VIO_TICKS])
    right.set_xlabel("MaxVio (test)")
    right.set_ylabel("bits per byte (test), ± standard deviation")
    figure.savefig(path, dpi=120, metadata={"Software": None})


def _forest(axes: Any, rows: Sequence[Tested], reference: Tested) -> None:
    for place, tested in enumerate(rows):
        mean, half = paired(tested, reference)
        axes.errorbar(mean, place, xerr=half if math.isfinite(half) else 0, fmt="o", ms=4, color="C0", capsize=2)
    axes.axvline(0, color="0.6", zorder=0)
    axes.axvline(-0.02, color="0.8", ls="--", zorder=0)
    axes.set_yticks(range(len(rows)), [f"{tested.row}  {number}" for number, tested in enumerate(rows, start=1)])
    axes.invert_yaxis()
    axes.set_xlabel(f"bits per byte − {reference.row} (paired by seed, 95 %)")


if __name__ == "__main__":
    results, described = results_file.read(HERE / "results.csv"), yaml.safe_load((HERE / "grid.yaml").read_text())
    draw(results, described, HERE / "results.png")
    written = tables(results, described)
    results_file.write_into(HERE / "README.md", "tables of figure.py", written)
    print(written)
