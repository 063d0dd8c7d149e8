"""One comparison: calls on tensors of one shape, in turn with `torch.softmax`, as rows of a results file."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from bandwidth import copy, copy_bandwidth, traffic
from executions import Execution, Key, warm
from memory import peak_bytes
from results import Row
from timing import DIRECTIONS, Call, Median, Stopwatch, interleave
from torch import Tensor

SOFTMAX = ("torch.softmax", Execution.EAGER.value)
COMPILED_SOFTMAX = ("torch.softmax", Execution.COMPILED.value)
COPY = ("copy", Execution.EAGER.value)


def directed(operators: dict[Key, Callable[[Tensor], Tensor]], inputs: list[Tensor], direction: str) -> dict[Key, Call]:
    """Return the calls of operators in a direction, each in the context of its execution."""
    return {
        key: Call(
            DIRECTIONS[direction](Execution(key[1]).prepare(function), inputs),
            Execution(key[1]).context,
        )
        for key, function in operators.items()
    }


def compare(
    calls: dict[Key, Call],
    inputs: list[Tensor],
    k: int,
    stopwatch: Stopwatch,
    *,
    direction: str = "forward",
    budget: float = 1.0,
    memory: bool = False,
) -> list[Row]:
    """Time `calls` in turn with `torch.softmax` of the same inputs, forward or forward and backward.

    On CUDA the compiled softmax and a copy take their turns too, bandwidth is reported, and so is memory.
    """
    x = inputs[0]
    device = x.device.type
    every = dict(warm({**_references(inputs, direction), **calls}))
    peaks = {key: peak_bytes(call, device) for key, call in every.items()} if memory or x.is_cuda else {}
    medians = interleave(every, stopwatch, budget)
    softmax = medians[SOFTMAX].seconds
    bandwidth = copy_bandwidth(medians[COPY].seconds) if COPY in medians else None

    def row(key: Key, median: Median) -> Row:
        moved = traffic(*_shape(x), x.element_size(), direction) if bandwidth else None
        return Row(
            *key,
            direction,
            *_shape(x),
            k,
            str(x.dtype).removeprefix("torch."),
            median.seconds,
            median.rounds,
            softmax_seconds=softmax,
            ratio=median.seconds / softmax,
            traffic_bytes=moved,
            bandwidth_fraction=moved / median.seconds / bandwidth if moved and bandwidth else None,
            copy_bandwidth=bandwidth,
            peak_bytes=peaks.get(key),
        )

    return [row(key, median) for key, median in medians.items() if key != COPY]


def _references(inputs: list[Tensor], direction: str) -> dict[Key, Call]:
    softmax = partial(torch.softmax, dim=-1)
    if not inputs[0].is_cuda:
        return directed({SOFTMAX: softmax}, inputs, direction)
    return {**directed({SOFTMAX: softmax, COMPILED_SOFTMAX: softmax}, inputs, direction), COPY: Call(copy())}


def _shape(x: Tensor) -> tuple[int, int]:
    return x.shape[:-1].numel(), x.shape[-1]
