"""Train by the command line and time it: `python benchmarks/training.py NAME --device cuda -- -c configs/moe/text.yaml …`.

What follows `--` is what `sparsek fit` is given. The results file "training_NAME" has a line for each number: steps, seconds and rows a
second without the first step, which compiles; the most bytes that a CUDA device held; and what was logged last. Nothing else is kept.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from environment import environment, slug
from lightning.pytorch import Trainer
from pace import Pace
from results import FOLDER

from sparsek.cli import run

QUIET = (
    *("--trainer.logger=false", "--trainer.enable_checkpointing=false", "--trainer.enable_progress_bar=false"),
    *("--trainer.enable_model_summary=false", "--trainer.callbacks+=pace.Pace"),
)


def train(words: Sequence[str], device: str) -> tuple[dict[str, float], bool]:
    """Train in a folder that is removed; return what was measured, and whether this process is the first."""
    accelerator = "gpu" if device == "cuda" else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        place = [f"--trainer.default_root_dir={folder}", f"--trainer.accelerator={accelerator}"]
        trainer = run(["fit", *words, *QUIET, *place]).trainer
    return measured(trainer), trainer.is_global_zero


def measured(trainer: Trainer) -> dict[str, float]:
    """Numbers by name."""
    (pace,) = (callback for callback in trainer.callbacks if isinstance(callback, Pace))
    found = {"steps": trainer.global_step, "seconds": pace.seconds}
    if pace.seconds:
        found |= {"steps_per_second": pace.steps / pace.seconds, "rows_per_second": pace.rows / pace.seconds}
    if trainer.strategy.root_device.type == "cuda":
        found["peak_bytes"] = torch.cuda.max_memory_allocated()
    return found | {name: float(value) for name, value in trainer.callback_metrics.items()}


def write(path: Path, name: str, numbers: Mapping[str, float], device: str) -> None:
    """Write a line for each number."""
    columns = environment(device)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["training", "metric", "value", *columns])
        writer.writerows([name, metric, f"{value:.6g}", *columns.values()] for metric, value in numbers.items())


def main() -> None:
    """Parse the arguments, train, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the results files")
    parser.add_argument("words", nargs="+", help="after --: what `sparsek fit` is given")
    given = parser.parse_args()
    sys.argv = sys.argv[:1]  # LightningCLI is given its words; it must not read ours
    numbers, first = train(given.words, given.device)
    if first:
        write(given.out / f"training_{given.name}-{slug(given.device)}.csv", given.name, numbers, given.device)
        print(*(f"{metric}: {value:.6g}" for metric, value in numbers.items()), sep="\n")


if __name__ == "__main__":
    main()
