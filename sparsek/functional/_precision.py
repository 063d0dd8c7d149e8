"""Mixed precision: compute in float32 at least, return the common dtype."""

from __future__ import annotations

import functools

import torch
from torch import Tensor


def precision(*tensors: Tensor | None) -> tuple[torch.dtype, torch.dtype]:
    """The common dtype of tensors, and the one to compute in: float32 where that is half precision."""
    dtype = functools.reduce(torch.promote_types, (tensor.dtype for tensor in tensors if tensor is not None))
    return dtype, dtype if dtype.itemsize > 2 else torch.float32


def optionally(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """In another dtype, if there."""
    return None if tensor is None else tensor.to(dtype)
