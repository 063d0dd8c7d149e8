"""A sparse code times a dictionary."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from sparsek._validation import check_floating

from ._precision import precision
from ._sparse_encode import check_indices
from ._sparse_products import as_rows, regular_offsets, sparse_bags


def sparse_decode(
    values: Tensor,
    indices: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    levels: Sequence[int] | None = None,
) -> Tensor:
    r"""Return $\hat x = \sum_j v_j\,w_{i_j} + b$: k rows of the dictionary, weighted and added.

    With `levels` $l_1 < l_2 < \dots$ the reconstructions $\hat x^{(m)} = \sum_{j<l_m} v_j\,w_{i_j} + b$ from the first $l_m$
    entries: each level adds its increment to the one before, so all cost one decode.

    Computed by `embedding_bag`; on the CPU by C++, with a backward in half the time. Gradients are exact: ∂L/∂v_j =
    ⟨∂L/∂x̂, w_{i_j}⟩, and ∂L/∂w_i is a bag of rows of ∂L/∂x̂, one for each unit, after one sort of the B·k indices. No tensor of B·n
    numbers is made, unless more than 1/16 of the code is there: then a dense product is faster, and is used. An index that occurs
    twice in a row is added twice.

    Shape:
        - values, indices: (..., k).
        - weight: (n, d). bias: (d,).
        - output: (..., d); (..., levels, d) with `levels`.

    Args:
        values: Activations.
        indices: Units, int64 in [0, n). Those of entries with value 0 must be in range too.
        weight: Dictionary, one direction per row.
        bias: Added to every reconstruction.
        levels: Rising numbers of entries in [0, k].

    Returns:
        Reconstructions. Half precision is computed in float32 and returned in half.

    Raises:
        ValueError: If shapes do not fit, an index is outside [0, n), or `levels` do not rise within [0, k].

    Example:
        >>> dictionary = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        >>> values, indices = torch.tensor([[3.0, 2.0]]), torch.tensor([[2, 0]])
        >>> sparse_decode(values, indices, dictionary)
        tensor([[5., 3.]])
        >>> sparse_decode(values, indices, dictionary, levels=(1, 2))
        tensor([[[3., 3.],
                 [5., 3.]]])
    """
    check_code(values, indices, weight, bias)
    dtype, exact = precision(values, weight, bias)
    batch, k = values.shape[:-1], values.shape[-1]
    flat, units, dictionary = as_rows(values.to(exact)), as_rows(indices), weight.to(exact)
    if levels is None:
        output = decode_rows(flat, units, dictionary).view(*batch, weight.shape[1])
    else:
        check_levels(levels, k)
        output = decode_levels(flat, units, dictionary, levels).view(*batch, len(levels), weight.shape[1])
    return (output if bias is None else output + bias.to(exact)).to(dtype)


def decode_rows(values: Tensor, indices: Tensor, weight: Tensor) -> Tensor:
    """(rows, k) to (rows, d)."""
    return sparse_bags(values.reshape(-1), indices.reshape(-1), regular_offsets(indices), weight)


def decode_levels(
    values: Tensor, indices: Tensor, weight: Tensor, levels: Sequence[int], constant: Tensor | None = None
) -> Tensor:
    """(rows, k) to (rows, levels, d): a bag for each increment, and their running sum from a constant (1 or rows, d) on."""
    rows, most = values.shape[0], levels[-1]
    starts = regular_offsets(indices[:, :most])
    steps = torch.tensor([0, *levels[:-1]], device=indices.device)
    offsets = torch.cat(((starts[:-1, None] + steps).flatten(), starts[-1:]))
    bags = sparse_bags(values[:, :most].reshape(-1), indices[:, :most].reshape(-1), offsets, weight)
    return running_sum(bags.view(rows, len(levels), weight.shape[1]), constant)


def running_sum(parts: Tensor, start: Tensor | None = None) -> Tensor:
    """Along dimension 1, which is short: twice as fast there as `cumsum`."""
    first, *rest = parts.unbind(1)
    return torch.stack([*accumulate([first if start is None else first + start, *rest])], 1)


def check_levels(levels: Sequence[int], k: int | None = None) -> None:
    """Refuse levels that are not rising whole numbers in [0, k]."""
    whole = len(levels) > 0 and all(isinstance(level, int) and level >= 0 for level in levels)
    if not whole or any(a >= b for a, b in pairwise(levels)):
        raise ValueError(f"levels must be rising whole numbers, at least one, got {tuple(levels)}")
    if k is not None and levels[-1] > k:
        raise ValueError(f"levels must be at most k = {k}, the width of the code, got {tuple(levels)}")


def check_code(values: Tensor, indices: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Refuse a code that does not fit the dictionary."""
    check_floating("values", values)
    check_floating("weight", weight)
    if weight.dim() != 2:
        raise ValueError(f"weight must have shape (n, d), got {tuple(weight.shape)}")
    check_indices(indices, weight.shape[0])
    if values.shape != indices.shape:
        raise ValueError(f"values must have the shape of indices, {tuple(indices.shape)}, got {tuple(values.shape)}")
    if bias is not None:
        check_floating("bias", bias)
    if bias is not None and bias.shape != weight.shape[1:]:
        raise ValueError(f"bias must have shape ({weight.shape[1]},) for this weight, got {tuple(bias.shape)}")
