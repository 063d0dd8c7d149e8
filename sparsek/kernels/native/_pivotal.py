"""Calls of pivotal.cpp."""

from __future__ import annotations

import torch
from torch import Tensor

from ._call import INT, LONG, POINTER, SEED, Function, plain

_PIVOTAL = Function("pivotal", "pivotal", POINTER, LONG, POINTER, LONG, LONG, LONG, SEED, INT)


def pivotal(probs: Tensor, draws: int, generator: torch.Generator | None) -> Tensor:
    """Tournament pivotal samples of each row, (draws, rows, n) bool.

    Args:
        probs: (rows, n) float64 with whole sums.
        draws: Number of draws of each row.
        generator: Source of the seed.
    """
    rows, n = probs.shape
    probs = plain(probs)
    sample = torch.empty((draws, rows, n), dtype=torch.bool)
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    _PIVOTAL[probs.dtype](
        probs.data_ptr(), probs.stride(0), sample.data_ptr(), rows, n, draws, seed, torch.get_num_threads()
    )
    return sample
