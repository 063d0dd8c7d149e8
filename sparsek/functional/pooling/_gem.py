"""Generalised mean (GeM): the power mean of every dimension."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sparsek._validation import check_positive, values_visible

from ._blocks import LogRatio, in_blocks
from ._log_mean_power import log_mean_power
from ._plain_power import plain_exponent, plain_power_mean
from ._portable import log1p
from ._signed import RefuseNegative, SignedPower, SignPolicy
from ._tokens import blank, check_tokens, empty_rows, kept, select, wide, with_a_token

_REFUSE = RefuseNegative()


def gem_pool(
    x: Tensor, p: float | Tensor = 3.0, mask: Tensor | None = None, *, eps: float = 1e-6, signed: SignPolicy = _REFUSE
) -> Tensor:
    r"""Power mean of the kept activations of every dimension.

    $$y_d = \Big(\frac1n \sum_{t \text{ kept}} \max(x_{td}, ε)^p\Big)^{1/p}.$$

    p = 1 is the mean, p → ∞ the maximum, p → −∞ the minimum, p = −1 the harmonic mean, and p = 0 the limit, the geometric
    mean. Computed in log space relative to the largest (p < 0: smallest) activation, so no power overflows, and without
    cancellation at any p; with a plain power of the quotient where p is a number in (1, 8], or a 0-d tensor on the CPU that
    needs no gradient. Value, gradient and ∂y/∂p are right to the precision of the dtype, also as a learnt p crosses 0. With
    the shares $s_t = x_t^p/\sum x^p$, $∂y/∂x_t = s_t\, y/x_t$ and $∂y/∂p = y\, \mathrm{KL}(s \| 1/n)/p^2$. Activations
    clamped to ε receive no gradient. A row without a kept token gives 0.

    An infinite activation gives its limit: ∞ for p ≥ 0 (−∞ under :class:`SignedPower` if it is negative, NaN if there are both),
    a constant, so its dimension passes no gradient to x and p; for p < 0 its power is 0, the value finite, its gradient 0 and
    the others exact, unless all kept ones are infinite.

    Shape:
        - x: (..., T, D).
        - p: 0-d, or broadcasting to (..., D): a power per channel.
        - mask: broadcasts to (..., T).
        - output: (..., D).

    Args:
        x: Activations, floating point; half precision is computed in float32. Masked ones may hold anything.
        p: Power, finite: a number, or a tensor with gradient.
        mask: True = keep.
        eps: ε > 0.
        signed: What negative activations mean: :class:`RefuseNegative`, :class:`ClampNegative`, :class:`AbsoluteValue`
            or :class:`SignedPower` (p > 0).

    Raises:
        ValueError: If an argument has the wrong type, shape or range, or activations are negative under `RefuseNegative`.
            Values of tensors are looked at in eager mode; otherwise the result is NaN in that dimension.

    Example:
        >>> import torch
        >>> from sparsek.functional.pooling import gem_pool
        >>> x = torch.tensor([[1.0], [0.5], [2.0], [0.3]])
        >>> torch.cat([gem_pool(x, p) for p in (-1, 0, 1, 3, 100)])
        tensor([0.5854, 0.7401, 0.9500, 1.3177, 1.9725])

    References:
        Radenović, Tolias, Chum (2018), "Fine-tuning CNN Image Retrieval with No Human Annotation",
        https://arxiv.org/abs/1711.02512.
    """
    rows, mask, power = _prepare(x, p, mask, eps, signed)
    keep, size, signs = kept(rows, mask), signed.magnitudes(rows, eps), signed.signs(rows)
    exponent = plain_exponent(p)
    if exponent is None:
        infinite, output = _by_logarithms(size, signs, power, keep)
    else:
        infinite, output = plain_power_mean(size, signs, exponent, keep)
    return blank(torch.where(infinite, _infinity(rows, signs), output), empty_rows(rows, mask)).to(x.dtype)


def gem_weights(
    x: Tensor, p: float | Tensor = 3.0, mask: Tensor | None = None, *, eps: float = 1e-6, signed: SignPolicy = _REFUSE
) -> Tensor:
    r"""The share of every activation in the sum of powers, $x_t^p / \sum x^p$, (..., T, D); 0 where masked.

    Under :class:`SignedPower` shares carry the sign of their activation over that of the sum, and still sum to 1. Arguments and
    errors are those of :func:`gem_pool`.

    Example:
        >>> import torch
        >>> from sparsek.functional.pooling import gem_weights
        >>> gem_weights(torch.tensor([[1.0], [0.5], [2.0], [0.3]]), p=1).squeeze(-1)
        tensor([0.2632, 0.1316, 0.5263, 0.0789])
    """
    check_tokens(x, mask)
    length = x.shape[-2]
    rows, mask, power = _prepare(x, p, mask, eps, signed)
    keep = kept(rows, mask)
    size = select(signed.magnitudes(rows, eps), keep, 1.0)
    reference = _reference(size, power, keep)
    infinite = reference.isinf()
    ratio = _log_ratio(torch.where(infinite.unsqueeze(-2), 1.0, size), torch.where(infinite, 1.0, reference))
    far = torch.where(size.isinf(), size.new_zeros(()), torch.finfo(size.dtype).min)
    scores = select(_along(power) * torch.where(infinite.unsqueeze(-2), far, ratio), keep, -torch.inf)
    signs = signed.signs(rows)
    if signs is None:
        shares = scores.softmax(-2)
    else:
        powers = signs * scores.exp()
        total = powers.sum(-2, keepdim=True)
        shares = powers / torch.where(total == 0, 1.0, total)
    return select(shares, mask)[..., :length, :].to(x.dtype)


def _prepare(
    x: Tensor, p: float | Tensor, mask: Tensor | None, eps: float, signed: SignPolicy
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Activations with 0 where masked, the mask, and the power as a tensor."""
    check_tokens(x, mask)
    check_positive("eps", eps)
    if not isinstance(signed, SignPolicy):
        raise ValueError(f"signed must be a SignPolicy such as RefuseNegative() or SignedPower(), got {signed!r}")
    rows, mask = with_a_token(wide(x), mask)
    power = _as_power(p, rows)
    if isinstance(signed, SignedPower) and values_visible(power) and bool((power <= 0).any()):
        raise ValueError(f"p must be > 0 with SignedPower(), got {power.min().item():.6g}")
    return select(rows, mask), mask, power


def _as_power(p: float | Tensor, x: Tensor) -> Tensor:
    if not isinstance(p, Tensor):
        if isinstance(p, bool) or not isinstance(p, (int, float, torch.SymInt, torch.SymFloat)) or not math.isfinite(p):
            raise ValueError(f"p must be a finite number or a tensor, got {p!r}")
        return torch.full((), float(p), dtype=x.dtype, device=x.device)
    shape = (*x.shape[:-2], x.shape[-1])
    try:
        fits = p.dim() == 0 or torch.broadcast_shapes(p.shape, shape) == shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(f"p of shape {tuple(p.shape)} is neither 0-d nor broadcasts to the output's shape {shape}")
    if values_visible(p) and not bool(p.isfinite().all()):
        raise ValueError(f"p must be finite, got {p.detach().flatten()[~p.flatten().isfinite()][0].item()}")
    return p.to(x.dtype)


def _along(p: Tensor) -> Tensor:
    return p.unsqueeze(-2) if p.dim() else p


def _reference(size: Tensor, p: Tensor, keep: Tensor | None) -> Tensor:
    """The activation that counts most, (..., D), a constant to autograd: the largest, or for p < 0 the smallest."""
    constant = size.detach()
    if in_blocks(p) and not bool((p < 0).any()):
        return constant.amax(-2)  # masked ones are not above the kept ones
    return torch.where(p < 0, select(constant, keep, torch.inf).amin(-2), select(constant, keep, 0.0).amax(-2))


def _log_ratio(size: Tensor, reference: Tensor) -> Tensor:
    """The logarithms relative to the reference, (..., T, D).

    Near the reference the logarithm is that of 1 plus the exact difference: a rounded quotient to a power of 100 would be off by
    100 roundings.
    """
    scale = torch.where(reference > 0, reference, 1.0).unsqueeze(-2)
    excess, ratio = (size - scale) / scale, size / scale
    close = log1p(excess.clamp(-0.5, 1.0))
    far = ratio.clamp(min=torch.finfo(size.dtype).tiny).log()
    return torch.where((excess > -0.5) & (excess < 1.0), close, far)


def _infinity(rows: Tensor, signs: Tensor | None) -> Tensor | float:
    """The value where activations are infinite: ∞, or with signs that of the infinite ones, NaN if they differ."""
    if signs is None:
        return torch.inf
    constant = rows.detach()
    up, down = (constant == torch.inf).any(-2), (constant == -torch.inf).any(-2)
    return torch.where(up & down, torch.nan, torch.where(down, -torch.inf, torch.inf)).to(rows.dtype)


def _by_logarithms(size: Tensor, signs: Tensor | None, p: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor]:
    """Where a dimension is infinite, and the power mean of the others, (..., D)."""
    fused = signs is None and in_blocks(size, p)
    size = size if fused else select(size, keep, 1.0)
    reference = _reference(size, p, keep)
    infinite = reference.isinf()
    if not fused or bool(infinite.any()):
        reference, size = torch.where(infinite, 1.0, reference), torch.where(infinite.unsqueeze(-2), 1.0, size)
    ratio: Tensor = LogRatio.apply(size, reference) if fused else _log_ratio(size, reference)
    return infinite, reference * _root_of_mean(ratio, signs, p, keep)


def _root_of_mean(ratio: Tensor, signs: Tensor | None, p: Tensor, keep: Tensor | None) -> Tensor:
    """The power mean of e^ratio. With signs: of signed powers, and 0 with gradient 0 where their mean is 0."""
    if signs is None:
        return log_mean_power(ratio, p, keep).exp()
    powers = select(signs * (_along(p) * ratio).exp(), keep)
    number = ratio.shape[-2] if keep is None else keep.sum(-1, keepdim=True).to(ratio.dtype)
    mean = powers.sum(-2) / number
    zero = mean == 0
    return torch.where(zero, 0.0, mean.sign() * torch.where(zero, 1.0, mean.abs()).log().div(p).exp())
