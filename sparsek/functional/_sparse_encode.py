"""A linear layer of which the k largest outputs are wanted, or those at given units: sparse both ways."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsek._validation import check_floating, check_k, values_visible
from sparsek.kernels import native

from ._precision import optionally, precision
from ._sparse_products import as_rows, regular_offsets, sparse_dots
from ._sparse_topk import SparseCode, topk_of_rows

_BLOCK = 2**21
"""Entries of the dense product that are made at once: 8 MiB of floats stay in the cache until they are looked at."""
_ROWS = 2048
"""Rows that are searched together."""


def sparse_encode(input: Tensor, weight: Tensor, bias: Tensor | None, k: int, *, magnitude: bool = False) -> SparseCode:
    r"""Return the k largest of $a_i = ⟨w_i, x⟩ + b_i$ with their indices: $\operatorname{sparse\_topk}(xW^\top + b, k)$.

    The product with all n rows of the weight is made once, forward. It is not kept: on the CPU its blocks are searched while they
    are in the cache. Backward is sparse: only the k winners of each row get a gradient, as they do through a dense `topk`.
    With $g$ the gradient to the values, $∂L/∂x = \sum_j g_j w_{i_j}$ is a bag of rows of the weight, and $∂L/∂w_i$ the sum of
    $g\,x$ over the tokens that chose i, a bag of rows of the input after one sort of the B·k indices.

    Shape:
        - input: (..., d).
        - weight: (n, d). bias: (n,) or None.
        - output: values and indices, (..., k): value descending, ties index ascending.

    Args:
        input: Tokens.
        weight: Directions of the units, one per row.
        bias: Of the units.
        k: How many, in [0, n].
        magnitude: Whether to rank by absolute value. Values keep their sign.

    Returns:
        Values, without a nonlinearity, and indices. Half precision is computed in float32 and returned in half.

    Raises:
        ValueError: If shapes do not fit or k is not a whole number in [0, n].

    Example:
        >>> weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
        >>> sparse_encode(torch.tensor([[2.0, 5.0]]), weight, None, k=2)
        SparseCode(values=tensor([[5., 2.]]), indices=tensor([[1, 0]]))

    References:
        Gao et al., 2024, "Scaling and evaluating sparse autoencoders", https://arxiv.org/abs/2406.04093
    """
    _check_linear(input, weight, bias)
    check_k(k, input.shape[:-1], weight.shape[0], integer=True)
    dtype, exact = precision(input, weight, bias)
    x, w, b = input.to(exact), weight.to(exact), optionally(bias, exact)
    rows = as_rows(x)
    values, indices = _linear_topk_op(
        *(rows.detach(), w.detach(), None if b is None else b.detach()), int(k), magnitude
    )
    values = _at(rows, w, b, indices, values)
    shape = (*input.shape[:-1], int(k))
    return SparseCode(values.view(shape).to(dtype), indices.view(shape))


def sparse_linear(
    input: Tensor, weight: Tensor, bias: Tensor | None, indices: Tensor, *, known: Tensor | None = None
) -> Tensor:
    r"""Return the outputs $⟨w_i, x⟩ + b_i$ of a linear layer at the units `indices` of each row alone.

    Costs k dot products a row, both ways; or nothing forward, if the outputs are at hand as `known`. So the values of any
    choice of units from a dense product without a graph get the gradient of that product.

    Shape:
        - input: (..., d).
        - weight: (n, d). bias: (n,) or None.
        - indices, known, output: (..., k).

    Args:
        input: Tokens.
        weight: Directions of the units, one per row.
        bias: Of the units.
        indices: Units of each row, int64 in [0, n).
        known: The outputs, computed before. No gradient flows to it.

    Returns:
        Values. Half precision is computed in float32 and returned in half.

    Raises:
        ValueError: If shapes do not fit or an index is outside [0, n).

    Example:
        >>> weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
        >>> sparse_linear(torch.tensor([[2.0, 5.0]]), weight, None, torch.tensor([[2, 1]]))
        tensor([[-2.,  5.]])
    """
    _check_linear(input, weight, bias)
    check_indices(indices, weight.shape[0])
    if indices.shape[:-1] != input.shape[:-1]:
        raise ValueError(f"indices must have shape {(*input.shape[:-1], 'k')}, got {tuple(indices.shape)}")
    if known is not None and known.shape != indices.shape:
        raise ValueError(f"known must have the shape of indices, {tuple(indices.shape)}, got {tuple(known.shape)}")
    dtype, exact = precision(input, weight, bias)
    x, w, b = input.to(exact), weight.to(exact), optionally(bias, exact)
    rows, flat = as_rows(x), as_rows(indices)
    given = None if known is None else known.detach().to(x.dtype).reshape(flat.shape)
    return _at(rows, w, b, flat, given).view(indices.shape).to(dtype)


def _at(rows: Tensor, weight: Tensor, bias: Tensor | None, indices: Tensor, known: Tensor | None) -> Tensor:
    """Outputs at (rows, k) indices, with the gradient of the layer."""
    offsets = regular_offsets(indices)
    known = None if known is None else known.reshape(-1)
    return sparse_dots(rows, weight, indices.reshape(-1), offsets, bias, known).view(indices.shape)


_LIBRARY = torch.library.Library("sparsek", "FRAGMENT")
_LIBRARY.define(
    "linear_topk(Tensor input, Tensor weight, Tensor? bias, SymInt k, bool magnitude) -> (Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)


@torch.library.impl(_LIBRARY, "linear_topk", "CompositeExplicitAutograd")
def _linear_topk(rows: Tensor, weight: Tensor, bias: Tensor | None, k: int, magnitude: bool) -> tuple[Tensor, Tensor]:
    if k and rows.numel() and native.takes(rows, "sparse_topk") and native.takes(weight, "sparse_topk"):
        blocks = [_by_blocks(part, weight, bias, k, magnitude) for part in rows.split(_ROWS)]
        return torch.cat([block[0] for block in blocks]), torch.cat([block[1] for block in blocks])
    values, indices = topk_of_rows(F.linear(rows, weight, bias), k, magnitude=magnitude)
    return values, indices


@torch.library.register_fake("sparsek::linear_topk", lib=_LIBRARY)
def _(rows: Tensor, weight: Tensor, bias: Tensor | None, k: int, magnitude: bool) -> tuple[Tensor, Tensor]:
    shape = (rows.shape[0], k)
    return rows.new_empty(shape), rows.new_empty(shape, dtype=torch.int64)


@torch.library.register_vmap("sparsek::linear_topk", lib=_LIBRARY)
def _(
    info: Any,
    in_dims: tuple[int | None, ...],
    rows: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    k: int,
    magnitude: bool,
) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
    if in_dims[1] is None and in_dims[2] is None:  # one layer: the batch is more rows
        batched = rows.movedim(in_dims[0] or 0, 0)
        values, indices = _linear_topk_op(batched.flatten(0, 1), weight, bias, k, magnitude)
        shape = (*batched.shape[:2], k)
        return (values.view(shape), indices.view(shape)), (0, 0)
    parts = [
        [
            None if tensor is None else tensor if dim is None else tensor.select(dim, i)
            for tensor, dim in zip((rows, weight, bias), in_dims, strict=False)
        ]
        for i in range(info.batch_size)
    ]
    found = [_linear_topk_op(*part, k, magnitude) for part in parts]
    return (torch.stack([values for values, _ in found]), torch.stack([indices for _, indices in found])), (0, 0)


_linear_topk_op: Callable[..., tuple[Tensor, Tensor]] = torch.ops.sparsek.linear_topk.default


def _by_blocks(rows: Tensor, weight: Tensor, bias: Tensor | None, k: int, magnitude: bool) -> tuple[Tensor, Tensor]:
    """Search the dense product block by block of units; all blocks are made in one buffer."""
    pool = native.SparseTopK(rows.shape[0], k, rows.dtype, magnitude=magnitude)
    units = max(_BLOCK // rows.shape[0], k, 256)
    buffer = rows.new_empty(rows.shape[0] * min(units, weight.shape[0]))
    for first in range(0, weight.shape[0], units):
        part = weight[first : first + units]
        block = buffer[: rows.shape[0] * part.shape[0]].view(rows.shape[0], -1)
        torch.mm(rows, part.T, out=block)
        pool.update(block, first, None if bias is None else bias[first : first + units])
    return pool.finish()


def check_indices(indices: Tensor, n: int) -> None:
    """Refuse indices that are not int64 in [0, n)."""
    if not isinstance(indices, Tensor):
        raise ValueError(f"indices must be an int64 tensor, got {type(indices).__name__}")
    if indices.dtype != torch.int64 or indices.dim() == 0:
        raise ValueError(
            f"indices must be int64 of shape (..., k), got {indices.dtype} of shape {tuple(indices.shape)}"
        )
    if indices.numel() and values_visible(indices):
        least, most = (int(value) for value in indices.aminmax())
        if least < 0 or most >= n:
            raise ValueError(f"indices must lie in [0, {n - 1}], got values from {least} to {most}")


def _check_linear(input: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    check_floating("input", input)
    check_floating("weight", weight)
    if weight.dim() != 2:
        raise ValueError(f"weight must have shape (n, d), got {tuple(weight.shape)}")
    if input.dim() == 0 or input.shape[-1] != weight.shape[1]:
        raise ValueError(f"input must have shape (..., {weight.shape[1]}) for this weight, got {tuple(input.shape)}")
    if bias is not None:
        check_floating("bias", bias)
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must have shape ({weight.shape[0]},) for this weight, got {tuple(bias.shape)}")
