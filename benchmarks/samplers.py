"""Time one draw of every design against `torch.softmax`: `python benchmarks/samplers.py`.

Writes benchmarks/results/samplers-cpu.csv and prints the table. k = n // 16; π is `pps` of lognormal sizes, in float32.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from timing import SHAPES, Timing, against_softmax, markdown, one_thread, write_csv
from torch import Tensor

from sparsek.functional import pps
from sparsek.sampling import Brewer, ConditionalPoisson, Design, Pareto, Pivotal, Poisson, Sampford, Systematic

LIMITS: dict[Design, tuple[int, int]] = {
    Systematic(): (1_000_000, 10**8),
    Systematic(shuffle=True): (1_000_000, 10**8),
    Pivotal(): (1_000_000, 10**8),
    Pivotal(shuffle=True): (1_000_000, 10**8),
    Poisson(): (1_000_000, 10**8),
    Pareto(): (1_000_000, 10**8),
    ConditionalPoisson(): (100_000, 100_000),
    Brewer(): (1_000, 1_000),
    Sampford(): (64, 100_000),
}
"""Design to the largest n and the largest rows·n it is timed at."""


def probabilities(rows: int, n: int) -> tuple[Tensor, int]:
    """Return inclusion probabilities (rows, n) and their sum."""
    k = max(n // 16, 1)
    sizes = torch.randn(rows, n, generator=torch.Generator().manual_seed(n)).exp()
    return pps(sizes, k), k


def draw(design: Design, probs: Tensor, k: int) -> Callable[[], Tensor]:
    """Return a call that makes one draw."""
    return lambda: design.sample(probs, k=k)


def measure(shapes: list[tuple[int, int]], budget: float) -> list[Timing]:
    """Time every design at every shape it is meant for."""
    timings: list[Timing] = []
    for rows, n in shapes:
        probs, k = probabilities(rows, n)
        calls = {
            str(design).replace("shuffle=False", ""): draw(design, probs, k)
            for design, (most_n, most) in LIMITS.items()
            if n <= most_n and rows * n <= most
        }
        timings += against_softmax(calls, probs, budget=budget)
        print(markdown(timings[-len(calls) - 1 :]), flush=True)
    return timings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", type=float, default=1.0, help="seconds per design and shape")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "samplers-cpu.csv")
    arguments = parser.parse_args()
    one_thread()
    timings = measure([*SHAPES], arguments.budget)
    write_csv(arguments.out, timings)
    print(markdown(timings))


if __name__ == "__main__":
    main()
