"""Calls of sigmoid_topk.cpp."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ._build import load

_POINTER, _LONG, _DOUBLE, _INT = ctypes.c_void_p, ctypes.c_long, ctypes.c_double, ctypes.c_int
_SUFFIX = {torch.float32: "float", torch.float64: "double"}
_ROWS = [_POINTER, _LONG, _LONG, _POINTER, _LONG, _POINTER, _LONG]  # out, rows, n, k, its step, T, its step

PASSES = 113
"""Bound on the passes of the C++ solver over a row: three without a bracket, 110 within one."""


@cache
def _function(name: str, dtype: torch.dtype) -> Callable[..., int]:
    library = load("sigmoid_topk")
    assert library is not None, "takes() was asked first"
    function: Any = getattr(library, f"{name}_{_SUFFIX[dtype]}")
    tail = [_POINTER, _POINTER, _INT] if name == "solve" else [_DOUBLE, _POINTER, _INT]
    function.argtypes = [_POINTER, *([_POINTER] if name == "pull_back" else []), _LONG, *_ROWS, *tail]
    function.restype = _LONG
    return function  # type: ignore[no-any-return]


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
    x = _plain(x)
    threshold = torch.empty((rows, 1), dtype=torch.float64)
    passes = ctypes.create_string_buffer(rows)
    k, k_pointer, k_step = _column(k)
    temperature, t_pointer, t_step = _column(temperature)
    arguments = (probs.data_ptr(), rows, n, k_pointer, k_step, t_pointer, t_step, threshold.data_ptr())
    left = _function("solve", x.dtype)(x.data_ptr(), x.stride(0), *arguments, passes, torch.get_num_threads())
    if not left:
        return threshold, None
    return threshold, (torch.frombuffer(passes, dtype=torch.uint8) == 0).nonzero().squeeze(1)


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
    grad = _plain(grad)
    to_x = torch.empty_like(probs)
    mean = torch.empty((rows, 1), dtype=torch.float64)
    k, k_pointer, k_step = _column(k)
    temperature, t_pointer, t_step = _column(temperature)
    arguments = (to_x.data_ptr(), rows, n, k_pointer, k_step, t_pointer, t_step, resolved, mean.data_ptr())
    function = _function("pull_back", probs.dtype)
    if function(probs.data_ptr(), grad.data_ptr(), grad.stride(0), *arguments, torch.get_num_threads()):
        return None
    return to_x, mean


def _plain(x: Tensor) -> Tensor:
    """A tensor whose rows are plain memory."""
    if x.is_neg():
        x = x.resolve_neg()
    return x if x.stride(1) == 1 or x.shape[1] == 1 else x.contiguous()


def _column(value: float | Tensor) -> tuple[Any, Any, int]:
    """What keeps the numbers alive, where they are, and their step from row to row."""
    if not isinstance(value, Tensor):
        number = ctypes.c_double(value)
        return number, ctypes.addressof(number), 0
    value = value.contiguous()
    return value, value.data_ptr(), int(value.numel() > 1)
