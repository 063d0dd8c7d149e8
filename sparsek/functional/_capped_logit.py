"""The inverse of sigmoid top-k."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsek._validation import check_dim, check_floating, values_visible


def capped_logit(probs: Tensor, dim: int = -1) -> Tensor:
    r"""Scores whose sigmoid top-k is `probs`: log-odds, shifted to mean zero.

    $x_i = \operatorname{logit}(π_i) - \frac{1}{|F|}\sum_{j ∈ F} \operatorname{logit}(π_j)$ over the entries F strictly inside (0, 1).
    Scores are determined up to a constant; this is the one with mean zero over F. Differentiable by autograd inside (0, 1).

    Shape:
        - probs: any shape with n units along `dim`; output the same.

    Args:
        probs: Inclusion probabilities in [0, 1]. 1 gives +inf, 0 gives −inf; a row without an entry inside has no shift.
        dim: Dimension of the units.

    Raises:
        ValueError: `probs` is not floating point, or lies outside [0, 1] where values are visible (otherwise NaN there).

    Example:
        >>> import torch
        >>> from sparsek.functional import capped_logit, sigmoid_topk
        >>> x = torch.tensor([1.5, 0.5, -2.0])
        >>> capped_logit(sigmoid_topk(x, k=1.3))
        tensor([ 1.5000,  0.5000, -2.0000])

    References:
        Wijk, Vinuesa, Azizpour (2025), "Differentiable Top-k: From One-Hot to k-Hot".
    """
    check_floating("probs", probs)
    dim = check_dim("probs", probs, dim)
    if values_visible(probs) and bool(((probs < 0) | (probs > 1)).any()):
        raise ValueError(f"probs must lie in [0, 1], got values from {probs.min().item()} to {probs.max().item()}")
    working = probs if probs.dtype in (torch.float32, torch.float64) else probs.float()
    inside = (working > 0) & (working < 1)
    logits = torch.logit(torch.where(inside, working, 0.5))
    count = inside.sum(dim, keepdim=True).clamp_min(1)
    centred = logits - torch.where(inside, logits, 0.0).sum(dim, keepdim=True) / count
    outside = torch.logit(torch.where(inside, 0.5, working.detach()))
    return torch.where(inside, centred, outside).to(probs.dtype)
