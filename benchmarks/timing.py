"""Interleaved timings on one thread, as ratios to `torch.softmax` on a tensor of the same shape in the same run.

On the CPU the clock is the processor time of this process (user and system): the wall time of one thread
on a quiet machine and leaves out the time in which another process had the core. On CUDA it is the wall time.
"""

from __future__ import annotations

import csv
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

SHAPES = ((1, 1_000), (1, 10_000), (1, 100_000), (1, 1_000_000), (1024, 64), (4096, 128), (256, 16384))
FIELDS = ("operation", "rows", "n", "direction", "seconds", "softmax_seconds", "ratio", "repeats", "torch", "device")


class Timing(NamedTuple):
    """One row of a table."""

    operation: str
    rows: int
    n: int
    direction: str
    seconds: float
    softmax_seconds: float
    ratio: float
    repeats: int
    torch: str
    device: str


def one_thread() -> None:
    """Pin torch to one thread; call it before any work."""
    torch.set_num_threads(1)


def forward_backward(function: Callable[[Tensor], Tensor], input: Tensor) -> Callable[[], None]:
    """Return a call that runs `function` on `input` and sends a fixed gradient back."""
    leaf = input.detach().requires_grad_()
    gradient = torch.randn_like(function(leaf))

    def run() -> None:
        torch.autograd.grad(function(leaf), leaf, gradient)

    return run


def interleave(
    calls: Mapping[str, Callable[[], object]], budget: float = 2.0, least: int = 5, most: int = 201
) -> tuple[dict[str, float], int]:
    """Return the median seconds of each call, and the number of rounds.

    Every round runs every call once, so that a slow spell of the machine falls on all of them alike. A call shorter
    than the clock's noise is run several times per round. `budget` seconds go to each call on average.
    """
    loops = {name: _loops(call) for name, call in calls.items()}
    once = sum(_seconds(call, loops[name]) * loops[name] for name, call in calls.items())
    rounds = max(least, min(most, int(budget * len(calls) / max(once, 1e-9))))
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(_seconds(call, loops[name]))
    return {name: statistics.median(values) for name, values in times.items()}, rounds


def against_softmax(
    calls: Mapping[str, Callable[[], object]], input: Tensor, direction: str = "forward", budget: float = 2.0
) -> list[Timing]:
    """Time `calls` interleaved with `torch.softmax(input, -1)` in the same direction ("forward", "forward+backward")."""
    softmax = partial(torch.softmax, dim=-1)
    reference = partial(softmax, input) if direction == "forward" else forward_backward(softmax, input)
    medians, rounds = interleave({"torch.softmax": reference, **calls}, budget)
    base = medians["torch.softmax"]
    rows, n = input.shape[:-1].numel(), input.shape[-1]
    device = torch.cuda.get_device_name() if input.is_cuda else "cpu, 1 thread"
    return [
        Timing(name, rows, n, direction, seconds, base, seconds / base, rounds, torch.__version__, device)
        for name, seconds in medians.items()
    ]


def write_csv(path: Path, timings: Iterable[Timing]) -> None:
    """Write the timings, one a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(FIELDS)
        for t in timings:
            writer.writerow([f"{value:.4g}" if isinstance(value, float) else value for value in t])


def markdown(timings: Sequence[Timing], direction: str = "forward") -> str:
    """Return a table of the ratios to softmax: an operation per line, a shape per column; "–" where it was not run."""
    chosen = [t for t in timings if t.direction == direction]
    shapes = list(dict.fromkeys((t.rows, t.n) for t in chosen))
    cells = {(t.operation, t.rows, t.n): t.ratio for t in chosen}
    base = {(t.rows, t.n): t.softmax_seconds for t in chosen}
    lines = ["| " + " | ".join([f"{direction} / softmax", *[f"({r}, {n})" for r, n in shapes]]) + " |"]
    lines.append("|---" * (len(shapes) + 1) + "|")
    lines.append("| " + " | ".join(["torch.softmax, ms", *[f"{1e3 * base[s]:.3g}" for s in shapes]]) + " |")
    for name in dict.fromkeys(t.operation for t in chosen if t.operation != "torch.softmax"):
        values = [f"{cells[(name, *s)]:.3g}" if (name, *s) in cells else "–" for s in shapes]
        lines.append("| " + " | ".join([name, *values]) + " |")
    return "\n".join(lines)


def _seconds(call: Callable[[], object], loops: int) -> float:
    """Return the seconds of one call, averaged over `loops` of them."""
    cuda = torch.cuda.is_available()
    clock = time.perf_counter if cuda else time.process_time
    start = clock()
    for _ in range(loops):
        call()
    if cuda:
        torch.cuda.synchronize()
    return (clock() - start) / loops


def _loops(call: Callable[[], object], least: float = 2e-3) -> int:
    """Return how many calls make a measurable stretch of time. The first call warms up."""
    call()
    return max(1, int(least / max(_seconds(call, 1), 1e-9)))
