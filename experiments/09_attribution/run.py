"""Run what the results do not have yet, then draw the figure and print the tables.

python experiments/09_attribution/run.py                                       # goes on where it was stopped
python experiments/09_attribution/run.py --problems "language model"           # one of them
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import math
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from figure import publish
from models import load
from rankings import curve, scores

sys.path.insert(0, str(Path(__file__).parents[1]))
import results_file

HERE = Path(__file__).parent
PROBLEMS = ("language model", "language model, zeros", "sentence encoder")


def settings(described: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """All combinations of a row's values."""
    return [dict(zip(described, values, strict=True)) for values in itertools.product(*described.values())]


def config(problem: str, setting: Mapping[str, Any]) -> str:
    """What the column `config` says."""
    return f"{problem} {json.dumps(setting, ensure_ascii=False)}"


def done(lines: Sequence[Mapping[str, str]], row: str, seed: int, name: str) -> bool:
    """Whether the results have this run."""
    return any((line["row"], line["seed"], line["config"]) == (row, str(seed), name) for line in lines)


def chosen(lines: Sequence[Mapping[str, str]], row: str, grid: Mapping[str, Any]) -> dict[str, Any]:
    """The setting with the least mean loss over budgets on validation text."""
    problem, seed = grid["validation"]["problem"], str(grid["validation"]["seed"])

    def score(setting: dict[str, Any]) -> float:
        key = (row, seed, config(problem, setting))
        losses = [float(line["value"]) for line in lines if (line["row"], line["seed"], line["config"]) == key]
        return sum(losses) if losses else math.inf

    tried = settings(grid["rows"][row])
    if len(tried) > 1 and not all(math.isfinite(score(setting)) for setting in tried):
        raise ValueError(f"the settings of {row!r} must be measured first: run the problem {problem!r}")
    return min(tried, key=score)


def runs(problem: str, grid: Mapping[str, Any], results: Path) -> Iterator[tuple[str, dict[str, Any], int]]:
    """Row, setting and seed: validation first where it is done, then the seeds of the test."""
    rows = grid[problem].get("rows", grid["rows"])
    if problem == grid["validation"]["problem"]:
        for row in rows:
            tried = settings(grid["rows"][row])
            yield from ((row, setting, grid["validation"]["seed"]) for setting in tried if len(tried) > 1)
    for seed, row in itertools.product(grid["test"]["seeds"], rows):
        yield row, chosen(results_file.read(results), row, grid), seed


def run_problem(name: str, grid: Mapping[str, Any], results: Path, end: float) -> None:
    """Execute what the results lack, and add each run when it is done; begin none after the end."""
    loaded: dict[int, Any] = {}
    for row, setting, seed in runs(name, grid, results):
        if done(results_file.read(results), row, seed, config(name, setting)):
            continue
        start = time.perf_counter()
        if start > end:
            return
        problem = loaded[seed] if seed in loaded else load(name, grid[name], seed)
        loaded = {seed: problem}
        validates = seed == grid["validation"]["seed"]
        values = scores(row, setting, problem, seed)
        metrics = curve(values, problem, grid["shares"], problem.validation if validates else problem.test)
        results_file.append(results, results_file.lines(row, seed, metrics, grid[name]["steps"], config(name, setting)))
        taken = time.perf_counter() - start
        print(f"{time.strftime('%H:%M:%S')} {row}, {config(name, setting)}, seed {seed}: {taken:.0f} s", flush=True)


def main() -> None:
    """Run, tabulate, draw."""
    parser = argparse.ArgumentParser(description="Which internal units does a model need?")
    parser.add_argument("--grid", type=Path, default=HERE / "grid.yaml")
    parser.add_argument("--results", type=Path, default=HERE / "results.csv")
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS))
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no run after so many minutes")
    arguments = parser.parse_args()
    end = time.perf_counter() + 60 * arguments.minutes
    sys.argv = sys.argv[:1]  # LightningCLI is given its words; it must not read ours
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*deprecated")
    for message in (".*does not have many workers", ".*no `val_dataloader`", ".*in eval mode at the start"):
        warnings.filterwarnings("ignore", message=message)
    torch.set_num_threads(1)
    grid = yaml.safe_load(arguments.grid.read_text())
    for name in arguments.problems:
        run_problem(name, grid, arguments.results, end)
    print(publish(arguments.results, grid))


if __name__ == "__main__":
    main()
