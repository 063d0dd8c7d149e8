"""Calls of topk_mask.cpp."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from ._call import INT, LONG, POINTER, Function, column, plain

_TOPK_MASK = Function("topk_mask", "topk_mask", POINTER, LONG, POINTER, LONG, LONG, POINTER, LONG, POINTER, INT)


def topk_mask(x: Tensor, k: float | Tensor) -> Tensor | None:
    """1 at the ⌊k⌋ largest entries of each row and the fraction of k at the next; None if some row has no answer.

    Args:
        x: (rows, n) float32 or float64.
        k: A number, or (rows, 1) float64.
    """
    rows, n = x.shape
    x = plain(x)
    selected = torch.empty((rows, n), dtype=x.dtype)
    solved = ctypes.create_string_buffer(rows)
    k, pointer, step = column(k)
    arguments = (x.data_ptr(), x.stride(0), selected.data_ptr(), rows, n, pointer, step, solved)
    return None if _TOPK_MASK[x.dtype](*arguments, torch.get_num_threads()) else selected
