r"""The threshold of rows that plain sums cannot resolve: saturated, heavy-tailed, with infinite entries, or with k at its limits.

The residual is summed from the small side of every sigmoid, $r_i = σ(-|x_i - τ|/T)$:

$$\sum_i σ((x_i - τ)/T) - k = (\#\{x_i > τ\} - k) + \sum_{x_i ≤ τ} r_i - \sum_{x_i > τ} r_i,$$

so it keeps its relative accuracy however many units are saturated. A threshold is float64 and is applied in two parts, its
rounding to the dtype of the scores (subtracted exactly) and the rest.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ._pivoted import solve_about_pivot
from ._polish import polish_rows, precision
from ._reduction import WHOLE, Counts, Reduction, count

SIGNED_PASSES = 10
BRACKETED_PASSES = 120

_BEYOND = 40.0
"""Distance in temperatures at which a row with k = 0 or k = n puts its threshold: σ(-40) = 4e-18."""

_FAR = 750.0
"""Distance in temperatures at which a sigmoid in float64 has underflown."""

_NEAR = 8.0
"""Distance in temperatures of a threshold from its pivot up to which rounding does not matter."""


class _Residual(NamedTuple):
    """Sums over a row at a threshold, float64 (rows, 1)."""

    above: Tensor  # number of units above the threshold
    upper: Tensor  # Σ r over them
    lower: Tensor  # Σ r over the others
    spread: Tensor  # Σ r(1-r) = Σ σ(1-σ)


def shifted(x: Tensor, threshold: Tensor, temperature: float | Tensor) -> Tensor:
    """(x − threshold) / temperature to the accuracy of `x.dtype`, for a float64 threshold of any size."""
    nearest = threshold.to(x.dtype)
    rest = (nearest.double() - threshold) / temperature
    difference = x - nearest
    if isinstance(temperature, Tensor) or temperature != 1:
        difference = difference / (temperature.to(x.dtype) if isinstance(temperature, Tensor) else temperature)
    return difference + rest.nan_to_num(nan=math.nan, posinf=0.0, neginf=0.0).to(x.dtype)


def solve_saturated(
    x: Tensor, k: Tensor, temperature: float | Tensor, start: Tensor, *, validate: bool
) -> tuple[Tensor, Tensor]:
    """Solve rows of any kind; see :func:`sparsek.functional._threshold.solve` for the arguments.

    Args:
        x: (rows, n) scores.
        k: (rows, 1) float64.
        temperature: A positive number, or (rows, 1) float64.
        start: (rows, 1) float64 thresholds to start from; NaN where nothing is known.
        validate: Whether a `k` out of range raises.

    Returns:
        Inclusion probabilities (rows, n) and thresholds (rows, 1).
    """
    counts = count(x)
    check_counts(k, counts, validate)
    probs, threshold = solve_counted(x, k, temperature, start, counts, WHOLE)
    lost = (probs.isnan().any(-1, keepdim=True) & ~threshold.isnan() | threshold.isinf()) & (counts.broken == 0)
    if bool(lost.any()):
        _solve_again(x, k, temperature, counts, lost.squeeze(1), probs, threshold)
    return probs, threshold


def _solve_again(
    x: Tensor, k: Tensor, temperature: float | Tensor, counts: Counts, rows: Tensor, probs: Tensor, threshold: Tensor
) -> None:
    """Rows whose scores are so large that their differences overflow."""
    certain = x[rows] == math.inf
    scores = x[rows].masked_fill(certain, -math.inf).double()
    scale = torch.as_tensor(temperature, dtype=torch.float64, device=x.device).expand_as(threshold)[rows]
    left = (k - counts.certain)[rows]
    solved, threshold[rows] = solve_about_pivot(scores, left, scale, torch.sigmoid, _FAR, probs.dtype)
    probs[rows] = torch.where(certain, 1.0, solved)


def solve_counted(
    x: Tensor, k: Tensor, temperature: float | Tensor, start: Tensor, counts: Counts, across: Reduction
) -> tuple[Tensor, Tensor]:
    """:func:`solve_saturated` after its counts and checks, of rows that may be spread over processes."""
    finite, units = x.isfinite(), counts.units
    scores = torch.where(finite, x, -math.inf)
    free = k - counts.certain
    inside = (free > 0) & (free < units)
    start = torch.where(start.isfinite(), start, counts.total / units)
    pivot, shift, found = _solve_signed(scores, free, units, temperature, start, across, ~inside)
    open_rows = (~found).squeeze(1).nonzero().squeeze(1)
    if open_rows.numel():
        part = (scores[open_rows], free[open_rows], units[open_rows], _rows_of(temperature, open_rows))
        pivot[open_rows], shift[open_rows] = _solve_bracketed(*part, across)
    pivot, shift = _limits(scores, finite, free, units, temperature, pivot, shift, across)
    probs = shifted(scores - pivot, shift, temperature).sigmoid_()
    _remove_rounding(probs, free, across)
    probs = torch.where(free == 0, (x == math.inf).to(x.dtype), probs)
    probs = torch.where((free == units) & (units > 0), (x > -math.inf).to(x.dtype), probs)
    wrong = ~((free >= 0) & (free <= units)) | (counts.broken > 0)
    probs = probs.masked_fill(wrong, math.nan).masked_fill(x == -math.inf, 0.0)
    return torch.where((x == math.inf) & ~wrong, 1.0, probs), (pivot + shift).masked_fill(wrong, math.nan)


def _solve_signed(
    x: Tensor,
    k: Tensor,
    units: Tensor,
    temperature: float | Tensor,
    start: Tensor,
    across: Reduction,
    found: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Threshold as pivot + shift, and whether it is found now, or was before.

    A score is rounded by its distance from the pivot: where the threshold is found far from the start, the pivot follows it and
    a pass or two repeat.
    """
    pivot = start.to(x.dtype)
    shift, settled = _refine(x - pivot, k, units, temperature, start - pivot, SIGNED_PASSES, across, found=found)
    nearer = (pivot + shift).to(x.dtype)
    far = settled & ~found & (shift.abs() > _NEAR * temperature) & (nearer != pivot)
    if bool(far.any()):
        shift = torch.where(far, shift + (pivot.double() - nearer), shift)
        pivot = torch.where(far, nearer, pivot)
        shift, again = _refine(x - pivot, k, units, temperature, shift, SIGNED_PASSES, across, found=~far)
        settled = settled & again
    return pivot, shift, settled


def _remove_rounding(probs: Tensor, k: Tensor, across: Reduction) -> None:
    """Polish the rows whose sums resolve it: at τ far from 0, rounding of (x-τ)/T is the same in many tied units."""
    total = probs.sum(-1, keepdim=True, dtype=torch.float64)
    total, square = across.sums(total, torch.linalg.vector_norm(probs, dim=-1, keepdim=True).double().square())
    spread = total - square
    resolved = spread >= precision(probs.dtype).saturation * total
    missing = torch.where(resolved, k - total, 0.0)
    polish_rows(probs, missing.to(probs.dtype), spread.to(probs.dtype).clamp_min(1e-38), first_order=True)


def _rows_of(value: float | Tensor, rows: Tensor) -> float | Tensor:
    return value[rows] if isinstance(value, Tensor) else value


def check_counts(k: Tensor, counts: Counts, validate: bool) -> None:
    """Refuse a `k` out of range, or one below the number of +inf entries."""
    if not validate:
        return
    valid = counts.units + counts.certain + counts.broken
    if not bool(((k >= 0) & (k <= valid)).all()):
        row = int((~((k >= 0) & (k <= valid))).squeeze(1).nonzero()[0])
        raise ValueError(
            "k must lie in [0, the number of valid units (neither masked nor -inf)] in every row, "
            f"got k = {k[row].item():g} with {int(valid[row])} valid units"
        )
    if bool((counts.certain > k).any()):
        row = int((counts.certain > k).squeeze(1).nonzero()[0])
        raise ValueError(
            "input must have at most k entries of +inf in every row (each is selected), "
            f"got {int(counts.certain[row])} with k = {k[row].item():g}"
        )


def _residual(x: Tensor, threshold: Tensor, temperature: float | Tensor, across: Reduction) -> _Residual:
    logits = shifted(x, threshold, temperature)
    above = logits > 0
    small = logits.abs_().neg_().sigmoid_()
    square = torch.linalg.vector_norm(small, dim=-1, keepdim=True).double().square()
    upper = (small * above).sum(-1, keepdim=True).double()
    lower = small.masked_fill_(above, 0).sum(-1, keepdim=True).double()
    return _Residual(*across.sums(above.sum(-1, keepdim=True).double(), upper, lower, upper + lower - square))


def _refine(
    x: Tensor,
    k: Tensor,
    units: Tensor,
    temperature: float | Tensor,
    threshold: Tensor,
    passes: int,
    across: Reduction,
    low: Tensor | None = None,
    high: Tensor | None = None,
    found: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Newton on the logit of the mean, kept inside (low, high); bisection where two passes did not halve the bracket."""
    accurate = precision(x.dtype).newton
    low = torch.full_like(threshold, -math.inf) if low is None else low
    high = torch.full_like(threshold, math.inf) if high is None else high
    earlier = previous = torch.full_like(threshold, math.inf)
    found = torch.zeros_like(threshold, dtype=torch.bool) if found is None else found
    for _ in range(passes):
        if bool(found.all()):
            break
        sums = _residual(x, threshold, temperature, across)
        excess = (sums.above - k) + (sums.lower - sums.upper)
        step = _newton(excess, sums, k, units)
        low = torch.where(excess > 0, torch.maximum(low, threshold), low)
        high = torch.where(excess < 0, torch.minimum(high, threshold), high)
        proposal = threshold - step * temperature
        within = (proposal >= low) & (proposal <= high)
        width = high - low
        bisect = ~(within & (width <= earlier / 2)) & width.isfinite()
        done = found | (excess == 0) | (within & (step.abs() <= accurate)) | (width <= accurate * 1e-2 * temperature)
        settled = torch.where((excess == 0) | ~within, threshold, proposal)
        moved = torch.where(bisect, low + width / 2, torch.where(within, proposal, threshold))
        threshold = torch.where(found, threshold, torch.where(done, settled, moved))
        earlier, previous = previous, width
        found = done
    return threshold, found


def _newton(excess: Tensor, sums: _Residual, k: Tensor, units: Tensor) -> Tensor:
    total = sums.above + (sums.lower - sums.upper)
    rest = (units - sums.above) + (sums.upper - sums.lower)
    distance = torch.log1p(excess / k) - torch.log1p(-excess / (units - k))
    return -distance * total * rest / (sums.spread * units)


def _solve_bracketed(
    x: Tensor, k: Tensor, units: Tensor, temperature: float | Tensor, across: Reduction
) -> tuple[Tensor, Tensor]:
    """Threshold as pivot + shift, between bounds from two order statistics of the row.

    With v the ⌈k⌉-th largest score, at most ⌈k⌉-1 units lie above it, so σ((v-τ)/T) must reach their missing share;
    with v the (⌊k⌋+1)-th largest, the ⌊k⌋+1 units at or above it must not exceed k. The first is the pivot: scores near it
    are differenced exactly, so the shift is resolved however large the scores are.
    """
    upper_rank, lower_rank = k.ceil(), k.floor() + 1
    ranked = across.order_statistics(x, torch.cat((upper_rank, lower_rank), -1).long())
    pivot = ranked[:, :1]
    gap = ranked[:, 1:].double() - pivot.double()
    missing = (k - (upper_rank - 1)) / (units - (upper_rank - 1))
    low, high = gap - temperature * torch.logit(k / lower_rank), -temperature * torch.logit(missing)
    middle = (low + high) / 2
    return pivot, _refine(x - pivot, k, units, temperature, middle, BRACKETED_PASSES, across, low, high)[0]


def _limits(
    x: Tensor,
    finite: Tensor,
    k: Tensor,
    units: Tensor,
    temperature: float | Tensor,
    pivot: Tensor,
    shift: Tensor,
    across: Reduction,
) -> tuple[Tensor, Tensor]:
    """Put the threshold of rows with k = 0 or k = n just beyond all scores: the one-sided limit that gradients need."""
    none, every = k == 0, k == units
    if not bool((none | every).any()):
        return pivot, shift
    ends = torch.cat((torch.where(finite, -x, -math.inf).amax(-1, keepdim=True), x.amax(-1, keepdim=True)), -1)
    least, most = across.largest(ends).split(1, -1)
    pivot = torch.where(none, most, torch.where(every, -least, pivot))
    shift = torch.where(none, _BEYOND * temperature, torch.where(every, -_BEYOND * temperature, shift))
    empty = units == 0
    return pivot.masked_fill(empty, 0.0), shift.masked_fill(empty, 0.0)
