"""What a call of the libraries needs: their functions, and tensors as plain memory."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sparsek.kernels._backend import Backend, allows

from ._build import load

POINTER, LONG, DOUBLE, INT, SEED = ctypes.c_void_p, ctypes.c_long, ctypes.c_double, ctypes.c_int, ctypes.c_uint64

_SUFFIXES = {torch.float32: "float", torch.float64: "double"}
_TYPES = (Tensor, torch.nn.Parameter)


def takes(x: Tensor, library: str = "sigmoid_topk") -> bool:
    """Whether C++ runs on this tensor: plain memory of floats or doubles that nothing traces."""
    return (
        x.is_cpu
        and x.dtype in _SUFFIXES
        and allows(Backend.NATIVE)
        and type(x) in _TYPES
        and torch._C._len_torch_dispatch_stack() == 0
        and load(library) is not None
    )


class Function:
    """A function of a library, for floats and doubles; it returns a whole number."""

    def __init__(self, library: str, name: str, *types: Any) -> None:
        self.library, self.name, self.types = library, name, types
        self.found: dict[torch.dtype, Callable[..., int]] = {}

    def __getitem__(self, dtype: torch.dtype) -> Callable[..., int]:
        """What to call for tensors of this dtype."""
        if dtype not in self.found:
            function: Any = getattr(load(self.library), f"{self.name}_{_SUFFIXES[dtype]}")
            function.argtypes, function.restype = self.types, LONG
            self.found[dtype] = function
        return self.found[dtype]


def plain(x: Tensor) -> Tensor:
    """(rows, n) whose rows are plain memory."""
    if x.is_neg():
        x = x.resolve_neg()
    return x if x.stride(1) == 1 or x.shape[1] == 1 else x.contiguous()


def column(value: float | Tensor) -> tuple[Any, Any, int]:
    """What keeps the numbers of the rows alive, where they are, and their step from row to row."""
    if not isinstance(value, Tensor):
        number = ctypes.c_double(value)
        return number, ctypes.addressof(number), 0
    value = value.contiguous()
    return value, value.data_ptr(), int(value.numel() > 1)
