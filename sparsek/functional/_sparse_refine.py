"""Better values for a sparse code whose units are chosen."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from sparsek._validation import check_count, check_floating

from ._precision import precision
from ._sparse_decode import check_code
from ._sparse_products import as_rows, regular_offsets, rows_of, sparse_bags, sparse_dots


def sparse_refine(
    input: Tensor, values: Tensor, indices: Tensor, weight: Tensor, bias: Tensor | None = None, *, steps: int = 1
) -> Tensor:
    r"""Return better values for the same units: steps of descent on $\tfrac12 \lVert x - \sum_j v_j\,w_{i_j} - b \rVert^2$ over v.

    A linear encoder gives each unit a value that knows nothing of the other units that were chosen. One step repairs most of that: the
    gradient $g_j = ⟨w_{i_j}, x - \hat x⟩$ with an exact line search (gradient pursuit); values that would change sign stop at 0, and the
    step to there is cut to where the error is least. So the error never grows, and with many steps it falls to that of the least
    squares over values of these signs, of non-negative ones for a code of a ReLU. Entries with value 0 stay 0.

    A step costs three decodes: one product ⟨w, ·⟩ for each entry, and two sums of rows. Differentiable, the signs kept.

    Shape:
        - input: (..., d).
        - values, indices, output: (..., k).
        - weight: (n, d). bias: (d,).

    Args:
        input: What the code is to reconstruct.
        values: Where to start.
        indices: Units, int64 in [0, n).
        weight: Dictionary, one direction per row; of any norms.
        bias: Added to every reconstruction.
        steps: At least 0.

    Returns:
        Values. Half precision is computed in float32 and returned in half. NaN or infinity in a row is NaN in its values.

    Raises:
        ValueError: If shapes do not fit, an index is outside [0, n), or `steps` is not a whole number of at least 0.

    Example:
        >>> dictionary = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
        >>> x, code = torch.tensor([[1.0, 1.0]]), (torch.tensor([[1.0, 1.4]]), torch.tensor([[0, 1]]))
        >>> sparse_refine(x, *code, dictionary)
        tensor([[0.4641, 1.0172]])
        >>> sparse_refine(x, *code, dictionary, steps=20).round(decimals=2)
        tensor([[0.2500, 1.2500]])

    References:
        Blumensath & Davies, 2008, "Gradient Pursuits", https://doi.org/10.1109/TSP.2007.916124
    """
    check_floating("input", input)
    check_code(values, indices, weight, bias)
    check_count("steps", steps, 0)
    if input.shape != (*values.shape[:-1], weight.shape[1]):
        raise ValueError(f"input must have shape {(*values.shape[:-1], weight.shape[1])}, got {tuple(input.shape)}")
    dtype, exact = precision(input, values, weight, bias)
    target = input.to(exact) if bias is None else input.to(exact) - bias.to(exact)
    flat, units, dictionary = values.to(exact).reshape(-1), as_rows(indices), weight.to(exact)
    offsets = regular_offsets(units)
    residual = as_rows(target) - sparse_bags(flat, units.reshape(-1), offsets, dictionary)
    return refine_entries(residual, flat, units.reshape(-1), offsets, dictionary, steps).view(values.shape).to(dtype)


def refine_entries(
    residual: Tensor, values: Tensor, indices: Tensor, offsets: Tensor, weight: Tensor, steps: int
) -> Tensor:
    """The same of rows with any number of entries.

    Args:
        residual: (rows, d): what these entries leave of the target.
        values: (entries,), row after row.
        indices: (entries,).
        offsets: (rows + 1,): where each row begins, and the end.
        weight: (n, d).
        steps: At least 0.
    """
    rows = rows_of(offsets, indices.numel())
    return _descend(
        residual,
        values,
        lambda vectors: sparse_dots(vectors, weight, indices, offsets, None, None),
        lambda entries: sparse_bags(entries, indices, offsets, weight),
        lambda lengths: lengths[rows],
        steps,
    )


def refine_dense(residual: Tensor, values: Tensor, weight: Tensor, steps: int) -> Tensor:
    """The same of a number for every unit, (rows, n)."""
    products = partial(torch.matmul, other=weight.T), partial(torch.matmul, other=weight)
    return _descend(residual, values, *products, lambda lengths: lengths.unsqueeze(-1), steps)


Map = Callable[[Tensor], Tensor]


def _descend(residual: Tensor, values: Tensor, dots: Map, decode: Map, spread: Map, steps: int) -> Tensor:
    sign = values.detach().sign()
    for _ in range(steps):
        slope = dots(residual)
        slope = torch.where((values == 0) & (slope * sign <= 0), 0, slope)
        aimed = values + spread(_best_length(residual, decode(slope))) * slope
        change = sign * (sign * aimed).relu() - values
        moved = decode(change)
        length = _best_length(residual, moved).clamp(max=1)
        values, residual = values + spread(length) * change, residual - length.unsqueeze(-1) * moved
    return values


def _best_length(residual: Tensor, direction: Tensor) -> Tensor:
    """(rows,): of the step that leaves the least; 0 where there is no direction."""
    size = direction.detach().abs().amax(-1, keepdim=True) if direction.shape[-1] else direction.sum(-1, keepdim=True)
    none = (size == 0) | size.isinf()
    unit = direction / size.masked_fill(none, 1)  # its square neither overflows nor vanishes
    length = (residual * unit).sum(-1) / unit.square().sum(-1).masked_fill(none.squeeze(-1), 1)
    return torch.where(none, 0, length.unsqueeze(-1) / size.masked_fill(none, 1)).squeeze(-1)
