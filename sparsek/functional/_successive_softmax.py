"""k softmaxes in succession, each with the earlier picks taken out softly."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsek._validation import check_positive, inspectable

from ._rows import Rows, scale_column, scaled, to_rows


def successive_softmax(
    input: Tensor, k: float | Tensor, dim: int = -1, *, temperature: float | Tensor = 1.0, mask: Tensor | None = None
) -> Tensor:
    r"""Relax top-k by k softmaxes, each with the earlier picks taken out softly.

    $$w^{(j)} = \operatorname{softmax}(α^{(j)}/T), \quad α^{(1)} = x, \quad α^{(j+1)} = α^{(j)} + \log(1 - w^{(j)}),
    \qquad \text{output} = \sum_{j=1}^{k} w^{(j)}.$$

    The recursion is that of Xie & Ermon; Plötz & Roth divide by T only once, $α^{(1)} = x/T$: the same at T = 1. The
    sum is k, but **entries can exceed 1**: [3, 0, 0] gives 1.27 at k = 2, T = 2. So this is no vector of inclusion
    probabilities. k must be whole. It costs k softmaxes, and memory of k rows for the gradient, which is by autograd
    through all rounds, exact for `input` and `temperature` and of any order. $1 - w$ of the largest entry is summed
    from the other entries, so that near-certain picks are taken out exactly; what was picked with certainty gets
    weight 0 in all later rounds.

    k = 0 gives zeros. k = n gives a sum of n, not ones. Units at +inf are exactly 1 and use up one round each, masked
    ones and -inf exactly 0. A NaN that is not masked makes its own row NaN. Under `torch.compile` or `torch.func` a
    tensor k costs n rounds, of which the unused ones have weight 0.

    Shape:
        - input: any shape, n units along `dim`.
        - k, temperature: a number, or a tensor that broadcasts to the shape of `input` without `dim`.
        - output: the shape of `input`.

    Args:
        input: Scores, floating point; half precision is computed in float32.
        k: Number of rounds, a whole number in [0, number of valid units].
        dim: Dimension of the units.
        temperature: T > 0; towards 0 the result is hard top-k.
        mask: True = keep; broadcasts to `input`.

    Returns:
        The sum of the softmaxes, in the dtype of `input`.

    Raises:
        ValueError: If an argument has the wrong type, shape or range; if k is not whole; if a row has fewer than k
            valid units, or more than k at +inf. Values are looked at in eager mode only; otherwise such a row is NaN.

    Example:
        >>> successive_softmax(torch.tensor([3.0, 0.0, 0.0]), 2, temperature=2.0)
        tensor([1.2665, 0.3667, 0.3667])

    References:
        Plötz, Roth, 2018, "Neural Nearest Neighbors Networks", https://arxiv.org/abs/1810.12575
        Xie, Ermon, 2019, "Reparameterizable Subset Sampling via Continuous Relaxations",
        https://arxiv.org/abs/1901.10517
    """
    check_positive("temperature", temperature)
    rows = to_rows(input, k, dim, mask, integer=True)
    if isinstance(temperature, Tensor):
        temperature = scale_column("temperature", temperature, rows.scores)
    keys = rows.scores
    if rows.free is not None:
        keys = keys.masked_fill(~rows.free & rows.free.any(-1, keepdim=True), -torch.inf)
    whole = torch.where(rows.k == rows.k.round(), rows.k, torch.nan).to(keys.dtype)
    total = 0.0 * rows.scores + 0.0 * whole
    for done in range(_rounds(rows, k)):
        weights = _over(keys, temperature).softmax(-1)
        total = total + torch.where(rows.k > done, weights, 0.0)
        keys = keys + _log_complement(weights)
        keys = keys.masked_fill((keys == -torch.inf).all(-1, keepdim=True), 0.0)  # a row that is done
    return rows.restore(total)


def _rounds(rows: Rows, k: float | Tensor) -> int:
    if inspectable(rows.scores, rows.k):
        return int(rows.k.nan_to_num().max()) if rows.k.numel() else 0
    return rows.scores.shape[-1] if isinstance(k, Tensor) else int(k)


def _over(keys: Tensor, temperature: float | Tensor) -> Tensor:
    """Keys over the temperature; what is out stays at −inf."""
    return torch.where(keys == -torch.inf, keys, scaled(keys, temperature))


def _log_complement(weights: Tensor) -> Tensor:
    """log(1 − w); −inf, with gradient 0, where w is 1."""
    largest = torch.zeros_like(weights, dtype=torch.bool).scatter(-1, weights.argmax(-1, keepdim=True), True)
    rest = weights.masked_fill(largest, 0.0).sum(-1, keepdim=True)
    complement = torch.where(largest, rest, 1 - weights)
    gone = complement < torch.finfo(weights.dtype).tiny  # the logarithm of less has no finite gradient
    return complement.masked_fill(gone, 1.0).log().masked_fill(gone, -torch.inf)
