"""Run what the results do not have yet, then draw the figure and print the tables.

PYTHONPATH=packages python experiments/06_nearest_neighbours/run.py --data.root data     # goes on where it was stopped
python experiments/06_nearest_neighbours/run.py --tables digits --rows NCA "sigmoid top-k, linear"
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from data import load
from figure import publish
from measurement import measure
from plan import runs

sys.path.insert(0, str(Path(__file__).parents[1]))
import results_file

HERE = Path(__file__).parent


def quiet() -> None:
    """One thread, and nothing said but results."""
    for part in ("pytorch", "fabric"):
        logging.getLogger(f"lightning.{part}").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)


def run_row(grid: Mapping[str, Any], table: str, dim: int, row: str, results: Path, root: str | None) -> None:
    """Tuned, then tested; each run is added when it is done."""
    while missing := list(runs(grid, table, dim, row, results_file.read(results))):
        for run in missing:
            start = time.perf_counter()
            split = load(grid["tables"][table], grid["fractions"], root, run.seed)
            metrics = measure(run, split, grid)
            results_file.append(results, results_file.lines(row, run.seed, metrics, 0, run.config))
            first = next(iter(metrics.values()))
            took = time.perf_counter() - start
            print(
                f"{time.strftime('%H:%M:%S')} {row}, {run.config}, seed {run.seed}: {first:.4f} in {took:.1f} s",
                flush=True,
            )


def main() -> None:
    """Run, tabulate, draw."""
    parser = argparse.ArgumentParser(description="Which metric for nearest neighbours?")
    parser.add_argument("--grid", type=Path, default=HERE / "grid.yaml")
    parser.add_argument("--results", type=Path, default=HERE / "results.csv")
    parser.add_argument("--data.root", dest="root", help="folder that holds isolet.mat")
    parser.add_argument("--tables", nargs="+", help="these tables only; by default all")
    parser.add_argument("--dims", nargs="+", type=int, help="these sizes only; by default all")
    parser.add_argument("--rows", nargs="+", help="these rows only; by default all")
    arguments = parser.parse_args()
    quiet()
    grid = yaml.safe_load(arguments.grid.read_text())
    for dim in arguments.dims or [0, *grid["dims"]]:
        for table in arguments.tables or grid["tables"]:
            for row in arguments.rows or grid["rows"]:
                run_row(grid, table, dim, row, arguments.results, arguments.root)
    print(publish(arguments.results, grid))


if __name__ == "__main__":
    main()
