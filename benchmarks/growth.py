"""How time and peak memory grow with n, with the batch and with k: `python benchmarks/growth.py`, `--device cuda` on a GPU.

Three results files: growth_n (one row), growth_batch (rows of 64 and of 128), growth_k (16 rows of 16,384). Sigmoid top-k in
every execution, forward and forward with backward, `torch.topk`, and the systematic and the pivotal design; see `memory.py` for
what peak memory is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import samplers
import torch
from bandwidth import rotation
from command import arguments, finish
from comparison import compare, directed
from designs import FUSED, label
from environment import pin
from executions import Execution, Key, chosen
from operators import references
from results import Row
from timing import DIRECTIONS, Stopwatch, stopwatch_of
from torch import Tensor

from sparsek.functional import sigmoid_topk

Point = tuple[int, int, int]
"""(rows, n, k)."""

AXES: dict[str, list[Point]] = {
    "n": [(1, n, n // 16) for n in (10**3, 10**4, 10**5, 10**6, 10**7)],
    "batch": [(rows, n, n // 16) for n in (64, 128) for rows in (1, 16, 256, 4096, 65_536)],
    "k": [(16, 16_384, k) for k in (1, 8, 64, 512, 4096, 8192)],
}


def along(axis: str, most: int, executions: list[Execution], device: str, budget: float) -> Iterator[Row]:
    """Measure every point of an axis with rows·n of `most` at most."""
    stopwatch = stopwatch_of(device)
    for rows, n, k in AXES[axis]:
        if rows * n <= most:
            yield from relaxed((rows, n, k), executions, device, budget, stopwatch)
            yield from drawn((rows, n, k), executions, device, budget, stopwatch)


def relaxed(
    point: Point, executions: list[Execution], device: str, budget: float, stopwatch: Stopwatch
) -> Iterator[Row]:
    """Measure the relaxation, softmax and hard top-k."""
    rows, n, k = point
    inputs = rotation(torch.randn(rows, n, generator=torch.Generator().manual_seed(n)).to(device))
    for direction in DIRECTIONS:
        functions: dict[Key, Callable[[Tensor], Tensor]] = {
            ("sigmoid_topk", e.value): partial(sigmoid_topk, k=k) for e in executions
        }
        functions |= {(name, "eager"): operator.function for name, operator in references(k).items()}
        calls = directed(functions, inputs, direction)
        yield from compare(calls, inputs, k, stopwatch, direction=direction, budget=budget, memory=True)


def drawn(
    point: Point, executions: Iterable[Execution], device: str, budget: float, stopwatch: Stopwatch
) -> Iterator[Row]:
    """Measure the draws, but for compiled ones: their twenty rounds take minutes to compile at each point."""
    rows, n, k = point
    probs, _ = samplers.probabilities((rows, n), device, k=k)
    functions = {
        (label(design), e.value): partial(samplers.draw, design, k)
        for design, has in FUSED.items()
        for e in executions
        if e in has and e is not Execution.COMPILED
    }
    inputs = rotation(probs)
    found = compare(directed(functions, inputs, "forward"), inputs, k, stopwatch, budget=budget, memory=True)
    yield from (row for row in found if row.operation != "torch.softmax")


def main(words: Sequence[str] | None = None) -> None:
    """Parse the arguments, measure, write, print."""
    parser = arguments(__doc__)
    parser.add_argument("--axes", nargs="*", default=list(AXES), choices=list(AXES))
    parser.add_argument("--most", type=int, default=10**8, help="bound on rows·n")
    given = parser.parse_args(words)
    if given.device == "cpu":
        pin()
    executions = chosen(given.executions, given.device)
    for axis in given.axes:
        rows = along(axis, given.most, executions, given.device, given.budget)
        finish(f"growth_{axis}", rows, given.device, given.out)


if __name__ == "__main__":
    main()
