"""Calls of sigmoid_topk.cpp."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from ._call import DOUBLE, INT, LONG, POINTER, Function, column, plain

_ROWS = (LONG, LONG, POINTER, LONG, POINTER, LONG)  # rows, n, k, its step, T, its step
_SOLVE = Function("sigmoid_topk", "solve", POINTER, LONG, POINTER, *_ROWS, POINTER, POINTER, INT)
_PULL_BACK = Function("sigmoid_topk", "pull_back", POINTER, POINTER, LONG, POINTER, *_ROWS, DOUBLE, POINTER, INT)

_Numbers = ctypes.c_double * 4

PASSES = 113
"""Bound on the passes of the C++ solver over a row: three without a bracket, 110 within one."""


def solve(x: Tensor, k: float | Tensor, temperature: float | Tensor, probs: Tensor) -> tuple[Tensor, Tensor | None]:
    """Solve the regular rows of `x` into `probs`.

    Args:
        x: (rows, n) float32 or float64.
        k: A number, or (rows, 1) float64.
        temperature: A positive number, or (rows, 1) float64.
        probs: (rows, n), contiguous, the dtype of `x`; overwritten.

    Returns:
        Thresholds (rows, 1) float64, and the indices of the rows that are left for another solver; None where all are solved.
    """
    rows, n = x.shape
    x = plain(x)
    threshold = torch.empty(rows, 1, dtype=torch.float64)
    passes = ctypes.create_string_buffer(rows)
    k, k_pointer, k_step = column(k)
    temperature, t_pointer, t_step = column(temperature)
    arguments = (probs.data_ptr(), rows, n, k_pointer, k_step, t_pointer, t_step, threshold.data_ptr())
    left = _SOLVE[x.dtype](x.data_ptr(), x.stride(0), *arguments, passes, torch.get_num_threads())
    if not left:
        return threshold, None
    return threshold, (torch.frombuffer(passes, dtype=torch.uint8) == 0).nonzero().squeeze(1)


def solve_one(x: Tensor, k: float, temperature: float) -> Tensor | None:
    """Probabilities of a single row, (..., n) with n elements, without its threshold; None if it is left.

    One row of a thousand takes a microsecond to solve: what allocates its threshold takes two.
    """
    n = x.shape[-1]
    if x.stride(-1) != 1 or x.is_neg():
        return None
    probs = torch.empty_like(x, memory_format=torch.contiguous_format)
    numbers = _Numbers(k, temperature)
    first = ctypes.addressof(numbers)
    columns = (first, 0, first + 8, 0, first + 16, first + 24)  # k, T; the threshold, the passes
    left = _SOLVE[x.dtype](x.data_ptr(), n, probs.data_ptr(), 1, n, *columns, torch.get_num_threads())
    return None if left else probs


def pull_back(
    grad: Tensor, probs: Tensor, k: float | Tensor, temperature: float | Tensor, resolved: float
) -> tuple[Tensor, Tensor] | None:
    """Gradient to the scores, and ⟨w, grad⟩; None if some row is saturated.

    Args:
        grad: (rows, n).
        probs: (rows, n), contiguous, float32 or float64.
        k: As in :func:`solve`.
        temperature: As in :func:`solve`.
        resolved: Σd/k above which plain sums of d give w.
    """
    rows, n = probs.shape
    grad = plain(grad)
    to_x = torch.empty_like(probs)
    mean = torch.empty(rows, 1, dtype=torch.float64)
    k, k_pointer, k_step = column(k)
    temperature, t_pointer, t_step = column(temperature)
    arguments = (to_x.data_ptr(), rows, n, k_pointer, k_step, t_pointer, t_step, resolved, mean.data_ptr())
    if _PULL_BACK[probs.dtype](probs.data_ptr(), grad.data_ptr(), grad.stride(0), *arguments, torch.get_num_threads()):
        return None
    return to_x, mean
