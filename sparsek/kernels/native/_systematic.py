"""Calls of systematic.cpp."""

from __future__ import annotations

import torch
from torch import Tensor

from ._call import INT, LONG, POINTER, Function, plain

_SHAPE = (LONG, LONG, LONG)  # rows, n, units of a block
_SUMS = Function("systematic", "systematic_sums", POINTER, LONG, POINTER, *_SHAPE, INT)
_TAKE = Function("systematic", "systematic_take", POINTER, LONG, POINTER, POINTER, *_SHAPE, LONG, INT)


def block_sums(probs: Tensor, width: int) -> Tensor:
    """Sums of each row of (rows, n) float64 in blocks of `width` units, (rows, blocks): bit for bit those of `cumsum`."""
    rows, n = probs.shape
    probs = plain(probs)
    sums = torch.empty((rows, -(-n // width)), dtype=probs.dtype)
    threads = torch.get_num_threads()
    _SUMS[probs.dtype](probs.data_ptr(), probs.stride(0), sums.data_ptr(), rows, n, width, threads)
    return sums


def systematic(probs: Tensor, start: Tensor, width: int) -> Tensor:
    """Systematic samples, (draws, rows, n) bool.

    Args:
        probs: (rows, n) float64.
        start: (draws, rows, blocks) float64: the sum before each block, less its points.
        width: Units of a block.
    """
    rows, n = probs.shape
    probs, start = plain(probs), start.contiguous()
    draws = start.shape[0]
    sample = torch.empty((draws, rows, n), dtype=torch.bool)
    arguments = (start.data_ptr(), sample.data_ptr(), rows, n, width, draws, torch.get_num_threads())
    _TAKE[probs.dtype](probs.data_ptr(), probs.stride(0), *arguments)
    return sample
