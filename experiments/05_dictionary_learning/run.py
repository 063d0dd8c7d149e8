"""Run what the results do not have yet, then draw the figures and print the tables.

python experiments/05_dictionary_learning/run.py                                      # goes on where it was stopped
python experiments/05_dictionary_learning/run.py --tasks planted --rows KSVD "KSVD, exact"
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from figure import publish
from measurement import measure_denoising, measure_patches, measure_planted

sys.path.insert(0, str(Path(__file__).parents[1]))
import results_file

HERE = Path(__file__).parent


def setting_name(task: str, setting: Mapping[str, Any]) -> str:
    """What the column `config` says: the task and the settings."""
    return f"{task} {json.dumps(setting)}" if setting else task


def done(lines: Sequence[Mapping[str, str]], row: str, seed: int, config: str) -> bool:
    """Whether the results have this run."""
    return any((line["row"], line["seed"], line["config"]) == (row, str(seed), config) for line in lines)


def chosen(
    lines: Sequence[Mapping[str, str]], row: str, settings: Sequence[Mapping[str, Any]], seed: int, k: int
) -> Mapping[str, Any]:
    """The setting with the least error of held-out training patches at k."""

    def score(setting: Mapping[str, Any]) -> float:
        wanted = (row, str(seed), setting_name("patches", setting), f"patches/error, k = {k}")
        return next(
            float(line["value"])
            for line in lines
            if (line["row"], line["seed"], line["config"], line["metric"]) == wanted
        )

    return min(settings, key=score) if len(settings) > 1 else settings[0]


def measure(task: str, row: str, setting: Mapping[str, Any], grid: Mapping[str, Any], seed: int) -> dict[str, float]:
    """The metrics of one run."""
    match task:
        case "patches":
            return measure_patches(row, setting, grid[task], seed, validation=seed == grid["validation"]["seed"])
        case "planted":
            return measure_planted(row, setting, grid[task], seed)
        case _:
            return measure_denoising(row, setting, grid[task], seed)


def runs(
    task: str, row: str, grid: Mapping[str, Any], results: Path
) -> Iterator[tuple[Mapping[str, Any], int, list[int]]]:
    """Settings, seeds and the k that are kept; those of validation first: the best for each k is known when they are done."""
    settings, seed, every = grid["rows"][row].get(task, []), grid["validation"]["seed"], grid["patches"]["k"]
    if task == "patches" and len(settings) > 1:
        yield from ((setting, seed, every) for setting in settings)
    lines = results_file.read(results)
    for setting in settings:
        kept = [k for k in every if chosen(lines, row, settings, seed, k) == setting] if len(settings) > 1 else every
        if kept:
            yield from ((setting, test_seed, kept) for test_seed in grid["test"]["seeds"])


def run_row(task: str, row: str, grid: Mapping[str, Any], results: Path) -> None:
    """Execute what the results lack, and add each run when it is done."""
    for setting, seed, kept in runs(task, row, grid, results):
        config = setting_name(task, setting)
        if done(results_file.read(results), row, seed, config):
            continue
        start = time.perf_counter()
        metrics = measure(task, row, setting, grid, seed)
        if task == "patches":
            metrics = {name: value for name, value in metrics.items() if int(name.rpartition(" ")[2]) in kept}
        results_file.append(results, results_file.lines(row, seed, metrics, 0, config))
        print(
            f"{time.strftime('%H:%M:%S')} {row}, {config}, seed {seed}: {time.perf_counter() - start:.1f} s", flush=True
        )


def main() -> None:
    """Run, tabulate, draw."""
    parser = argparse.ArgumentParser(description="Which dictionary for k atoms?")
    parser.add_argument("--grid", type=Path, default=HERE / "grid.yaml")
    parser.add_argument("--results", type=Path, default=HERE / "results.csv")
    parser.add_argument("--tasks", nargs="+", default=["patches", "planted", "denoising"])
    parser.add_argument("--rows", nargs="+", help="these rows only; by default all")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=RuntimeWarning)  # the peers' pursuit ends early on equal atoms
    grid = yaml.safe_load(arguments.grid.read_text())
    for task in arguments.tasks:
        for row in grid["rows"]:
            if arguments.rows is None or row in arguments.rows:
                run_row(task, row, grid, arguments.results)
    print(publish(arguments.results, grid))


if __name__ == "__main__":
    main()
