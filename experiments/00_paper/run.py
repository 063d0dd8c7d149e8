"""Run what the results do not have yet, then draw the figures and print the tables.

python experiments/00_paper/run.py                                  # goes on where it was stopped
python experiments/00_paper/run.py --parts scale --device cuda      # the same on a GPU, into results-cuda.csv
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import estimation
import inclusion
import optimum
import planted_k
import scale
import shapes
import subset
import torch
from figure import publish
from part import Run
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1]))
import grid_file
import results_file

HERE = Path(__file__).parent
PARTS: dict[str, Callable[[Mapping[str, Any], str], Iterator[Run]]] = {
    "shapes": shapes.runs,
    "optimum": optimum.runs,
    "roots": optimum.root_runs,
    "designs": inclusion.runs,
    "first_order": estimation.runs,
    "subset": subset.runs,
    "planted_k": planted_k.runs,
    "scale": scale.runs,
}


def missing(part: str, grid: Mapping[str, Any], results: Path, device: str) -> list[Run]:
    """Runs of a part that are not in the results."""
    done = {(line["row"], line["seed"], line["config"]) for line in results_file.read(results)}
    return [run for run in PARTS[part](grid[part], device) if (run.row, str(run.seed), run.config) not in done]


def main() -> None:
    """Run, tabulate, draw."""
    parser = argparse.ArgumentParser(description="The paper's claims, measured.")
    parser.add_argument("--grid", type=Path, default=HERE / "grid.yaml")
    parser.add_argument("--results", type=Path, help="by default results.csv, or results-cuda.csv on a GPU")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--device", default="cpu")
    grid_file.add_argument(parser)
    parser.add_argument("--measure-only", action="store_true", help="neither figures nor the table of claims")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start nothing after so many")
    arguments = parser.parse_args()
    results = arguments.results or HERE / ("results.csv" if arguments.device == "cpu" else "results-cuda.csv")
    torch.set_num_threads(1)
    grid, end = grid_file.read(arguments.grid, arguments.set), time.monotonic() + 60 * arguments.minutes
    device = results_file.device_text(arguments.device)
    for part in arguments.parts:
        for run in tqdm(missing(part, grid, results, arguments.device), desc=part, dynamic_ncols=True):
            if time.monotonic() > end:
                sys.exit(3)
            metrics = run.measure()
            results_file.append(results, results_file.lines(run.row, run.seed, metrics, 0, run.config, device))
    if not arguments.measure_only:
        print(publish(results, grid))


if __name__ == "__main__":
    main()
