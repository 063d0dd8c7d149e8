r"""Device functions of the solver: one step towards the threshold, and the Taylor series that ends a solve.

A threshold is kept as pivot + T·shift, with a float32 pivot among the scores, and is applied in two parts: what is nearest to it
in float32, subtracted exactly, and the rest. Sums come from the small side of every sigmoid, $r = σ(-|z|)$, with the units above
the threshold counted:

$$\sum_i σ(z_i) - k = (\#\{z_i ≥ 0\} - k) + \sum_i ±r_i,$$

so the residual keeps its relative accuracy however hard the selection is. A unit at −inf adds nothing, one at +inf counts as above.
Tiles are (rows, units); whatever belongs to a row is a vector.
"""

from __future__ import annotations

import os

import torch
import triton
import triton.language as tl

_PTX = tl.constexpr(torch.version.hip is None and os.environ.get("TRITON_INTERPRET") != "1")
"""Whether two instructions may be named that Triton gives only with a guard for subnormal numbers around them, ten for one."""
_SIGN = tl.constexpr(-(2**31))
_LOG2_E = tl.constexpr(1.4426950408889634)
_LARGEST = tl.constexpr(3.0e38)
_TRUSTED = tl.constexpr(4)
"""Passes in which a Newton step inside the bracket is taken as it is; later ones must halve the bracket in two passes."""
_WIDE = tl.constexpr(64.0)
"""Width, in temperatures, from which a bracket is bisected in the logarithm of its values."""
_LONGEST_SERIES = tl.constexpr(0.25)


@triton.jit
def inverse_of(temperature: tl.tensor) -> tl.tensor:
    """1/T in float32, kept inside its normal range: 0 times it must not be NaN."""
    return tl.minimum(tl.maximum((1.0 / temperature).to(tl.float32), 1.0e-37), 1.0e37)


@triton.jit
def two_sum(a: tl.tensor, b: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """A + b in float32, and its rounding error, exactly (Knuth)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


@triton.jit
def standardise(
    x: tl.tensor, pivot: tl.tensor, shift: tl.tensor, temperature: tl.tensor, inverse: tl.tensor
) -> tl.tensor:
    """(x − pivot)/T − shift, for a tile and a float64 vector of shifts of any size."""
    anchor = pivot.to(tl.float64)
    move = shift * temperature
    nearest = tl.minimum(tl.maximum(anchor + move, -_LARGEST), _LARGEST).to(tl.float32)
    rest = ((anchor - nearest.to(tl.float64)) + move).to(tl.float32) * inverse
    rest = tl.minimum(tl.maximum(rest, -_LARGEST), _LARGEST)
    return (x - nearest[:, None]) * inverse[:, None] - rest[:, None]


@triton.jit
def exp_of_minus(size: tl.tensor) -> tl.tensor:
    """exp(−size) for what is not negative; 0 where that is subnormal."""
    if _PTX:
        return tl.inline_asm_elementwise(
            "ex2.approx.ftz.f32 $0, $1;", "=f,f", [size * (-_LOG2_E)], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        return tl.exp(-size)


@triton.jit
def reciprocal(value: tl.tensor) -> tl.tensor:
    """1 / value for normal numbers."""
    if _PTX:
        return tl.inline_asm_elementwise(
            "rcp.approx.ftz.f32 $0, $1;", "=f,f", [value], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        return 1.0 / value


@triton.jit
def is_above(z: tl.tensor) -> tl.tensor:
    """Whether a unit counts as above the threshold: its sign bit is clear."""
    return z.to(tl.int32, bitcast=True) >= 0


@triton.jit
def _against(z: tl.tensor, value: tl.tensor) -> tl.tensor:
    """A positive value with the sign that z has not."""
    sign = (z.to(tl.int32, bitcast=True) & _SIGN) ^ _SIGN
    return (value.to(tl.int32, bitcast=True) | sign).to(tl.float32, bitcast=True)


@triton.jit
def sides(z: tl.tensor) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """The larger side of every sigmoid, the smaller one, and the smaller one with the sign it has in the residual."""
    size = exp_of_minus(tl.abs(z))
    large = reciprocal(1.0 + size)
    small = size * large
    return large, small, _against(z, small)


@triton.jit
def count_above(z: tl.tensor) -> tl.tensor:
    """Units above the threshold, per row."""
    return tl.sum(z.to(tl.int32, bitcast=True) >> 31, axis=1) + z.shape[1]


@triton.jit
def taylor_sums(z: tl.tensor, small: tl.tensor, large: tl.tensor) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """Sums over the row of the first four derivatives of σ at z."""
    slope = small * large
    tilt = _against(z, large - small)
    square = slope * slope
    first = tl.sum(slope, axis=1)
    second = tl.sum(slope * tilt, axis=1)
    third = first - 6.0 * tl.sum(square, axis=1)
    fourth = second - 12.0 * tl.sum(square * tilt, axis=1)
    return first, second, third, fourth


@triton.jit
def taylor_shift(
    excess: tl.tensor, first: tl.tensor, second: tl.tensor, third: tl.tensor, fourth: tl.tensor
) -> tl.tensor:
    """The shift of all logits that removes `excess` from the sum, by Newton on the fourth-order series; 0 if there is no slope."""
    flat = first <= 0
    scale = 1.0 / tl.where(flat, 1.0, first)
    constant = tl.where(flat, 0.0, excess * scale)
    a, b, c = 0.5 * second * scale, third * scale / 6.0, fourth * scale / 24.0
    shift = tl.minimum(tl.maximum(-constant, -_LONGEST_SERIES), _LONGEST_SERIES)
    for _ in tl.static_range(3):
        value = constant + shift * (1.0 + shift * (a + shift * (b + shift * c)))
        slope = 1.0 + shift * (2.0 * a + shift * (3.0 * b + shift * 4.0 * c))
        shift -= value / slope
        shift = tl.minimum(tl.maximum(shift, -_LONGEST_SERIES), _LONGEST_SERIES)
    return shift


@triton.jit
def taylor(z: tl.tensor, small: tl.tensor, large: tl.tensor, shift: tl.tensor) -> tl.tensor:
    """σ(z + shift) to fourth order, inside [0, 1]."""
    slope = small * large
    tilt = _against(z, large - small)
    c = shift[:, None]
    series = 1.0 + c * (0.5 * tilt + c * ((1.0 - 6.0 * slope) / 6.0 + c * tilt * (1.0 - 12.0 * slope) / 24.0))
    probs = tl.where(is_above(z), large, small) + c * slope * series
    return tl.minimum(tl.maximum(probs, 0.0), 1.0)


@triton.jit
def _log_ratio(change: tl.tensor, ratio: tl.tensor) -> tl.tensor:
    """log(ratio), where ratio = 1 + change and the change is known to its relative accuracy."""
    series = change * (1.0 - change * (0.5 - change * (1.0 / 3.0 - change * 0.25)))
    return tl.where(tl.abs(change) < 2.0e-2, series, tl.log(ratio))


@triton.jit
def newton_step(
    excess: tl.tensor,
    above: tl.tensor,
    signed: tl.tensor,
    slope: tl.tensor,
    k: tl.tensor,
    others: tl.tensor,
) -> tl.tensor:
    """Newton on logit(mean σ) − logit(k/n): the move of the threshold, in temperatures. All float32.

    Args:
        excess: Σσ − k.
        above: Units above the threshold, without those at +inf.
        signed: Σ±r.
        slope: Σσ(1−σ).
        k: Units to select among the finite ones.
        others: Finite units less k.
    """
    total = above + signed
    rest = (k + others - above) - signed
    distance = _log_ratio(excess / k, total / k) - _log_ratio(-excess / others, rest / others)
    return distance * (total / slope) * (rest / (k + others))


@triton.jit
def log_odds(part: tl.tensor, rest: tl.tensor) -> tl.tensor:
    """log(part / rest), finite for whatever is not negative."""
    return tl.log(tl.maximum(part, 1.0e-37)) - tl.log(tl.maximum(rest, 1.0e-37))


@triton.jit
def _symmetric_log(value: tl.tensor) -> tl.tensor:
    size = tl.log2(1.0 + tl.abs(value))
    return tl.where(value < 0, -size, size)


@triton.jit
def _middle(low: tl.tensor, high: tl.tensor, anchor: tl.tensor) -> tl.tensor:
    """Where to cut a bracket: half-way, or half-way in the logarithm of the threshold where many magnitudes are left."""
    start = anchor.to(low.dtype)
    mean = 0.5 * _symmetric_log((start + low).to(tl.float32)) + 0.5 * _symmetric_log((start + high).to(tl.float32))
    size = tl.exp2(tl.minimum(tl.abs(mean), 126.0)) - 1.0
    cut = tl.where(mean < 0, -size, size).to(low.dtype) - start
    wide = (high - low > _WIDE) & (cut > low) & (cut < high)
    return tl.where(wide, cut, low + 0.5 * (high - low))


@triton.jit
def advance(
    step: tl.tensor,
    excess: tl.tensor,
    anchor: tl.tensor,
    shift: tl.tensor,
    low: tl.tensor,
    high: tl.tensor,
    earlier: tl.tensor,
    passes: tl.tensor,
    stop: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """Move a shift by a Newton step kept inside (low, high), or by bisection where two passes did not halve the bracket.

    Args:
        step: From :func:`newton_step`; may be NaN or infinite.
        excess: Σσ − k at the threshold.
        anchor: Pivot in temperatures, float32.
        shift: Of the threshold from the pivot, in temperatures, float32 or float64.
        low: Lower bound of the shift, of its dtype.
        high: Upper bound.
        earlier: Width of the bracket two passes ago.
        passes: Passes before this one.
        stop: Step after which a row is solved up to its Taylor series.

    Returns:
        New shift, low, high, and whether the row is solved.
    """
    low = tl.where(excess > 0, tl.maximum(low, shift), low)
    high = tl.where(excess < 0, tl.minimum(high, shift), high)
    proposal = shift + step.to(shift.dtype)
    within = (proposal >= low) & (proposal <= high)
    width = high - low
    trusted = within & ((passes < _TRUSTED) | (width <= 0.5 * earlier))
    solved = (excess == 0) | (within & (tl.abs(step) <= stop)) | (width <= 1.0e-6)
    settled = tl.where(within & (excess != 0), proposal, shift)
    moved = tl.where(trusted, proposal, _middle(low, high, anchor))
    return tl.where(solved, settled, moved), low, high, solved
