"""Medians of interleaved calls: every round runs every call once, so that a slow spell of the machine falls on all alike.

On the CPU the clock is the processor time of this process (user and system): the wall time of one thread on a quiet
machine, without the time in which another process had the core. On CUDA it is the device time between two events.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import cycle
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

Key = TypeVar("Key", bound=Hashable)


class Call(NamedTuple):
    """Something to time."""

    run: Callable[[], object]
    context: Callable[[], AbstractContextManager[object]] = nullcontext
    """Entered before a stretch of runs, outside of the clock."""


class Median(NamedTuple):
    """The median seconds of a call, over so many rounds."""

    seconds: float
    rounds: int


class Stopwatch(Protocol):
    """Times `loops` runs of a call and returns the seconds of one."""

    stretch: float
    """Seconds that a measured stretch lasts at least: a shorter call is run several times in it."""

    def __call__(self, run: Callable[[], object], loops: int) -> float:
        """Return the seconds of one run."""
        ...


def interleave(
    calls: Mapping[Key, Call], stopwatch: Stopwatch, budget: float = 1.0, least: int = 5, most: int = 201
) -> dict[Key, Median]:
    """Return the median of each call; `budget` seconds go to each of them on average, beyond the `least` rounds."""
    loops = {key: _stretch(call, stopwatch) for key, call in calls.items()}
    once = sum(_timed(call, stopwatch, loops[key]) * loops[key] for key, call in calls.items())
    rounds = max(least, min(most, int(budget * len(calls) / max(once, 1e-9))))
    times: dict[Key, list[float]] = {key: [] for key in calls}
    with _own_collection():
        for _ in range(rounds):
            gc.collect()
            for key, call in calls.items():
                times[key].append(_timed(call, stopwatch, loops[key]))
    return {key: Median(statistics.median(values), rounds) for key, values in times.items()}


class ProcessorTime:
    """Processor seconds of one run, averaged over `loops` of them."""

    stretch = 2e-3

    def __call__(self, run: Callable[[], object], loops: int) -> float:
        """Return the mean over the loops."""
        start = time.process_time()
        for _ in range(loops):
            run()
        return (time.process_time() - start) / loops


class CudaEvents:
    """Device seconds of one run: the median over `loops` runs, each between two events of its own.

    Before each run a gigabyte is set to zero. That evicts the L2 cache, and while it lasts the host queues the kernels
    of the run, so that the events time the device and not the launches (as long as the run does not wait for the device).
    """

    stretch = 0.0

    def __init__(self, flush_bytes: int = 2**30) -> None:
        self._flush = torch.empty(flush_bytes, dtype=torch.uint8, device="cuda")

    def __call__(self, run: Callable[[], object], loops: int) -> float:
        """Return the median over the loops."""
        pairs = [tuple(torch.cuda.Event(enable_timing=True) for _ in range(2)) for _ in range(loops)]
        for start, end in pairs:
            self._flush.zero_()
            start.record()
            run()
            end.record()
        torch.cuda.synchronize()
        return statistics.median(start.elapsed_time(end) for start, end in pairs) / 1e3


def stopwatch_of(device: str) -> Stopwatch:
    """Return the clock of a device."""
    return CudaEvents() if device == "cuda" else ProcessorTime()


def forward(function: Callable[[Tensor], Tensor], inputs: list[Tensor]) -> Callable[[], Tensor]:
    """Return a call that runs `function` on the next of `inputs`, round and round."""
    turn = cycle(inputs)
    return lambda: function(next(turn))


def forward_backward(function: Callable[[Tensor], Tensor], inputs: list[Tensor]) -> Callable[[], Tensor]:
    """Return a call that runs `function` on the next of `inputs` and sends a gradient back, drawn in the first run."""
    turn = cycle([x.detach().requires_grad_() for x in inputs])
    gradients: list[Tensor] = []

    def run() -> Tensor:
        leaf = next(turn)
        output = function(leaf)
        if not gradients:
            gradients.append(torch.randn_like(output))
        return torch.autograd.grad(output, leaf, gradients)[0]

    return run


DIRECTIONS = {"forward": forward, "forward+backward": forward_backward}


def _timed(call: Call, stopwatch: Stopwatch, loops: int) -> float:
    with call.context():
        return stopwatch(call.run, loops)


def _stretch(call: Call, stopwatch: Stopwatch) -> int:
    """Return how many runs make a measurable stretch. The first run warms up."""
    _timed(call, stopwatch, 1)
    return max(1, int(stopwatch.stretch / max(_timed(call, stopwatch, 1), 1e-9)))


@contextmanager
def _own_collection() -> Iterator[None]:
    """Garbage is collected by hand between rounds, and what is alive now is not searched for it: that makes it cheap."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()
