"""Run what the results do not have yet, a row after the other, then draw the figure and print the tables.

python experiments/01_routers/run.py --corpora FOLDER                            # goes on where it was stopped
python experiments/01_routers/run.py --corpora FOLDER --rows "softmax + Switch loss" "sigmoid top-k + dual bias"
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from figure import draw, tables
from lightning.pytorch.callbacks import Timer
from plan import Run, final_runs, tuning_runs

from sparsek.cli import SparsekCLI, run

sys.path.insert(0, str(Path(__file__).parents[1]))
import grid_file
import results_file

HERE = Path(__file__).parent


def sources(grid: Mapping[str, Any], corpora: Path) -> str:
    """The text, as a word of the command line."""
    named = [{**source, "paths": [str(corpora / path) for path in source["paths"]]} for source in grid["text"]]
    return json.dumps([{"class_path": "sparsek.datamodules.Files", "init_args": source} for source in named])


def execute(todo: Run, text: str) -> tuple[dict[str, float], str]:
    """Train and measure; the metrics, and the name of the device."""
    words = [f"--data.init_args.sources={text}", f"--seed_everything={todo.seed}", f"--data.init_args.seed={todo.seed}"]
    with tempfile.TemporaryDirectory() as folder:  # nothing that a run writes is wanted
        cli = run(["fit", "--allow=st_moe", *todo.words(), *words, f"--trainer.default_root_dir={folder}"])
        measure = cli.trainer.validate if todo.split == "val" else cli.trainer.test
        (measured,) = measure(cli.model, datamodule=cli.datamodule, verbose=False)
    name = results_file.device_text(cli.trainer.strategy.root_device)
    if todo.split == "test":
        measured = {name.removeprefix("test/"): value for name, value in measured.items()}
        measured["tokens_per_second"] = speed(cli)
    return measured, name


def speed(cli: SparsekCLI) -> float:
    """Tokens per second of training."""
    (timer,) = (callback for callback in cli.trainer.callbacks if isinstance(callback, Timer))
    tokens = cli.trainer.global_step * cli.datamodule.batch_size * cli.datamodule.length
    return float(tokens / timer.time_elapsed("train"))


def quiet(threads: int = 1) -> None:
    """Say nothing but results, on so many threads."""
    for part in ("pytorch", "fabric"):
        logging.getLogger(f"lightning.{part}").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(threads)


def run_missing(plan: list[Run], text: str, results: Path, wait: Path | None) -> None:
    """Execute the runs that the results lack, and add each when it is done."""
    for todo in plan:
        if todo.is_in(results_file.read(results)):
            continue
        while wait is not None and wait.exists():
            time.sleep(1)
        start = time.perf_counter()
        metrics, device = execute(todo, text)
        results_file.append(results, results_file.lines(todo.row, todo.seed, metrics, todo.steps, todo.config, device))
        bits = metrics["val/bits_per_byte" if todo.split == "val" else "bits_per_byte"]
        print(
            f"{time.strftime('%H:%M:%S')} {todo.row}, {todo.split}, seed {todo.seed}: {bits:.4f} bits/byte "
            f"in {time.perf_counter() - start:.0f} s, {todo.setting}",
            flush=True,
        )


def main() -> None:
    """Run, tabulate, draw."""
    parser = argparse.ArgumentParser(description="Which router, at equal steps and equal active FLOPs?")
    parser.add_argument("--corpora", type=Path, required=True, help="folder with the text that grid.yaml names")
    parser.add_argument("--grid", type=Path, default=HERE / "grid.yaml")
    parser.add_argument("--results", type=Path, default=HERE / "results.csv")
    grid_file.add_argument(parser)
    parser.add_argument("--rows", nargs="+", help="these rows only; by default all")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--wait-while", type=Path, help="start no run while this file is there")
    arguments = parser.parse_args()
    sys.argv = sys.argv[:1]  # LightningCLI is given its words; it must not read ours
    quiet(arguments.threads)
    grid = grid_file.read(arguments.grid, arguments.set)
    text = sources(grid, arguments.corpora)
    rows = arguments.rows or list(grid["rows"])
    for row in rows:
        run_missing(list(tuning_runs(grid, row)), text, arguments.results, arguments.wait_while)
        lines = results_file.read(arguments.results)
        run_missing(list(final_runs(grid, row, lines, matched=False)), text, arguments.results, arguments.wait_while)
    for row in rows:
        lines = results_file.read(arguments.results)
        run_missing(list(final_runs(grid, row, lines, matched=True)), text, arguments.results, arguments.wait_while)
    lines = results_file.read(arguments.results)
    draw(lines, grid, arguments.results.with_suffix(".png"))
    print(tables(lines, grid))


if __name__ == "__main__":
    main()
