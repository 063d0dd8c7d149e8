"""The tree of a tournament on chip: residuals and bits on the way up, states on the way down. Functions of a kernel.

A tile of R trees with W leaves climbs at most `STAGE` levels at a time. The two bits of a fight (did the pair saturate,
does left keep the residual) are drawn on the way up and packed with those of the fights below it: a subtree of 16 leaves
is one 32-bit code. So the way down needs neither weights nor random numbers.
"""

from __future__ import annotations

import triton
import triton.language as tl

COMPILES_WELL = tuple(int(part) for part in triton.__version__.split(".")[:2]) >= (3, 4)
"""Older ones keep copies of a split tile in every thread: 3.2 takes minutes to compile a tree of 512 leaves."""

STAGE = 4
"""Levels of one code: 15 fights of 2 bits."""

TREE = 12
"""Levels of one tile, three stages."""


@triton.jit
def halves(x: tl.tensor, R: tl.constexpr, W: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:
    """Split (R, W) into its even and its odd columns."""
    return tl.split(tl.reshape(x, [R, W // 2, 2]))


@triton.jit
def interleave(even: tl.tensor, odd: tl.tensor, R: tl.constexpr, W: tl.constexpr) -> tl.tensor:
    """Invert `halves`: two tiles (R, W) to one of (R, 2 W)."""
    return tl.reshape(tl.join(even, odd), [R, 2 * W])


@triton.jit
def uniforms(seed: tl.tensor, start: tl.tensor, sample: tl.tensor, R: tl.constexpr, W: tl.constexpr) -> tl.tensor:
    """Return (R, W) float64 uniforms on [0, 1) with 52 bits for the units start, start + 1, … of each sample.

    They depend on the seed, the sample and the unit alone. A fight takes that of the last unit of its left half, so the
    outcome does not depend on how a row is cut in tiles.

    `seed` is the key of the Philox generator, `start` is even, `sample` numbers the samples, (R, 1).
    """
    pair = ((start // 2) + tl.arange(0, W // 2)[None, :]).to(tl.int32)
    zero = tl.zeros([R, W // 2], tl.int32)
    w, x, y, z = tl.philox(seed, zero + pair, zero + sample.to(tl.int32), zero, zero)
    return interleave(unit_interval(w, x), unit_interval(y, z), R, W // 2)


@triton.jit
def unit_interval(high: tl.tensor, low: tl.tensor) -> tl.tensor:
    """Fill the mantissa of a float64 in [1, 2) with 52 of 64 random bits, and subtract 1."""
    mantissa = (high.to(tl.uint64) << 20) | (low.to(tl.uint64) >> 12)
    return (mantissa | 0x3FF0000000000000).to(tl.float64, bitcast=True) - 1.0


@triton.jit
def fight(a: tl.tensor, b: tl.tensor, u: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """Return (residual, bits): bit 0 says whether the pair saturates, bit 1 whether left keeps the residual."""
    total = a + b
    saturated = total > 1.0
    full = saturated.to(tl.float64)
    residual = total - full
    left = tl.abs(a - full)
    both = tl.abs(full - residual)
    # u·both < left in place of u < left / both: no division, and nobody with share 0 ever keeps.
    keeps = u * both < left
    return residual, saturated.to(tl.int32) | (keeps.to(tl.int32) << 1)


@triton.jit
def settle_fight(state: tl.tensor, bits: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """Return the states of left and right, given the state of the residual they fought for."""
    full = bits & 1
    moves = (bits >> 1) & (state ^ full)
    return full ^ moves, state ^ moves


@triton.jit
def climb(
    weight: tl.tensor, luck: tl.tensor, R: tl.constexpr, W: tl.constexpr, LEVELS: tl.constexpr
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Fight `LEVELS` <= 4 rounds: weights and uniforms (R, W) to those of the residuals, and the codes of the subtrees."""
    code = tl.zeros([R, W], tl.int32)
    for level in tl.static_range(LEVELS):
        a, b = halves(weight, R, W >> level)
        u, luck = halves(luck, R, W >> level)
        below, beside = halves(code, R, W >> level)
        weight, bits = fight(a, b, u)
        code = below | (beside << (2 * ((1 << level) - 1))) | (bits << (4 * ((1 << level) - 1)))
    return weight, luck, code


@triton.jit
def open_node(
    state: tl.tensor, code: tl.tensor, R: tl.constexpr, W: tl.constexpr, BITS: tl.constexpr
) -> tuple[tl.tensor, tl.tensor]:
    """Return the states of the children, and the codes of the subtrees below them, `BITS` wide."""
    left, right = settle_fight(state, (code >> (2 * BITS)) & 3)
    below, beside = code & ((1 << BITS) - 1), (code >> BITS) & ((1 << BITS) - 1)
    return interleave(left, right, R, W), interleave(below, beside, R, W)


@triton.jit
def descend(state: tl.tensor, code: tl.tensor, R: tl.constexpr, W: tl.constexpr, LEVELS: tl.constexpr) -> tl.tensor:
    """Invert `climb`: states (R, W) of the residuals to those of their 2^LEVELS leaves each."""
    for step in tl.static_range(LEVELS):
        state, code = open_node(state, code, R, W << step, 2 * ((1 << (LEVELS - 1 - step)) - 1))
    return state


@triton.jit
def climb_tree(
    weight: tl.tensor,
    luck: tl.tensor,
    R: tl.constexpr,
    N: tl.constexpr,
    A: tl.constexpr,
    B: tl.constexpr,
    C: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """Fight A + B + C = log2(N) rounds. Returns (R, 1) residuals, (R, 1) uniforms left over, and three tiles of codes."""
    weight, luck, low = climb(weight, luck, R, N, A)
    weight, luck, middle = climb(weight, luck, R, N >> A, B)
    weight, luck, high = climb(weight, luck, R, N >> (A + B), C)
    return weight, luck, low, middle, high


@triton.jit
def descend_tree(
    state: tl.tensor,
    low: tl.tensor,
    middle: tl.tensor,
    high: tl.tensor,
    R: tl.constexpr,
    N: tl.constexpr,
    A: tl.constexpr,
    B: tl.constexpr,
    C: tl.constexpr,
) -> tl.tensor:
    """Invert `climb_tree`: (R, 1) states of the roots to those of N leaves each, int32."""
    state = descend(state, high, R, 1, C)
    state = descend(state, middle, R, N >> (A + B), B)
    return descend(state, low, R, N >> A, A)


def stages(leaves: int) -> tuple[int, int, int]:
    """Return the levels of the three stages for a power of two of at most 2^TREE leaves."""
    levels = leaves.bit_length() - 1
    low = min(levels, STAGE)
    middle = min(levels - low, STAGE)
    return low, middle, levels - low - middle
