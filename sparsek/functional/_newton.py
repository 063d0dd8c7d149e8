"""One unknown per row: safeguarded Newton for a sum that falls as its threshold rises."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

MAX_STEPS = 160


def solve_threshold(
    evaluate: Callable[[Tensor], tuple[Tensor, Tensor]],
    low: Tensor,
    high: Tensor,
    start: Tensor,
    accurate: float | Tensor,
) -> Tensor:
    """Find the root of a decreasing function in every row.

    Newton steps are kept inside the bracket; it is bisected instead where a step would leave it, or would not be half
    as long as the move before the last (Brent's rule). At most :data:`MAX_STEPS` steps. A row with NaN ends at once.

    Args:
        evaluate: From thresholds (..., 1) to the excess (> 0: the threshold is too low) and the proposed step.
        low: Where the excess is >= 0, float64.
        high: Where the excess is <= 0.
        start: First thresholds, inside the bracket.
        accurate: Size of a step after which a row is done (the step is taken).

    Returns:
        The thresholds, float64 (..., 1).
    """
    threshold = start
    earlier = previous = high - low  # sizes of the last two moves
    done = torch.zeros_like(high, dtype=torch.bool)
    for _ in range(MAX_STEPS):
        excess, step = evaluate(threshold)
        size = step.abs()
        small = accurate + 4 * torch.finfo(torch.float64).eps * threshold.abs()
        low = torch.where(excess > 0, threshold, low)
        high = torch.where(excess < 0, threshold, high)
        proposal = threshold + step
        inside = (proposal >= low) & (proposal <= high)
        half = (high - low) / 2
        middle = low + half
        stuck = (half <= small) | (middle == low) | (middle == high)
        ended = done | (excess == 0) | ~excess.isfinite()
        threshold = torch.where(ended, threshold, torch.where(inside & (size <= earlier / 2), proposal, middle))
        done = ended | (inside & (size <= small)) | stuck
        if bool(done.all()):
            break
        earlier, previous = previous, torch.where(threshold == proposal, size, half)
    return threshold
