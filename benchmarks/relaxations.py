"""Time the relaxations against `torch.softmax`: `python benchmarks/relaxations.py`, with `--device cuda` on a GPU.

Two parts. "sigmoid_topk" times every execution of sigmoid top-k alone with softmax; "relaxations" times every relaxation, hard
top-k and public peers, as tensor operations and in native code, all in turn. Scores are standard normal; k = n // 16. Prints the
tables and writes a results file a part.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import torch
from bandwidth import rotation
from command import arguments, finish
from comparison import SOFTMAX, compare, directed
from environment import pin
from executions import Execution, chosen
from operators import missing_peers, peers, references, relaxations
from results import Row
from targets import LARGE_DATA, SHAPES, Shape
from timing import DIRECTIONS, stopwatch_of
from torch import Tensor

from sparsek.functional import sigmoid_topk

_SMALL, _LARGE = LARGE_DATA // 4, LARGE_DATA
LONG = ((1, 10**6), (1, 10**7))
CUDA_SHAPES = (
    *((_SMALL // n, n) for n in (64, 256, 1024, 4096, 16_384)),
    *((_LARGE // n, n) for n in (64, 1024, 16_384)),
    *LONG,
)
"""64 MB of float32 in rows of 64 to 16,384, 256 MB in some of them, and one long row."""
CUDA_SHAPES_OF_ALL = (*((_SMALL // n, n) for n in (64, 1024, 16_384)), LONG[0])


def scores(shape: Shape, dtype: torch.dtype, device: str) -> list[Tensor]:
    """Return standard normal scores, on a GPU several of them."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(shape[1]))
    return rotation(values.to(device, dtype))


def executions_alone(
    shapes: Iterable[Shape], executions: list[Execution], dtype: torch.dtype, device: str, budget: float
) -> Iterator[Row]:
    """Time sigmoid top-k in every execution. On the CPU each is alone with softmax, so that neither finds the caches cold."""
    stopwatch = stopwatch_of(device)
    groups = [[execution] for execution in executions] if device == "cpu" else [executions]
    for shape in shapes:
        inputs, k = scores(shape, dtype, device), max(shape[1] // 16, 1)
        function = partial(sigmoid_topk, k=k)
        for direction in DIRECTIONS:
            for group in groups:
                calls = directed({("sigmoid_topk", e.value): function for e in group}, inputs, direction)
                rows = compare(calls, inputs, k, stopwatch, direction=direction, budget=budget)
                yield from (row for row in rows if device != "cpu" or row.key != SOFTMAX)


def all_in_turn(
    shapes: Iterable[Shape],
    executions: list[Execution],
    device: str,
    budget: float,
    only: Sequence[str] | None,
) -> Iterator[Row]:
    """Time every relaxation, hard top-k and the peers."""
    stopwatch = stopwatch_of(device)
    for shape in shapes:
        inputs, k = scores(shape, torch.float32, device), max(shape[1] // 16, 1)
        for direction in DIRECTIONS:
            calls = directed(_functions(shape, k, direction, executions, only), inputs, direction)
            yield from compare(calls, inputs, k, stopwatch, direction=direction, budget=budget)


def _functions(
    shape: Shape, k: int, direction: str, executions: list[Execution], only: Sequence[str] | None
) -> dict[tuple[str, str], partial[Tensor]]:
    kept = [e for e in executions if e is not Execution.COMPILED]
    own = {(name, e.value): operator for name, operator in relaxations(k).items() for e in kept if _ours(name, e)}
    others = {(name, "eager"): operator for name, operator in (references(k) | peers(shape[1], k)).items()}
    return {
        key: operator.function
        for key, operator in (own | others).items()
        if operator.fits(*shape, direction) and (not only or key[0] in only)
    }


def _ours(name: str, execution: Execution) -> bool:
    """Whether an operator has an execution of its own kind: sigmoid top-k has all, the others are tensor operations."""
    return execution is Execution.EAGER or name.startswith("sigmoid_topk")


def main(words: Sequence[str] | None = None) -> None:
    """Parse the arguments, measure, write, print."""
    parser = arguments(__doc__)
    parser.add_argument("--parts", nargs="*", default=["sigmoid_topk", "relaxations"])
    parser.add_argument("--dtypes", nargs="*", help="of sigmoid_topk; default: float32, on a GPU bfloat16 too")
    parser.add_argument("--only", nargs="*", help="names of the relaxations, as in the table")
    given = parser.parse_args(words)
    cuda = given.device == "cuda"
    if not cuda:
        pin()
    executions = chosen(given.executions, given.device)
    if "sigmoid_topk" in given.parts:
        shapes = given.shapes or (CUDA_SHAPES if cuda else SHAPES)
        names = given.dtypes or (["float32", "bfloat16"] if cuda else ["float32"])
        found = (executions_alone(shapes, executions, getattr(torch, d), given.device, given.budget) for d in names)
        finish("sigmoid_topk", (row for rows in found for row in rows), given.device, given.out)
    if "relaxations" in given.parts:
        for name in missing_peers():
            print(f"skipped {name}: it is not installed")
        shapes = given.shapes or (CUDA_SHAPES_OF_ALL if cuda else SHAPES)
        rows = all_in_turn(shapes, executions, given.device, given.budget, given.only)
        finish("relaxations", rows, given.device, given.out)


if __name__ == "__main__":
    main()
