"""Run what the results do not have yet, a row after the other, then draw the figure and print the tables.

python experiments/02_sae/extract.py --folder ACTIVATIONS            # once
sh experiments/02_sae/peers.sh PEERS                                 # once, for the rows of the peers
python experiments/02_sae/run.py --activations ACTIVATIONS --peers PEERS                     # goes on where it was stopped
python experiments/02_sae/run.py --activations ACTIVATIONS --peers PEERS --length headline --rows "nested top-k" "top-k"
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import models
import torch
import yaml
from figure import draw, tables
from measure import measure
from plan import Run, criterion, final_runs, tuning_runs
from train import train

from sparsek.datamodules import ActivationDataModule

sys.path.insert(0, str(Path(__file__).parents[1]))
import results_file

HERE = Path(__file__).parent
TIME_IS_UP = 3  # exit status


def quiet(threads: int) -> None:
    """Say nothing but results, on so many threads."""
    for part in ("pytorch", "fabric"):
        logging.getLogger(f"lightning.{part}").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(threads)


def missing(grid: Mapping[str, Any], row: str, length: str, results: Path, seeds: int | None) -> Iterator[Run]:
    """The runs of a row that the results lack, the final ones (of the first so many seeds) once the settings are known."""
    for plan in (
        lambda: tuning_runs(grid, row, length),
        lambda: islice(final_runs(grid, row, length, results_file.read(results)), seeds),
    ):
        yield from (run for run in plan() if not run.is_in(results_file.read(results)))


def execute(run: Run, grid: Mapping[str, Any], activations: Path, peers: Path, results: Path) -> None:
    """Train, measure, add to the results."""
    start = time.perf_counter()
    data = ActivationDataModule(
        activations / run.part, batch_size=grid["batch_size"], eval_tokens=grid["eval_tokens"], seed=run.seed
    )
    trained = train(run, grid, data, peers, activations)
    metrics = {**measure(trained.autoencoder, data, grid), "step_ms": trained.step_ms}
    models.save(trained.autoencoder, run, activations)
    results_file.append(results, results_file.lines(run.row, run.seed, metrics, run.steps, run.config))
    name = criterion(grid, run.row)
    print(
        f"{time.strftime('%H:%M:%S')} {run.row}, seed {run.seed}, {run.config}: {name} {metrics[f'val/{name}']:.4f} on validation, "
        f"{metrics['step_ms']:.0f} ms a step, {time.perf_counter() - start:.0f} s",
        flush=True,
    )


def main() -> None:
    """Run, tabulate, draw."""
    parser = argparse.ArgumentParser(description="Sparse autoencoders: one dictionary, every k?")
    parser.add_argument("--activations", type=Path, required=True, help="folder that extract.py wrote")
    parser.add_argument(
        "--peers", type=Path, default=Path("peers"), help="folder of the environments that peers.sh made"
    )
    parser.add_argument("--grid", type=Path, default=HERE / "grid.yaml")
    parser.add_argument("--results", type=Path, default=HERE / "results.csv")
    parser.add_argument("--length", default="quick", help="a length of the grid: quick or headline")
    parser.add_argument("--rows", nargs="+", help="these rows only; by default all")
    parser.add_argument("--seeds", type=int, help="seeds of each row; by default all")
    parser.add_argument("--minutes", type=float, help="start no run after so many; the exit status is then 3")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    arguments = parser.parse_args()
    quiet(arguments.threads)
    start = time.perf_counter()
    grid = yaml.safe_load(arguments.grid.read_text())
    unknown = set(arguments.rows or ()) - set(grid["rows"])
    if unknown:
        parser.error(f"rows must be of {arguments.grid.name}, got {', '.join(sorted(unknown))}")
    grid["task"] |= grid["lengths"][arguments.length].get("task", {})
    for row in arguments.rows or grid["rows"]:
        for run in missing(grid, row, arguments.length, arguments.results, arguments.seeds):
            if arguments.minutes is not None and time.perf_counter() - start > 60 * arguments.minutes:
                sys.exit(TIME_IS_UP)
            execute(run, grid, arguments.activations, arguments.peers, arguments.results)
    lines = results_file.read(arguments.results)
    draw(lines, grid, arguments.results.with_suffix(".png"))
    print(tables(lines, grid))


if __name__ == "__main__":
    main()
