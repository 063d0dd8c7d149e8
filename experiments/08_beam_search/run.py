"""Run what the results do not have yet, then draw the figure and print the tables.

python experiments/08_beam_search/run.py                       # goes on where it was stopped
python experiments/08_beam_search/run.py --problems exact      # needs no model
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import problems
import torch
import yaml
from figure import publish
from methods import measure

sys.path.insert(0, str(Path(__file__).parents[1]))
import results_file

HERE = Path(__file__).parent


def setting(name: str, temperature: float, k: int) -> str:
    """What the column `config` says."""
    return f"{name}, T = {temperature:g}, k = {k}"


def done(lines: Sequence[Mapping[str, str]], seed: int, config: str) -> bool:
    """Whether the results have this setting with this seed."""
    return any((line["seed"], line["config"]) == (str(seed), config) for line in lines)


def run_problem(name: str, grid: Mapping[str, Any], results: Path) -> None:
    """Execute what the results lack; all rows of a setting are added together, since they share its truth."""
    described = grid[name]
    rows = [row for row, where in grid["rows"].items() if name in where]
    for seed in (grid["validation"]["seed"], *grid["test"]["seeds"]):
        problem = None
        for temperature, k in itertools.product(described["temperatures"], described["k"]):
            config = setting(name, temperature, k)
            if done(results_file.read(results), seed, config):
                continue
            problem = problem or (problems.table if name == "exact" else problems.text)(described, seed)
            start = time.perf_counter()
            errors = measure(rows, problem, described, temperature, k, seed, listed=name == "exact")
            for row, metrics in errors.items():
                results_file.append(results, results_file.lines(row, seed, metrics, 0, config))
            print(f"{time.strftime('%H:%M:%S')} {config}, seed {seed}: {time.perf_counter() - start:.1f} s", flush=True)


def main() -> None:
    """Run, tabulate, draw."""
    parser = argparse.ArgumentParser(description="How much do k different sequences say?")
    parser.add_argument("--grid", type=Path, default=HERE / "grid.yaml")
    parser.add_argument("--results", type=Path, default=HERE / "results.csv")
    parser.add_argument("--problems", nargs="+", default=["exact", "text"])
    arguments = parser.parse_args()
    sys.argv = sys.argv[:1]  # LightningCLI is given its words; it must not read ours
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*deprecated")
    grid = yaml.safe_load(arguments.grid.read_text())
    for name in arguments.problems:
        run_problem(name, grid, arguments.results)
    print(publish(arguments.results, grid))


if __name__ == "__main__":
    main()
