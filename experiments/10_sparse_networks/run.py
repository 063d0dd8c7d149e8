"""Run what the results do not have yet, then draw the figure and print the tables.

python experiments/10_sparse_networks/run.py --data …/fashion-mnist             # goes on where it was stopped
python experiments/10_sparse_networks/run.py --data … --tasks mlp --sparsities 0.98 0.99 --minutes 14
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from data import Split, fashion
from figure import publish
from plan import Run, final_runs, tuning_runs
from training import train

sys.path.insert(0, str(Path(__file__).parents[1]))
import results_file

HERE = Path(__file__).parent
DATA = Path("/usr/share/datasets/fashion-mnist")


def runs(
    grid: Mapping[str, Any], task: str, rows: Sequence[str], sparsities: Sequence[float], results: Path
) -> Iterator[Run]:
    """Those of validation first, then seed after seed: rows that are stopped early have equally many."""
    for row in rows:
        yield from tuning_runs(grid, task, row)
    lines = results_file.read(results)
    for sparsity in sparsities:
        of_rows = [final_runs(grid, task, row, lines, sparsity) for row in rows]
        yield from (run for of_seed in zip(*of_rows, strict=True) for run in of_seed)


def execute(run: Run, grid: Mapping[str, Any], data: Split, results: Path) -> None:
    """Train once and add the lines; the test split is not looked at with the seed of validation."""
    described = grid["tasks"][run.task]
    found = train(run.task, run.row, run.setting, described, 1 - run.sparsity, run.seed, data)
    if run.seed == grid["validation"]["seed"]:
        del found["test/accuracy"]
    results_file.append(results, results_file.lines(run.row, run.seed, found, described["steps"], run.config))
    print(f"{time.strftime('%H:%M:%S')} {run.row}, {run.config}, seed {run.seed}: {found}", flush=True)


def main() -> None:
    """Run, tabulate, draw."""
    parser = argparse.ArgumentParser(description="Which network of k weights?")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the four files of Fashion-MNIST")
    parser.add_argument("--grid", type=Path, default=HERE / "grid.yaml")
    parser.add_argument("--results", type=Path, default=HERE / "results.csv")
    parser.add_argument("--tasks", nargs="+", default=["mlp", "conv"])
    parser.add_argument("--sparsities", nargs="+", type=float, help="by default those of the grid")
    parser.add_argument("--rows", nargs="+", help="test these rows only; by default all of the grid")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no run after so many")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    grid, end = yaml.safe_load(arguments.grid.read_text()), time.monotonic() + 60 * arguments.minutes
    data = fashion(arguments.data)
    for task in arguments.tasks:
        for run in runs(
            grid,
            task,
            arguments.rows or list(grid["rows"]),
            arguments.sparsities or grid["sparsities"],
            arguments.results,
        ):
            if time.monotonic() > end:
                return
            if not run.is_in(results_file.read(arguments.results)):
                execute(run, grid, data, arguments.results)
    print(publish(arguments.results, grid))


if __name__ == "__main__":
    main()
