r"""The solver behind sigmoid top-k: the threshold τ of each row with $\sum_i \sigma((x_i - τ)/T) = k$.

Three stages, each only for the rows that the one before left open:

1. *Plain passes.* From a start that is right for bell-shaped scores (moments) or for any scores (an exact solve on a
   strided subsample of a long row), Newton on $G(τ) = \operatorname{logit}(\bar σ) - \operatorname{logit}(k/n)$, which is nearly linear.
   A pass is subtract, sigmoid, two sums. Once the step is small, a Taylor polish of the probabilities ends the solve.
2. *Signed passes* for saturated rows, where $\sum σ$ in working precision no longer resolves k: units above the threshold are
   counted and only the small side of every sigmoid is summed, so the residual is accurate however hard the selection is.
3. *Bracketed passes* between order statistics of the row, Newton where it halves the bracket and bisection where it does not.

On the CPU, C++ makes all three (see sparsek/kernels/native/sigmoid_topk.cpp) and leaves to these only rows at the limits of k or
of double precision.

A row takes at most :data:`MAX_PASSES` passes, whatever its values: the bracket of stage 3 is as wide as the gap between the
⌈k⌉-th and (⌊k⌋+1)-th scores plus $T \log(nk)$, and a gap too wide to bisect is one in whose middle every sigmoid is 0 or 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sparsek.kernels import native

from ._polish import BLOCK, Precision, polish_rows, precision, precision_of_long_rows
from ._saturated import BRACKETED_PASSES, SIGNED_PASSES, solve_saturated

PLAIN_PASSES = 4
MAX_PASSES = max(PLAIN_PASSES, native.PASSES) + SIGNED_PASSES + BRACKETED_PASSES
"""Bound on the passes over a row of any finite input, not counting those over its subsample (1/32 of the row or less)."""

_SUBSAMPLE = 1024
_LONG_ROW = 4096
_SHORT_ROW = 256
_ONES = {dtype: torch.ones((), dtype=dtype) for dtype in (torch.float32, torch.float64)}


def solve(x: Tensor, k: float | Tensor, temperature: float | Tensor, probs: Tensor, *, validate: bool) -> Tensor:
    """Solve every row of `x` for its threshold, and write σ((x - threshold) / temperature) into `probs`.

    Args:
        x: (rows, n) float32 or float64 scores; −inf is never selected, +inf always.
        k: A number, or (rows, 1) float64.
        temperature: A positive number, or (rows, 1) float64.
        probs: (rows, n), the dtype of `x`; overwritten.
        validate: Whether a `k` out of range raises; otherwise its row is NaN.

    Returns:
        Thresholds, (rows, 1) float64.

    Raises:
        ValueError: k < 0, k above the number of valid units, or fewer than the number of +inf entries, in some row.
    """
    rows, n = x.shape
    if n == 0 or rows == 0:
        return x.new_zeros((rows, 1), dtype=torch.float64)
    threshold: Tensor
    left: Tensor | None
    if native.takes(x):
        threshold, left = native.solve(x, k, temperature, probs)
    elif rows == 1 and _scalar(k) and _scalar(temperature):
        threshold, left = _solve_one(x, float(k), float(temperature), probs)
    else:
        threshold, left = _solve_rows(x, k, temperature, probs)
    if left is not None:
        count = k if isinstance(k, Tensor) else torch.full((1, 1), k, dtype=torch.float64, device=x.device)
        part = temperature[left] if isinstance(temperature, Tensor) else temperature
        solved = solve_saturated(x[left], count.expand_as(threshold)[left], part, threshold[left], validate=validate)
        probs[left], threshold[left] = solved
    return threshold


def _scalar(value: float | Tensor) -> bool:
    return not isinstance(value, Tensor) or value.numel() == 1


# ── Stage 1, one row: scalars are Python numbers, since at n = 1e3 a tensor operation costs what softmax costs ──────────


def _solve_one(x: Tensor, k: float, temperature: float, probs: Tensor) -> tuple[Tensor, Tensor | None]:
    threshold, solved = math.nan, False
    if 0 < k < x.shape[1]:
        threshold, solved = _solve_row(x[0], k, temperature, probs[0])
    column = torch.full((1, 1), threshold, dtype=torch.float64, device=x.device)
    return column, None if solved else column.new_zeros(1, dtype=torch.long)


def _solve_row(x: Tensor, k: float, temperature: float, probs: Tensor) -> tuple[float, bool]:
    """Solve one regular row into `probs`: its threshold, and whether it is solved or left to a later stage."""
    n = x.numel()
    limits = (precision if n <= _LONG_ROW else precision_of_long_rows)(x.dtype)
    one = _one(x)
    threshold = _start_row(x, k / n, temperature, probs, one)
    for _ in range(PLAIN_PASSES):
        total, spread = _pass_row(x, threshold, temperature, probs, one)
        if not (0 < total < n and spread > 0):
            return math.nan, False
        step = _newton_row(total, spread, k, n)
        threshold -= step * temperature
        if spread < limits.saturation * total:
            return threshold, False
        if abs(step) <= limits.second_order:
            _polish_row(probs, total, spread, k, step, limits)
            return threshold, True
    return threshold, False


def _one(x: Tensor) -> Tensor:
    return _ONES[x.dtype] if x.device.type == "cpu" else x.new_ones(())


def _pass_row(x: Tensor, threshold: float, temperature: float, probs: Tensor, one: Tensor) -> tuple[float, float]:
    """Write σ((x - threshold)/T); return its sum and Σσ(1-σ). A 0-d operand with `alpha` costs half a Python operand."""
    torch.sub(x, one, alpha=threshold, out=probs)
    if temperature != 1:
        probs.div_(temperature)
    probs.sigmoid_()
    total = probs.sum().item()
    return total, total - probs.dot(probs).item()


def _newton_row(total: float, spread: float, k: float, n: int) -> float:
    distance = math.log(total / k) - math.log((n - total) / (n - k))
    return -distance * total * (n - total) / (spread * n)


def _start_row(x: Tensor, share: float, temperature: float, buffer: Tensor, one: Tensor) -> float:
    n = x.numel()
    if n > _LONG_ROW:
        found = _solve_part(x[:: n // max(_SUBSAMPLE, n // 32)].contiguous(), share, temperature)
        if found is not None:
            return found
    mean = x.sum().item() / n
    torch.sub(x, one, alpha=mean, out=buffer)
    variance = buffer.dot(buffer).item() / (n * temperature * temperature)
    return mean - temperature * _logit(share) * math.sqrt(1 + math.pi / 8 * variance)


def _solve_part(part: Tensor, share: float, temperature: float) -> float | None:
    """Solve a subsample as far as sampling error makes worth while."""
    n, k = part.numel(), share * part.numel()
    probs, one = torch.empty_like(part), _one(part)
    threshold = _start_row(part, share, temperature, probs, one)
    for _ in range(PLAIN_PASSES):
        total, spread = _pass_row(part, threshold, temperature, probs, one)
        if not (0 < total < n and spread >= 1e-3 * total):
            break
        step = _newton_row(total, spread, k, n)
        threshold -= step * temperature
        if abs(step) < 0.1:
            return threshold
    if not bool(part.isfinite().all()):
        return None
    column = torch.full((1, 1), k, dtype=torch.float64, device=part.device)
    start = torch.full_like(column, math.nan)
    return solve_saturated(part.unsqueeze(0), column, temperature, start, validate=False)[1].item()


def _polish_row(probs: Tensor, total: float, spread: float, k: float, step: float, limits: Precision) -> None:
    """Move `probs` along the step by its Taylor series, scaled so that the sum is k."""
    missing = k - (accurate_sum(probs).item() if sum_is_coarse(probs) else total)
    if abs(missing) <= limits.rounding * k:
        return
    shift = missing / spread
    if abs(step) <= limits.first_order:
        for part in probs.split(BLOCK) if probs.numel() > BLOCK else (probs,):
            part.add_(torch.addcmul(part, part, part, value=-1), alpha=shift)
        return
    slope = torch.addcmul(probs, probs, probs, value=-1)
    curvature = spread - 2 * slope.dot(probs).item()
    shift = 2 * shift / (1 + math.sqrt(max(1 + 2 * shift * curvature / spread, 0)))
    slope.addcmul_(slope, probs, value=-shift / (1 + shift / 2))
    probs.add_(slope, alpha=shift * (1 + shift / 2))


def sum_is_coarse(probs: Tensor) -> bool:
    """Whether a float32 sum may be off by 5e-7: a few large and some hundreds of equal small terms.

    In shorter rows the chains of additions are too short for it; in longer ones rounding errors of one sign need as many equal
    terms, whose own sum is then large.
    """
    return probs.dtype == torch.float32 and _SHORT_ROW < probs.shape[-1] <= _LONG_ROW


def accurate_sum(probs: Tensor) -> Tensor:
    """The sum of each row in float64."""
    return probs.sum(-1, keepdim=True, dtype=torch.float64)


def _logit(share: float) -> float:
    return math.log(share) - math.log1p(-share)


# ── Stage 1, many rows: scalars are columns of the dtype of the scores ────────────────────────────────────────────────


def _solve_rows(
    x: Tensor, k: float | Tensor, temperature: float | Tensor, probs: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Solve rows into `probs`: their thresholds, and which of them are left to a later stage."""
    limits = precision(x.dtype)
    if not isinstance(k, Tensor):
        k = torch.full((1, 1), k, dtype=torch.float64, device=x.device)
    scale = temperature.to(x.dtype) if isinstance(temperature, Tensor) else temperature
    threshold, target, valid = _start_rows(x, k, scale, probs)
    for _ in range(PLAIN_PASSES):
        total, spread = pass_rows(x, threshold, scale, probs)
        step = newton_rows(total, spread, target, valid)
        threshold = threshold - step * scale if _scaled(scale) else threshold - step
        largest = torch.linalg.vector_norm(step, math.inf).item()
        if largest <= limits.second_order:
            break
    missing = k - (accurate_sum(probs) if sum_is_coarse(probs) else total.double())
    polish_rows(probs, missing.to(x.dtype), spread, first_order=largest <= limits.first_order)
    margin = torch.sub(spread, total, alpha=limits.saturation)
    if largest <= limits.second_order and margin.min().item() >= 0:
        return threshold.double(), None
    return threshold.double(), (~((step.abs() <= limits.second_order) & (margin >= 0))).squeeze(1).nonzero().squeeze(1)


def _scaled(temperature: float | Tensor) -> bool:
    return isinstance(temperature, Tensor) or temperature != 1


def pass_rows(x: Tensor, threshold: Tensor, temperature: float | Tensor, probs: Tensor) -> tuple[Tensor, Tensor]:
    """Write σ((x - threshold)/T); return its sums and Σσ(1-σ)."""
    torch.sub(x, threshold, out=probs)
    if _scaled(temperature):
        probs.div_(temperature)
    probs.sigmoid_()
    total = probs.sum(-1, keepdim=True)
    norm = torch.linalg.vector_norm(probs, dim=-1, keepdim=True)
    return total, torch.addcmul(total, norm, norm, value=-1)


def newton_rows(total: Tensor, spread: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Steps, in temperatures, that make logit(total / valid) the target."""
    share = total / valid
    distance = target - torch.logit(share)
    return distance.mul_(share.addcmul_(share, share, value=-1)).mul_(valid / spread)


def _start_rows(x: Tensor, k: Tensor, temperature: float | Tensor, buffer: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Thresholds to start from, logit(k/n), and the number n of valid units; all broadcast over the rows."""
    n = x.shape[1]
    total = x.sum(-1, keepdim=True)
    finite = None
    valid = torch.full((1, 1), n, dtype=torch.float64, device=x.device)
    if not math.isfinite(total.sum().item()):
        finite = x.isfinite()
        total = torch.where(finite, x, 0).sum(-1, keepdim=True)
        valid = (x != -math.inf).sum(-1, keepdim=True).double()
    target, valid = torch.logit(k / valid).to(x.dtype), valid.to(x.dtype)
    if n > _LONG_ROW and finite is None:
        part = x[:, :: n // max(_SUBSAMPLE, n // 32)].contiguous()
        wide = temperature.double() if isinstance(temperature, Tensor) else temperature
        start = solve(part, k * (part.shape[1] / n), wide, torch.empty_like(part), validate=False)
        return start.to(x.dtype), target, valid
    mean = total / valid
    torch.sub(x, mean, out=buffer)
    if finite is not None:
        buffer.masked_fill_(~finite, 0)
    deviation = torch.linalg.vector_norm(buffer, dim=-1, keepdim=True)
    widening = 1 + (math.pi / 8) * deviation.div_(temperature).square_().div_(valid)
    return mean.addcmul(target, widening.sqrt_() * temperature, value=-1), target, valid
