"""Time one draw of every design against `torch.softmax`: `python benchmarks/samplers.py`, with `--device cuda` on a GPU.

k = n // 16; π is `pps` of lognormal sizes, in float32. The systematic and the pivotal design are timed in every execution, with
the log-probability of a sample of theirs and its gradient; the others as tensor operations. On the CPU the two are timed against
R's package `sampling` too, where it is installed (r_sampling.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import r_sampling
import torch
from bandwidth import rotation
from command import arguments, finish
from comparison import compare, directed
from designs import FUSED, LIMITS, label
from environment import pin
from executions import Execution, Key, chosen
from results import Row
from targets import SHAPES, Shape
from timing import DIRECTIONS, stopwatch_of
from torch import Tensor

from sparsek.functional import pps
from sparsek.sampling import Design

CUDA_SHAPES = ((65_536, 128), (262_144, 64), (1024, 16_384), (1, 10**6), (1, 10**7))


def probabilities(shape: Shape, device: str, k: int | None = None) -> tuple[Tensor, int]:
    """Return inclusion probabilities and their sum, n // 16 by default."""
    k = k or max(shape[1] // 16, 1)
    sizes = torch.randn(shape, generator=torch.Generator().manual_seed(shape[1])).exp()
    return pps(sizes.to(device), k), k


def draws(shape: Shape, k: int, executions: Iterable[Execution]) -> dict[Key, Callable[[Tensor], Tensor]]:
    """Return a draw of every design meant for this shape, in every execution it has."""
    rows, n = shape
    return {
        (label(design), execution.value): partial(draw, design, k)
        for design, (most_n, most) in LIMITS.items()
        for execution in executions
        if n <= most_n and rows * n <= most and execution in FUSED.get(design, (Execution.EAGER,))
    }


def draw(design: Design, k: int, probs: Tensor) -> Tensor:
    """Make one draw."""
    return design.sample(probs, k=k)


def scores(probs: Tensor, k: int, executions: Iterable[Execution]) -> dict[Key, Callable[[Tensor], Tensor]]:
    """Return the log-probability of a fixed sample of the fused designs. Compiling it takes minutes; it has no C++."""
    samples = {design: design.sample(probs, k=k) for design in FUSED}
    return {
        (f"{label(design)}.log_prob", execution.value): partial(score, design, sample, k)
        for design, sample in samples.items()
        for execution in executions
        if execution in FUSED[design] and execution not in (Execution.COMPILED, Execution.NATIVE)
    }


def score(design: Design, sample: Tensor, k: int, probs: Tensor) -> Tensor:
    """Return the log-probability of the sample."""
    return design.log_prob(probs, sample, k=k)


def measure(shapes: Iterable[Shape], executions: list[Execution], device: str, budget: float) -> Iterator[Row]:
    """Time every design at every shape it is meant for."""
    stopwatch = stopwatch_of(device)
    for shape in shapes:
        probs, k = probabilities(shape, device)
        inputs = rotation(probs)
        for direction in DIRECTIONS:
            functions = draws(shape, k, executions) if direction == "forward" else {}
            calls = directed(functions | scores(probs, k, executions), inputs, direction)
            yield from compare(calls, inputs, k, stopwatch, direction=direction, budget=budget)


def main(words: Sequence[str] | None = None) -> None:
    """Parse the arguments, measure, write, print."""
    parser = arguments(__doc__)
    parser.add_argument("--largest", type=int, default=10**6, help="bound on n of the comparison with R")
    given = parser.parse_args(words)
    cuda = given.device == "cuda"
    if not cuda:
        pin()
    executions = chosen(given.executions, given.device)
    shapes = given.shapes or (CUDA_SHAPES if cuda else SHAPES)
    finish("samplers", measure(shapes, executions, given.device, given.budget), given.device, given.out)
    if not cuda:
        r_sampling.main(words)


if __name__ == "__main__":
    main()
