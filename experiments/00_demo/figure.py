"""The table and the figure of this experiment from its results and the records of its runs.

python experiments/00_demo/figure.py experiments/00_demo/results.csv      # prints the table
"""

from __future__ import annotations

import csv
import statistics
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from sparsek.callbacks import RoutingRecord, routing_figure

COLUMNS = {
    "bits_per_byte": "bits/byte (test)",
    "max_vio": "MaxVio",
    "load_cv": "load CV",
    "utilisation": "utilisation",
    "unrouted": "unrouted",
    "seconds": "seconds",
}

Results = dict[str, dict[str, list[float]]]


def read_results(path: Path) -> Results:
    """Values by row and metric, one per seed."""
    results: Results = defaultdict(lambda: defaultdict(list))
    with path.open(newline="") as file:
        for line in csv.DictReader(file):
            results[line["row"]][line["metric"]].append(float(line["value"]))
    return results


def table(results: Results) -> str:
    """Markdown: mean over seeds, ± standard deviation where there are several."""
    lines = ["| router | seeds | " + " | ".join(COLUMNS.values()) + " |", "|---" * (len(COLUMNS) + 2) + "|"]
    for row, metrics in results.items():
        cells = [_cell(metrics[metric], 0 if metric == "seconds" else 3) for metric in COLUMNS]
        lines.append(f"| {row} | {len(metrics['bits_per_byte'])} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(values: list[float], digits: int) -> str:
    mean = f"{statistics.fmean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def draw(folders: Mapping[str, Path], path: Path) -> Path:
    """Draw the runs that left their records in these folders."""
    routing_figure({name: RoutingRecord.read(folder) for name, folder in folders.items()}).savefig(path, dpi=120)
    return path


if __name__ == "__main__":
    print(table(read_results(Path(sys.argv[1]))))
