"""Time every relaxation, and two public peers, against `torch.softmax`: `python benchmarks/relaxations.py`.

Writes benchmarks/results/relaxations-cpu.csv (or -cuda) and prints the tables. Scores are standard normal, float32; k = n // 16.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from timing import SHAPES, Timing, against_softmax, forward_backward, markdown, one_thread, write_csv
from torch import Tensor

from sparsek.functional import (
    lapsum_topk,
    perturbed_topk,
    project_capped_simplex,
    scaled_sigmoid,
    sigmoid_topk,
    sinkhorn_topk,
    successive_softmax,
    topk_mask,
)

DIRECTIONS = ("forward", "forward+backward")
LARGE = 10**8


def operators(k: int) -> dict[str, tuple[Callable[[Tensor], Tensor], int]]:
    """Every operator at this k, with the largest rows·n·k it is timed at."""
    chosen: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
        "sigmoid_topk": (partial(sigmoid_topk, k=k), LARGE),
        "sigmoid_topk(hard=True)": (partial(sigmoid_topk, k=k, hard=True), LARGE),
        "topk_mask": (partial(topk_mask, k=k), LARGE),
        "project_capped_simplex": (partial(project_capped_simplex, k=k), LARGE),
        "lapsum_topk": (partial(lapsum_topk, k=k), LARGE),
        "scaled_sigmoid": (partial(scaled_sigmoid, k=k), LARGE),
        "sinkhorn_topk": (partial(sinkhorn_topk, k=k), LARGE),
        "successive_softmax": (partial(successive_softmax, k=k), LARGE // k),
        "perturbed_topk": (partial(perturbed_topk, k=k), 10**5),
    }
    if importlib.util.find_spec("entmax") is None:
        return chosen
    entmax = importlib.import_module("entmax")
    chosen["entmax.sparsemax (k = 1)"] = (entmax.sparsemax, LARGE)
    chosen["entmax.budget_bisect"] = (partial(entmax.budget_bisect, budget=k), LARGE)
    return chosen


def measure(shapes: list[tuple[int, int]], only: list[str] | None, budget: float, device: str) -> list[Timing]:
    """Time every operator, or those named, both ways, at every shape it is meant for."""
    timings: list[Timing] = []
    for rows, n in shapes:
        scores = torch.randn(rows, n, generator=torch.Generator().manual_seed(n)).to(device)
        k = max(n // 16, 1)
        for direction in DIRECTIONS:
            calls = {}
            for name, (operator, most) in operators(k).items():
                if (
                    rows * n > most
                    or (only and name not in only)
                    or (direction == "forward+backward" and name == "topk_mask")
                ):
                    continue
                forward = direction == "forward"
                calls[name] = partial(operator, scores) if forward else forward_backward(operator, scores)
            timings += against_softmax(calls, scores, direction, budget)
            print(markdown(timings[-len(calls) - 1 :], direction), flush=True)
    return timings


def main() -> None:
    """Parse the arguments, measure, write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", type=float, default=1.0, help="seconds per operator and shape")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", nargs="*", help="names of operators, as in the table; default: all")
    parser.add_argument("--name", default="relaxations", help="of the results file")
    parser.add_argument("--shapes", nargs="*", type=int, help="indices into the list of shapes; default: all")
    arguments = parser.parse_args()
    one_thread()
    shapes = list(SHAPES) if arguments.shapes is None else [SHAPES[i] for i in arguments.shapes]
    timings = measure(shapes, arguments.only, arguments.budget, arguments.device)
    path = Path(__file__).parent / "results" / f"{arguments.name}-{arguments.device}.csv"
    write_csv(path, timings)
    print(*(markdown(timings, direction) for direction in DIRECTIONS), path, sep="\n\n")


if __name__ == "__main__":
    main()
