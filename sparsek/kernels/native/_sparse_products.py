"""Calls of sparse_products.cpp. Tensors of a call have one dtype, float32 or float64; indices and offsets are int64."""

from __future__ import annotations

import torch
from torch import Tensor

from ._call import INT, LONG, POINTER, Function

_BAGS = Function("sparse_products", "sparse_bags", *[POINTER] * 3, LONG, POINTER, LONG, POINTER, INT)
_TRANSPOSED = Function(
    "sparse_products", "sparse_bags_transposed", *[POINTER] * 3, LONG, POINTER, LONG, POINTER, LONG, INT
)
_DOTS = Function("sparse_products", "sparse_dots", POINTER, POINTER, LONG, POINTER, POINTER, LONG, POINTER, INT)


def sparse_bags(values: Tensor, indices: Tensor, offsets: Tensor, weight: Tensor) -> Tensor:
    """The sparse matrix (rows, n) times `weight` (n, d)."""
    values, indices, offsets, weight = (_plain(t) for t in (values, indices, offsets, weight))
    rows, d = offsets.numel() - 1, weight.shape[1]
    out = torch.empty((rows, d), dtype=weight.dtype)
    pointers = values.data_ptr(), indices.data_ptr(), offsets.data_ptr(), rows, weight.data_ptr()
    _BAGS[weight.dtype](*pointers, d, out.data_ptr(), torch.get_num_threads())
    return out


def sparse_bags_transposed(values: Tensor, indices: Tensor, offsets: Tensor, input: Tensor, n: int) -> Tensor:
    """The transpose of the sparse matrix (rows, n) times `input` (rows, d)."""
    values, indices, offsets, input = (_plain(t) for t in (values, indices, offsets, input))
    rows, d = input.shape
    out = torch.empty((n, d), dtype=input.dtype)
    pointers = values.data_ptr(), indices.data_ptr(), offsets.data_ptr(), rows, input.data_ptr()
    _TRANSPOSED[input.dtype](*pointers, d, out.data_ptr(), n, torch.get_num_threads())
    return out


def sparse_dots(input: Tensor, weight: Tensor, indices: Tensor, offsets: Tensor) -> Tensor:
    """⟨input of the row, weight of the column⟩ for the entries of the pattern."""
    input, weight, indices, offsets = (_plain(t) for t in (input, weight, indices, offsets))
    out = torch.empty(indices.shape, dtype=input.dtype)
    pointers = indices.data_ptr(), offsets.data_ptr(), input.shape[0], out.data_ptr()
    _DOTS[input.dtype](input.data_ptr(), weight.data_ptr(), input.shape[1], *pointers, torch.get_num_threads())
    return out


def _plain(tensor: Tensor) -> Tensor:
    return tensor.resolve_neg().contiguous()
