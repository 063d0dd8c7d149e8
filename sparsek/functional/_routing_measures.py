"""What a router knows and learns: entropy of its choice, information on the kind of input, signal in its gradient."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sparsek._validation import check_floating, check_numbers, check_token_mask


def _router_entropy_update(marginals: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Sum over the kept tokens that have any marginals of the entropy of these in nats, in float64, and their number."""
    check_floating("marginals", marginals)
    check_token_mask("mask", mask, marginals.shape[:-1])
    mask = torch.ones_like(marginals[..., 0], dtype=torch.bool) if mask is None else mask
    mask = mask & (marginals.detach() != 0).any(-1)
    values = marginals.double().masked_fill(~mask[..., None], 1)
    shares = values / values.sum(-1, keepdim=True)
    entropy = -torch.special.xlogy(shares, shares).sum(-1)
    return entropy.masked_fill(~mask, 0).sum(), mask.sum()


def _router_entropy_compute(total: Tensor, count: Tensor, num_experts: int | Tensor) -> Tensor:
    return total / count / math.log(num_experts)


def router_entropy(marginals: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Mean entropy of a token's marginals over its largest value, $\tfrac{1}{T \log E} \sum_t H(p_t / \sum_e p_{te})$.

    1 when the router has no opinion (all experts alike), 0 when one expert has all; k experts alike and the rest at 0
    give $\log k / \log E$. A token whose marginals are all 0, as a ReLU gate has, does not count. Differentiable.
    Computed in float64.

    Shape:
        - marginals: (..., experts).
        - mask: (...).
        - output: 0-d.

    Args:
        marginals: Non-negative numbers per expert, of any total.
        mask: True = keep: a real token, not padding.

    Returns:
        A number in [0, 1]; NaN where no token is kept that has any, and for one expert.

    Raises:
        ValueError: If `marginals` is not floating-point or has no experts, or `mask` does not fit.

    Example:
        >>> router_entropy(torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.5, 0.5, 0.5, 0.5]]))
        tensor(0.7500)
    """
    check_floating("marginals", marginals)
    if marginals.dim() == 0 or marginals.shape[-1] == 0:
        raise ValueError(
            f"marginals must have shape (..., experts) with at least one expert, got {tuple(marginals.shape)}"
        )
    total, count = _router_entropy_update(marginals, mask)
    return _router_entropy_compute(total, count, marginals.shape[-1]).to(marginals.dtype)


def mutual_information(counts: Tensor) -> Tensor:
    r"""Mutual information of rows and columns of a table, $\sum_{de} p_{de} \log_2 \tfrac{p_{de}}{p_d\,p_e}$, in bits.

    How much the expert of a slot says about the domain of its token, and the other way round: 0 when every domain
    uses the experts alike, at most $\log_2 \min(D, E)$. This is the plug-in estimate: on N independent slots it exceeds
    the truth by about $(D-1)(E-1) / (2 N \ln 2)$. Computed in float64.

    Shape:
        - counts: (..., domains, experts).
        - output: (...), float64 for float64 and float32 otherwise.

    Args:
        counts: Non-negative counts or shares.

    Returns:
        One number of bits per table; NaN where a table is empty.

    Raises:
        ValueError: If `counts` has fewer than two dimensions.

    Example:
        >>> mutual_information(torch.tensor([[[5, 5], [5, 5]], [[5, 0], [0, 5]]]))
        tensor([0., 1.])

    References:
        Miller, 1955, "Note on the Bias of Information Estimates".
    """
    check_numbers("counts", counts)
    if counts.dim() < 2:
        raise ValueError(f"counts must have shape (..., domains, experts), got {tuple(counts.shape)}")
    joint = counts.double()
    joint = joint / joint.sum((-2, -1), keepdim=True)
    rows, columns = joint.sum(-1, keepdim=True), joint.sum(-2, keepdim=True)
    nats: Tensor = (
        torch.special.xlogy(joint, joint) - torch.special.xlogy(joint, rows) - torch.special.xlogy(joint, columns)
    )
    bits: Tensor = nats.sum((-2, -1)).clamp_min(0) / math.log(2)
    return bits.to(torch.float64 if counts.dtype == torch.float64 else torch.float32)


def _gradient_snr_compute(total: Tensor, squares: Tensor, count: Tensor) -> Tensor:
    r"""From $\sum_b g_b$ (..., parameters), $\sum_b \lVert g_b \rVert^2$ (...) and the number of gradients."""
    power = (total / count).square().sum(-1)
    noise = (squares / count - power).clamp_min(0) * count / (count - 1)  # unbiased trace of the covariance
    return (power - noise / count).clamp_min(0) / noise


def gradient_snr(gradients: Tensor) -> Tensor:
    r"""Signal over noise of a stochastic gradient, $\lVert \mathrm{E}\, g \rVert^2 / \operatorname{tr} \operatorname{Cov} g$.

    From B samples, with unbiased estimates of numerator and denominator, the numerator no less than 0. Its inverse is
    the number of batches to average for noise as large as the signal.

    Shape:
        - gradients: (B, ..., parameters).
        - output: (...), the rank between.

    Args:
        gradients: One gradient per batch at the same parameters, B at least 2 (NaN below).

    Returns:
        A number in [0, ∞] per entry: infinite where all gradients are the same and not 0, NaN where all are 0.

    Raises:
        ValueError: If `gradients` is not floating-point, or has fewer than two dimensions.

    Example:
        >>> gradient_snr(torch.tensor([[3.0, 0.0], [5.0, 0.0]]))
        tensor(7.5000)

    References:
        McCandlish et al., 2018, "An Empirical Model of Large-Batch Training", https://arxiv.org/abs/1812.06162
    """
    check_floating("gradients", gradients)
    if gradients.dim() < 2:
        raise ValueError(f"gradients must have shape (B, ..., parameters), got {tuple(gradients.shape)}")
    samples = gradients.double()
    count = torch.tensor(float(len(samples)), dtype=torch.float64, device=samples.device)
    squares = samples.square().sum((0, -1))
    return _gradient_snr_compute(samples.sum(0), squares, count).to(gradients.dtype)
