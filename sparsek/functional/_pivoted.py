r"""Rows that a solver in the units of the scores cannot resolve, solved in distances from a pivot.

A threshold is a number of the size of the scores: at scores of 1e38, or where scores lie 1e30 scales apart, the spacing of
floating-point numbers around it is wider than the whole transition, and no threshold gives the sum k. With the ⌈k⌉-th largest
score as the pivot, fewer than k units lie above it and at least k lie at or above it, so that the threshold is the pivot and a
shift of some scales, found by bisection in float64 on distances $(x_i - x_{(⌈k⌉)})/s$, of which the far ones may be infinite.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_BISECTIONS = 80
_OFF = {torch.float32: 1e-6, torch.float64: 5e-13}
"""Relative error of a row's sum above which it is solved again."""


def resolve_lost_rows(
    x: Tensor,
    k: Tensor,
    scale: Tensor,
    solved: tuple[Tensor, Tensor],
    distribution: Callable[[Tensor], Tensor],
    reach: float,
) -> tuple[Tensor, Tensor]:
    """Solve again the rows whose probabilities are not finite or do not sum to k.

    Args:
        x: (..., n) scores, −inf where a unit does not compete.
        k: float64, broadcasting to (..., 1).
        scale: s > 0, likewise.
        solved: Probabilities (..., n) and thresholds (..., 1).
        distribution: Φ.
        reach: Distance in scales beyond which Φ is 0 or 1.
    """
    probs, threshold = solved
    units = (x > -torch.inf).sum(-1, keepdim=True)
    off = (probs.sum(-1, keepdim=True, dtype=torch.float64) - k).abs()
    lost = (k > 0) & (k <= units) & ~(off <= _OFF[x.dtype] * k.clamp(min=1))
    if not bool(lost.any()):
        return solved
    rows = lost.squeeze(-1)
    size, width = (t.expand(threshold.shape)[rows].double() for t in (k, scale))
    solved_again = solve_about_pivot(x[rows].double(), size, width, distribution, reach, probs.dtype)
    probs[rows], threshold[rows] = solved_again
    return probs, threshold


def solve_about_pivot(
    x: Tensor,
    k: Tensor,
    scale: Tensor,
    distribution: Callable[[Tensor], Tensor],
    reach: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Solve rows with 0 < k <= units, whatever their scores."""
    ordered = x.sort(-1, descending=True).values
    pivot = ordered.gather(-1, k.ceil().long().clamp(1, x.shape[-1]) - 1)
    distance = (x - pivot) / scale
    low, high = torch.full_like(k, -reach), torch.full_like(k, reach)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        above = distribution(distance - middle).sum(-1, keepdim=True) > k
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    shift = (low + high) / 2
    return distribution(distance - shift).to(dtype), pivot + shift * scale
