"""Memory traffic on a GPU: bytes that an operation has to move, the bandwidth of a copy, and inputs too large for the cache."""

from __future__ import annotations

from collections.abc import Callable

import torch
from targets import LONG_ROW
from torch import Tensor

COPY_BYTES = 2**30
MOST_INPUTS = 64

ON_CHIP = {"forward": 2, "forward+backward": 5}
"""Reads and writes of a row that is held on chip: input and output; then output and gradient in, gradient out."""
IN_BLOCKS = {"forward": 3, "forward+backward": 8}
"""The same for a long row, whose sums over all blocks come first: everything that is read is read twice."""


def traffic(rows: int, n: int, itemsize: int, direction: str) -> int:
    """Return the bytes that a relaxation or a draw on (rows, n) has to read and write."""
    passes = ON_CHIP if n <= LONG_ROW else IN_BLOCKS
    return passes[direction] * rows * n * itemsize


def copy() -> Callable[[], object]:
    """Return a call that copies `COPY_BYTES`: twice as many are moved."""
    source = torch.empty(COPY_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def copy_bandwidth(seconds: float) -> float:
    """Return bytes moved per second by :func:`copy`."""
    return 2 * COPY_BYTES / seconds


def rotation(x: Tensor) -> list[Tensor]:
    """Return `x` and as many copies of it as exceed the L2 cache of a GPU four times; `x` alone on the CPU."""
    if not x.is_cuda:
        return [x]
    cache = getattr(torch.cuda.get_device_properties(x.device), "L2_cache_size", 64 * 2**20)
    return [x.clone() for _ in range(copies(x.numel() * x.element_size(), cache))]


def copies(nbytes: int, cache: int) -> int:
    """Return how many tensors of `nbytes` exceed a cache four times: at least 2."""
    return min(max(-(-4 * cache // max(nbytes, 1)), 2), MOST_INPUTS)
