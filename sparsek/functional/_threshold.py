r"""The solver behind sigmoid top-k: the threshold τ of each row with $\sum_i \sigma((x_i - τ)/T) = k$.

Three stages, each only for the rows that the one before left open:

1. *Plain passes.* From a start that is right for bell-shaped scores (moments) or for any scores (an exact solve on a
   strided subsample of a long row), Newton on $G(τ) = \operatorname{logit}(\bar σ) - \operatorname{logit}(k/n)$, which is nearly linear.
   A pass is subtract, sigmoid, two sums. Once the step is small, a Taylor polish of the probabilities ends the solve.
2. *Signed passes* for saturated rows, where $\sum σ$ in working precision no longer resolves k: units above the threshold are
   counted and only the small side of every sigmoid is summed, so the residual is accurate however hard the selection is.
3. *Bracketed passes* between order statistics of the row, Newton where it halves the bracket and bisection where it does not.

A row takes at most :data:`MAX_PASSES` passes, whatever its values: the bracket of stage 3 is as wide as the gap between the
⌈k⌉-th and (⌊k⌋+1)-th scores plus $T \log(nk)$, and a gap too wide to bisect is one in whose middle every sigmoid is 0 or 1.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ._polish import Precision, polish_rows, precision
from ._saturated import BRACKETED_PASSES, SIGNED_PASSES, solve_saturated

PLAIN_PASSES = 4
MAX_PASSES = PLAIN_PASSES + SIGNED_PASSES + BRACKETED_PASSES
"""Bound on the passes over a row of any finite input, not counting those over its subsample (1/32 of the row or less)."""

_SUBSAMPLE = 1024
_LONG_ROW = 4096


class Solution(NamedTuple):
    """Inclusion probabilities and their threshold."""

    probs: Tensor
    """(rows, n), the dtype of the scores."""
    threshold: Tensor
    """(rows, 1), float64: `probs` is σ((x - threshold) / temperature)."""


def solve(x: Tensor, k: float | Tensor, temperature: float | Tensor, *, validate: bool) -> Solution:
    """Solve every row of `x` for its threshold.

    Args:
        x: (rows, n) float32 or float64 scores; −inf is never selected, +inf always.
        k: A number, or (rows, 1) float64.
        temperature: A positive number, or (rows, 1) float64.
        validate: Whether a `k` out of range raises; otherwise its row is NaN.

    Raises:
        ValueError: k < 0, k above the number of valid units, or fewer than the number of +inf entries, in some row.
    """
    rows, n = x.shape
    if rows == 1 and n > 0 and _scalar(temperature):
        probs = torch.empty_like(x)
        threshold = _solve_row(x[0], float(k), float(temperature), probs[0])
        if threshold is not None:
            return Solution(probs, torch.full((1, 1), threshold, dtype=torch.float64, device=x.device))
    column = torch.empty((rows, 1), dtype=torch.float64, device=x.device)
    k = column.copy_(k) if isinstance(k, Tensor) else column.fill_(k)
    if n == 0 or rows == 0:
        return Solution(torch.empty_like(x), torch.zeros_like(k))
    if rows == 1:
        return Solution(*solve_saturated(x, k, temperature, torch.full_like(k, math.nan), validate=validate))
    return _solve_rows(x, k, temperature, validate)


def _scalar(value: float | Tensor) -> bool:
    return not isinstance(value, Tensor) or value.numel() == 1


# ── Stage 1, one row: scalars are Python numbers, since at n = 1e3 a tensor operation costs what softmax costs ──────────


def _solve_row(x: Tensor, k: float, temperature: float, probs: Tensor) -> float | None:
    """Solve one regular row into `probs`; None where the row needs a later stage."""
    n = x.numel()
    if not 0 < k < n:
        return None
    limits = precision(x.dtype)
    threshold = _start_row(x, k / n, temperature, probs)
    for _ in range(PLAIN_PASSES):
        total, spread = _pass_row(x, threshold, temperature, probs)
        if not (0 < total < n and spread >= limits.saturation * total):
            return None
        step = _newton_row(total, spread, k, n)
        threshold -= step * temperature
        if abs(step) <= limits.second_order:
            _polish_row(probs, total, spread, k, step, limits)
            return threshold
    return None


def _pass_row(x: Tensor, threshold: float, temperature: float, probs: Tensor) -> tuple[float, float]:
    torch.sub(x, threshold, out=probs)
    if temperature != 1:
        probs.div_(temperature)
    probs.sigmoid_()
    total = probs.sum().item()
    return total, total - torch.dot(probs, probs).item()


def _newton_row(total: float, spread: float, k: float, n: int) -> float:
    distance = math.log(total / k) - math.log((n - total) / (n - k))
    return -distance * total * (n - total) / (spread * n)


def _start_row(x: Tensor, share: float, temperature: float, buffer: Tensor) -> float:
    n = x.numel()
    if n > _LONG_ROW:
        part = x[:: n // max(_SUBSAMPLE, n // 32)].contiguous()
        found = _solve_part(part, share, temperature)
        if found is not None:
            return found
    mean = x.mean().item()
    torch.sub(x, mean, out=buffer)
    variance = torch.dot(buffer, buffer).item() / (n * temperature * temperature)
    return mean - temperature * _logit(share) * math.sqrt(1 + math.pi / 8 * variance)


def _solve_part(part: Tensor, share: float, temperature: float) -> float | None:
    """Solve a subsample as far as sampling error makes worth while."""
    n, k = part.numel(), share * part.numel()
    probs = torch.empty_like(part)
    threshold = _start_row(part, share, temperature, probs)
    for _ in range(PLAIN_PASSES):
        total, spread = _pass_row(part, threshold, temperature, probs)
        if not (0 < total < n and spread >= 1e-3 * total):
            break
        step = _newton_row(total, spread, k, n)
        threshold -= step * temperature
        if abs(step) < 0.1:
            return threshold
    if not bool(part.isfinite().all()):
        return None
    column = torch.full((1, 1), k, dtype=torch.float64, device=part.device)
    return solve_saturated(part[None], column, temperature, torch.full_like(column, math.nan), validate=False)[1].item()


def _polish_row(probs: Tensor, total: float, spread: float, k: float, step: float, limits: Precision) -> None:
    """Move `probs` along the step by its Taylor series, scaled so that the sum is k."""
    missing = k - total
    if abs(missing) <= limits.rounding * k:
        return
    slope = torch.addcmul(probs, probs, probs, value=-1)
    shift = missing / spread
    if abs(step) > limits.first_order:
        curvature = spread - 2 * torch.dot(slope, probs).item()
        shift = 2 * shift / (1 + math.sqrt(max(1 + 2 * shift * curvature / spread, 0)))
        slope.addcmul_(slope, probs, value=-shift / (1 + shift / 2))
        shift *= 1 + shift / 2
    probs.add_(slope, alpha=shift)


def _logit(share: float) -> float:
    return math.log(share) - math.log1p(-share)


# ── Stage 1, many rows: scalars are (rows, 1) float64 tensors ──────────────────────────────────────────────────────────


def _solve_rows(x: Tensor, k: Tensor, temperature: float | Tensor, validate: bool) -> Solution:
    limits = precision(x.dtype)
    probs = torch.empty_like(x)
    threshold, valid = _start_rows(x, k, temperature, probs)
    for _ in range(PLAIN_PASSES):
        total, spread = _pass_rows(x, threshold, temperature, probs)
        step = _newton_rows(total, spread, k, valid)
        threshold = threshold - step * temperature
        size = step.abs()
        largest = size.max().item()
        if largest <= limits.second_order:
            break
    polish_rows(probs, total, spread, k, first_order=largest <= limits.first_order)
    solved = (size <= limits.second_order) & (spread >= limits.saturation * total)
    if not bool(solved.all()):
        left = (~solved).squeeze(1).nonzero().squeeze(1)
        part = temperature[left] if isinstance(temperature, Tensor) else temperature
        probs[left], threshold[left] = solve_saturated(x[left], k[left], part, threshold[left], validate=validate)
    return Solution(probs, threshold)


def _pass_rows(x: Tensor, threshold: Tensor, temperature: float | Tensor, probs: Tensor) -> tuple[Tensor, Tensor]:
    torch.sub(x, threshold.to(x.dtype), out=probs)
    if isinstance(temperature, Tensor):
        probs.div_(temperature.to(x.dtype))
    elif temperature != 1:
        probs.div_(temperature)
    probs.sigmoid_()
    total = probs.sum(-1, keepdim=True).double()
    return total, total - torch.linalg.vector_norm(probs, dim=-1, keepdim=True).double().square()


def _newton_rows(total: Tensor, spread: Tensor, k: Tensor, valid: Tensor) -> Tensor:
    distance = torch.log(total / k) - torch.log((valid - total) / (valid - k))
    return -distance * total * (valid - total) / (spread * valid)


def _start_rows(x: Tensor, k: Tensor, temperature: float | Tensor, buffer: Tensor) -> tuple[Tensor, Tensor]:
    """Threshold to start from, and the number of valid units."""
    n = x.shape[1]
    valid = torch.full_like(k, n)
    mean = x.mean(-1, keepdim=True)
    regular = bool(mean.isfinite().all())
    if not regular:
        finite = x.isfinite()
        valid = (x != -math.inf).sum(-1, keepdim=True).double()
        mean = torch.where(finite, x, 0).sum(-1, keepdim=True) / valid.to(x.dtype)
    share = k / valid
    if n > _LONG_ROW and regular:
        part = x[:, :: n // max(_SUBSAMPLE, n // 32)].contiguous()
        return _solve_rows(part, share * part.shape[1], temperature, False).threshold, valid
    torch.sub(x, mean, out=buffer)
    if not regular:
        buffer.masked_fill_(~finite, 0)
    deviation = torch.linalg.vector_norm(buffer, dim=-1, keepdim=True).double() / temperature
    widening = (1 + math.pi / 8 * deviation.square() / valid).sqrt()
    return mean.double() - temperature * torch.logit(share) * widening, valid
