"""Sigmoids scaled to sum to k."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsek._validation import check_positive

from ._rows import scale_column, scaled, to_rows


def scaled_sigmoid(
    input: Tensor, k: float | Tensor, dim: int = -1, *, temperature: float | Tensor = 1.0, mask: Tensor | None = None
) -> Tensor:
    r"""Inclusion probabilities that sum to k: independent sigmoids, scaled down towards 0 or up towards 1.

    $$π_i = \frac{k}{S} p_i \ \text{ if } S ≥ k, \qquad π_i = 1 - \frac{n-k}{n-S} (1 - p_i) \ \text{ if } S < k,
    \qquad p = σ(x/T), \; S = \sum_j p_j.$$

    One pass and no solver. It keeps the order of the scores and lies on the capped simplex, but it is not invariant to
    adding a constant to the scores, and no temperature makes it hard top-k: with S > k, no unit passes k/S. The
    gradient is that of the formula, by autograd; it has a kink where S = k. The ratios p/S and (1 - p)/(n - S) are
    softmaxes of log-sigmoids, so that nothing underflows.

    k = 0 gives zeros, k = n ones. Units at +inf are exactly 1 (and leave the competition), masked ones and -inf exactly
    0. A NaN that is not masked makes its own row NaN.

    Shape:
        - input: any shape, n units along `dim`.
        - k: a number, or a tensor that broadcasts to the shape of `input` without `dim`.
        - temperature: a number, or a tensor that broadcasts to the shape of `input` without `dim`.
        - output: the shape of `input`.

    Args:
        input: Scores, floating point; half precision is computed in float32.
        k: Sum of the probabilities, in [0, number of valid units]; may be real.
        dim: Dimension of the units.
        temperature: T > 0.
        mask: True = keep; broadcasts to `input`.

    Returns:
        The probabilities, in the dtype of `input`.

    Raises:
        ValueError: If an argument has the wrong type, shape or range; if a row has fewer than k valid units, or more
            than k at +inf. Values are looked at in eager mode only; otherwise such a row is NaN.

    Example:
        >>> scaled_sigmoid(torch.tensor([2.0, 1.0, 0.0, -1.0]), 2)
        tensor([0.7399, 0.6141, 0.4200, 0.2259])

    References:
        Pervez, Lippe, Gavves, 2023, "Scalable Subset Sampling with Neural Conditional Poisson Networks",
        https://openreview.net/forum?id=p8hMBcPtvju
    """
    check_positive("temperature", temperature)
    rows = to_rows(input, k, dim, mask)
    if isinstance(temperature, Tensor):
        temperature = scale_column("temperature", temperature, rows.scores)
    logits = scaled(rows.scores, temperature)
    units = logits.shape[-1] if rows.free is None else rows.free.sum(-1, keepdim=True)
    total = _over_free(logits.sigmoid(), rows.free, 0.0).sum(-1, keepdim=True)
    down = rows.k.to(total.dtype) * _share(logits, rows.free)
    up = 1 - (units - rows.k).to(total.dtype) * _share(-logits, rows.free)
    return rows.restore(torch.where((total > rows.k) | (rows.k == 0), down, up).clamp(0, 1))


def _share(logits: Tensor, free: Tensor | None) -> Tensor:
    """σ(logits) over its sum along the row, without underflow."""
    return _over_free(F.logsigmoid(logits), free, -torch.inf).softmax(-1)


def _over_free(value: Tensor, free: Tensor | None, fill: float) -> Tensor:
    """`fill` where units do not compete; rows without any stay as they are, so that nothing turns to NaN."""
    return value if free is None else value.masked_fill(~free & free.any(-1, keepdim=True), fill)
