"""Gumbel variables: conditioned on their maximum, and how likely one is to pass a threshold."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsek._validation import check_dim, check_floating

LATE = 6.0  # exp(-exp(6)) is below the smallest number that changes 1


def gumbel_with_maximum(
    log_probs: Tensor, maximum: Tensor, dim: int = -1, *, generator: torch.Generator | None = None
) -> Tensor:
    r"""Draw independent Gumbel variables with locations φ, given that the largest of each row is `maximum`.

    $$G_i \sim \text{Gumbel}(φ_i) \text{ independent}, \quad \text{given } \max_i G_i = T.$$

    Unconditioned variables $\tilde G$ with maximum Z are drawn and moved, in the order that they have,

    $$v_i = T - \tilde G_i + \log(1 - e^{\tilde G_i - Z}), \qquad G_i = T - \max(0, v_i) - \log(1 + e^{-|v_i|}),$$

    which neither overflows nor cancels. The largest is T exactly. Where $T \sim \text{Gumbel}(\log \sum e^{φ})$, the result is
    a row of independent Gumbel variables: so the Gumbels of the leaves of a tree are drawn from the root down, and only where
    they are looked at. No gradient.

    A location of −inf gives −inf; a row without any other is −inf throughout. A NaN makes its row NaN.

    Shape:
        - log_probs: any shape, n units along `dim`.
        - maximum: the shape of `log_probs` without `dim`.
        - output: the shape of `log_probs`.

    Args:
        log_probs: Locations φ, below +inf; half precision is computed in float32.
        maximum: T, one for each row.
        dim: Dimension of the units.
        generator: Source of randomness.

    Raises:
        ValueError: If an argument is not floating-point, or the shapes do not fit.

    Example:
        >>> phi = torch.tensor([0.5, 0.3, 0.2]).log()
        >>> gumbels = gumbel_with_maximum(phi, torch.tensor(1.5), generator=torch.Generator().manual_seed(0))
        >>> gumbels.max()
        tensor(1.5000)

    References:
        Kool, van Hoof, Welling (2019), "Stochastic Beams and Where to Find Them", appendix B.3, https://arxiv.org/abs/1903.06059
        Maddison, Tarlow, Minka (2014), "A* Sampling", https://arxiv.org/abs/1411.0030
    """
    check_floating("log_probs", log_probs)
    check_floating("maximum", maximum)
    dim = check_dim("log_probs", log_probs, dim)
    phi = log_probs.detach().to(torch.promote_types(log_probs.dtype, torch.float32)).movedim(dim, -1)
    if maximum.shape != phi.shape[:-1]:
        shapes = tuple(maximum.shape), tuple(phi.shape[:-1])
        raise ValueError(f"maximum must have the shape of log_probs without dim, {shapes[1]}, got {shapes[0]}")
    if phi.numel() == 0:
        return torch.empty_like(log_probs)
    free = phi - torch.empty_like(phi).exponential_(generator=generator).log()
    moved = _move(free, maximum.detach().to(phi.dtype).unsqueeze(-1))
    return moved.masked_fill(phi == -torch.inf, -torch.inf).movedim(-1, dim).to(log_probs.dtype)


def _move(free: Tensor, maximum: Tensor) -> Tensor:
    """Move rows of Gumbel variables to another maximum."""
    below = torch.where(free == -torch.inf, -torch.inf, free - free.amax(-1, keepdim=True))
    v = maximum - free + _log1mexp(below)
    return maximum - v.clamp(min=0) - (-v.abs()).exp().log1p()


def _log1mexp(x: Tensor) -> Tensor:
    """Return log(1 − exp(x)) for x <= 0; −inf at 0."""
    near = (-torch.expm1(x)).log()
    return torch.where(x > -0.6931, near, torch.log1p(-x.exp()))


def gumbel_log_inclusion(log_probs: Tensor, threshold: Tensor) -> Tensor:
    r"""Return the log-probability that a Gumbel variable with location φ lies above a threshold κ.

    $$\log q_i = \log P(G_i > κ) = \log\big(1 - e^{-e^{φ_i - κ}}\big).$$

    With κ the (k + 1)-th largest of independent Gumbels, $\sum_{i \in \text{top } k} f_i / q_i$ is an unbiased estimate of
    $\sum_i f_i$. Exact to rounding from $φ - κ = -∞$, where it is $φ - κ$, to +∞, where it is 0; differentiable by autograd.
    κ = −inf, below which nothing is, gives 0; φ = −inf gives −inf.

    Shape:
        - log_probs, threshold: shapes that broadcast; output: the broadcast shape.

    Args:
        log_probs: φ, floating point.
        threshold: κ, floating point.

    Raises:
        ValueError: If an argument is not floating-point, or the shapes do not broadcast.

    Example:
        >>> gumbel_log_inclusion(torch.tensor([0.0, -100.0]), torch.tensor(1.0))
        tensor([  -1.1783, -101.0000])

    References:
        Duffield, Lund, Thorup (2007), "Priority Sampling for Estimation of Arbitrary Subset Sums", https://arxiv.org/abs/cs/0509026
        Kool, van Hoof, Welling (2019), "Stochastic Beams and Where to Find Them", https://arxiv.org/abs/1903.06059
    """
    check_floating("log_probs", log_probs)
    check_floating("threshold", threshold)
    try:
        shape = torch.broadcast_shapes(log_probs.shape, threshold.shape)
    except RuntimeError:
        shapes = tuple(threshold.shape), tuple(log_probs.shape)
        raise ValueError(
            f"threshold of shape {shapes[0]} does not broadcast with log_probs of shape {shapes[1]}"
        ) from None
    impossible = (log_probs == -torch.inf).expand(shape)
    apart = torch.where(impossible, 0.0, log_probs) - threshold
    return torch.where(impossible, -torch.inf, log_arrived(apart))


def log_arrived(z: Tensor) -> Tensor:
    """Return log(1 - exp(-exp(z))): exact to rounding, with finite gradients, for every z up to +inf."""
    small = z < -14
    x = torch.where(small, -14.0, z).clamp(max=LATE).exp()
    return torch.where(small, z.clamp(max=-14) - z.clamp(max=-14).exp() / 2, (-torch.expm1(-x)).log())
