"""Elementary symmetric polynomials in log space."""

from __future__ import annotations

import torch
from torch import Tensor

from ._conditional_poisson import REACH, log_normaliser, natural_rows, within_reach


def log_esp(logits: Tensor, k: int | Tensor, dim: int = -1) -> Tensor:
    r"""Log of the elementary symmetric polynomial $e_k$ of `exp(logits)`, the normaliser of conditional Poisson.

    $$\log e_k(e^θ) = \log \sum_{|s| = k} \exp ⟨θ, s⟩, \quad s ∈ \{0, 1\}^n.$$

    Cauchy's integral on the circle through the saddle point, summed over at most 28 frequencies: O(n) in time and
    memory for every k, relative accuracy of rounding in float64 (all dtypes are computed in float64). The gradient is
    the inclusion probabilities of the conditional Poisson law (:func:`conditional_poisson_marginals`) and the Hessian
    its covariance, both exact and O(n) per product; also under `torch.func` transforms and forward mode.

    At k = 0 the value is 0 and at k = n the sum of the logits. −inf excludes a unit (gradient exactly 0). +inf makes
    a unit certain: the value is +inf and the gradient the limit, 1 for the unit itself; where more than k entries of
    a row are +inf, k split equally among them. A NaN makes its own row NaN.

    Shape:
        - logits: any shape with n units along `dim`.
        - k: 0-d, or broadcasting to the shape of `logits` without `dim`.
        - output: the shape of `logits` without `dim`, and its dtype.

    Args:
        logits: Logs θ of the weights.
        k: Degree: a whole number in [0, number of units above −inf], or a tensor of them. No gradient.
        dim: Dimension of the units.

    Raises:
        ValueError: If `logits` is not floating-point, `dim` is out of range, or `k` is not such a number. Values of
            tensors are checked where they are visible; otherwise a row whose k is out of range is −inf.

    Example:
        >>> import torch
        >>> from sparsek.functional import log_esp
        >>> log_esp(torch.tensor([1.0, 2.0, 3.0, 4.0]).log(), k=2).exp()  # 1·2 + 1·3 + 1·4 + 2·3 + 2·4 + 3·4
        tensor(35.0000)

    References:
        Bornemann (2011). Accuracy and stability of computing high-order derivatives of analytic functions by Cauchy
        integrals.
        https://doi.org/10.1007/s10208-010-9075-z
        Chen, Dempster, Liu (1994). Weighted finite population sampling to maximize entropy.
        https://doi.org/10.1093/biomet/81.3.457
    """
    rows, size = natural_rows(logits, k, dim)
    near, pivot = within_reach(rows, size)
    value: Tensor = log_normaliser(near, size)
    if pivot is not None:
        value = value + _left_out(rows, near.detach(), pivot, size).squeeze(-1)
    return value.to(logits.dtype)


def _left_out(rows: Tensor, near: Tensor, pivot: Tensor, size: Tensor) -> Tensor:
    """What distances from the pivot leave out: what was cut of the m units that are surely in, and k − m times the pivot."""
    certain = (near >= REACH) & rows.isfinite()
    cut = torch.where(certain, rows - near, 0.0).sum(-1, keepdim=True)
    return cut + (size - certain.sum(-1, keepdim=True)) * pivot
