r"""Device functions of the backward pass: sums for $⟨w, g⟩$ with $w = d/\sum d$, in a form that no saturation underflows.

With $r = σ(-|z|)$, $d = r(1-r) = e^{-|z|} (1-r)^2$. On each side of the threshold the units are weighed relative to the nearest
one, at distance m: $a = e^{m-|z|} (1-r)^2$, whose sum lies in [1/4, n]; the two sides weigh as $e^{-m} \sum a$. Where both are
below $e^{-60}$ the sums that placed the threshold in the gap underflowed; then k is whole, and at the exact threshold both
sides weigh the same.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ._sigmoid_steps import exp_of_minus, reciprocal

_UNDERFLOW = tl.constexpr(-60.0)
_CERTAIN = tl.constexpr(39.0)
"""Distance from which a unit that is alone on the upper side has probability exactly 1."""


@triton.jit
def densities(z: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """D = σ(z) σ(−z), and σ(|z|) squared."""
    size = exp_of_minus(tl.abs(z))
    large = reciprocal(1.0 + size)
    square = large * large
    return size * square, square


@triton.jit
def nearest(z: tl.tensor, side: tl.tensor) -> tl.tensor:
    """Smallest |z| among the units of a side; inf if there is none."""
    return tl.min(tl.where(side, tl.abs(z), float("inf")), axis=1)


@triton.jit
def side_sums(
    z: tl.tensor, side: tl.tensor, closest: tl.tensor, square: tl.tensor, grad: tl.tensor
) -> tuple[tl.tensor, tl.tensor]:
    """Σa and Σa·g over the units of a side, relative to the nearest."""
    there = tl.where(closest < float("inf"), closest, 0.0)[:, None]
    weight = tl.where(side, exp_of_minus(tl.maximum(tl.abs(z) - there, 0.0)) * square, 0.0)
    return tl.sum(weight, axis=1), tl.sum(tl.where(side, weight * grad, 0.0), axis=1)


@triton.jit
def mean_of_sides(
    upper_near: tl.tensor,
    upper: tl.tensor,
    upper_grad: tl.tensor,
    lower_near: tl.tensor,
    lower: tl.tensor,
    lower_grad: tl.tensor,
) -> tl.tensor:
    """⟨w, g⟩ from the sums of both sides; 0 in a row without finite units."""
    has_upper, has_lower = upper > 0, lower > 0
    upper_mean = tl.where(has_upper, upper_grad / tl.where(has_upper, upper, 1.0), 0.0)
    lower_mean = tl.where(has_lower, lower_grad / tl.where(has_lower, lower, 1.0), 0.0)
    upper_log = tl.where(has_upper, tl.log(tl.where(has_upper, upper, 1.0)) - upper_near, -float("inf"))
    lower_log = tl.where(has_lower, tl.log(tl.where(has_lower, lower, 1.0)) - lower_near, -float("inf"))
    largest = tl.maximum(upper_log, lower_log)
    both = has_upper & has_lower
    difference = tl.where(both, lower_log - upper_log, 0.0)
    difference = tl.minimum(tl.maximum(difference, -80.0), 80.0)
    share = 1.0 / (1.0 + tl.exp(difference))
    share = tl.where(both & (largest < _UNDERFLOW), 0.5, share)
    share = tl.where(both, share, tl.where(has_upper, 1.0, 0.0))
    return share * upper_mean + (1.0 - share) * lower_mean


@triton.jit
def at_limit(target: tl.tensor, upper_near: tl.tensor, lower_near: tl.tensor) -> tl.tensor:
    """Rows with k = 0 or every unit selected, whose probabilities do not move: their thresholds lie 40 temperatures off."""
    every = (lower_near == float("inf")) & (upper_near > _CERTAIN)
    return (target == 0) | every
