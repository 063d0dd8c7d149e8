"""Device functions for one long row: its sums chunk by chunk, and the state that passes share, as vectors of fields."""

from __future__ import annotations

import triton
import triton.language as tl

from ._sigmoid_limits import OPEN, SOLVED
from ._sigmoid_order import from_ordered_key, order_bracket, ordered_key, ranks
from ._sigmoid_steps import (
    advance,
    count_above,
    inverse_of,
    newton_step,
    sides,
    standardise,
    taylor_shift,
    taylor_sums,
)

FIELDS = tl.constexpr(16)

# Fields of the state.
PIVOT = tl.constexpr(0)
SHIFT = tl.constexpr(1)
LOW = tl.constexpr(2)
HIGH = tl.constexpr(3)
WIDTH = tl.constexpr(4)
"""Width of the bracket one pass ago; two passes ago it was PREVIOUS."""
PREVIOUS = tl.constexpr(5)
LAST = tl.constexpr(6)
"""Shift of the logits that ends the solve."""

# Fields of the state, and of the sums of the first pass.
STATUS = tl.constexpr(7)
"""In the sums, whether there is a NaN."""
UNITS = tl.constexpr(8)
CERTAIN = tl.constexpr(9)
LEAST = tl.constexpr(10)
MOST = tl.constexpr(11)
"""In the sums, negative, so that both extremes are minima."""

# Fields of the sums: the units above, Σ±r, and the sums of four derivatives.
_ABOVE = tl.constexpr(0)
_SIGNED = tl.constexpr(1)
_FIRST = tl.constexpr(2)
_SECOND = tl.constexpr(3)
_THIRD = tl.constexpr(4)
_FOURTH = tl.constexpr(5)

_REACH = tl.constexpr(0.125)
"""Step up to which the fourth-order series is exact to 3e-7."""
_BRACKETED_PASSES = tl.constexpr(120)


@triton.jit
def field_of(fields: tl.tensor, index: tl.constexpr) -> tl.tensor:
    """One field, as a vector of one."""
    value = tl.sum(tl.where(tl.arange(0, FIELDS) == index, fields, 0.0), axis=0)
    return value + tl.zeros([1], tl.float64)


@triton.jit
def sums_of(z: tl.tensor) -> tl.tensor:
    """The sums over one chunk (1, units). Equal units round alike, so the residual is added in float64."""
    large, small, signs = sides(z)
    first, second, third, fourth = taylor_sums(z, small, large)
    field = tl.arange(0, FIELDS)
    sums = tl.zeros([FIELDS], tl.float64)
    sums = tl.where(field == _ABOVE, count_above(z).to(tl.float64), sums)
    sums = tl.where(field == _SIGNED, tl.sum(signs.to(tl.float64), axis=1), sums)
    sums = tl.where(field == _FIRST, first.to(tl.float64), sums)
    sums = tl.where(field == _SECOND, second.to(tl.float64), sums)
    sums = tl.where(field == _THIRD, third.to(tl.float64), sums)
    return tl.where(field == _FOURTH, fourth.to(tl.float64), sums)


@triton.jit
def record(
    sums: tl.tensor, units: tl.tensor, certain: tl.tensor, wrong: tl.tensor, least: tl.tensor, most: tl.tensor
) -> tl.tensor:
    """The sums with the counts and extremes of the chunk."""
    field = tl.arange(0, FIELDS)
    sums = tl.where(field == UNITS, units.to(tl.float64), sums)
    sums = tl.where(field == CERTAIN, certain.to(tl.float64), sums)
    sums = tl.where(field == STATUS, wrong.to(tl.float64), sums)
    sums = tl.where(field == LEAST, least.to(tl.float64), sums)
    return tl.where(field == MOST, -most.to(tl.float64), sums)


@triton.jit
def add_up(partial_ptr: tl.tensor, chunks: tl.tensor, TOGETHER: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:
    """Sums and minima of the fields over the chunks of a row. The loads bypass the cache that other programs do not see."""
    field = tl.arange(0, FIELDS)
    total = tl.zeros([FIELDS], tl.float64)
    smallest = tl.zeros([FIELDS], tl.float64) + float("inf")
    for start in range(0, chunks, TOGETHER):
        chunk = start + tl.arange(0, TOGETHER)
        mask = (chunk < chunks)[:, None] & (field < FIELDS)[None, :]
        source = partial_ptr + chunk.to(tl.int64)[:, None] * FIELDS + field[None, :]
        part = tl.load(source, mask=mask, other=0.0, cache_modifier=".cg")
        total += tl.sum(part, axis=0)
        smallest = tl.minimum(smallest, tl.min(tl.where(mask, part, float("inf")), axis=0))
    return total, smallest


@triton.jit
def step_row(
    state: tl.tensor, sums: tl.tensor, target: tl.tensor, temperature: tl.tensor, passes: tl.tensor
) -> tl.tensor:
    """The state after a pass: solved where the Taylor series reaches, else with the threshold moved."""
    field = tl.arange(0, FIELDS)
    units, certain, status = field_of(state, UNITS), field_of(state, CERTAIN), field_of(state, STATUS)
    pivot, shift = field_of(state, PIVOT), field_of(state, SHIFT)
    is_open = status == OPEN
    free = tl.where(is_open, target - certain, 1.0)
    others = tl.where(is_open, units - free, 1.0)
    above, signed = field_of(sums, _ABOVE), field_of(sums, _SIGNED)
    excess = ((above - target) + signed).to(tl.float32)
    first = field_of(sums, _FIRST).to(tl.float32)
    step = newton_step(
        excess,
        (above - certain).to(tl.float32),
        signed.to(tl.float32),
        first,
        free.to(tl.float32),
        others.to(tl.float32),
    )
    second, third = field_of(sums, _SECOND).to(tl.float32), field_of(sums, _THIRD).to(tl.float32)
    last = taylor_shift(excess, first, second, third, field_of(sums, _FOURTH).to(tl.float32))
    reached = (excess == 0) | ((tl.abs(step) <= _REACH) & (tl.abs(last) <= _REACH * 1.25))
    anchor = pivot.to(tl.float32) * inverse_of(temperature)
    low, high, width = field_of(state, LOW), field_of(state, HIGH), field_of(state, WIDTH)
    moved, low, high, narrow = advance(step, excess, anchor, shift, low, high, field_of(state, PREVIOUS), passes, 0.0)
    solved = is_open & (reached | narrow)
    state = tl.where(field == SHIFT, tl.where(is_open & ~solved, moved, shift), state)
    state = tl.where(field == LOW, low, tl.where(field == HIGH, high, state))
    state = tl.where(field == WIDTH, high - low, tl.where(field == PREVIOUS, width, state))
    state = tl.where(field == LAST, tl.where(is_open & reached, last.to(tl.float64), 0.0), state)
    return tl.where(field == STATUS, tl.where(solved, SOLVED, status), state)


@triton.jit
def _load(x_ptr: tl.tensor, x_unit: tl.tensor, n: tl.tensor, start: tl.tensor, CHUNK: tl.constexpr) -> tl.tensor:
    unit = start + tl.arange(0, CHUNK).to(tl.int64)
    return tl.load(x_ptr + unit * x_unit, mask=unit < n, other=-float("inf")).to(tl.float32)[None, :]


@triton.jit
def _order_statistics(
    x_ptr: tl.tensor,
    x_unit: tl.tensor,
    n: tl.tensor,
    state: tl.tensor,
    target: tl.tensor,
    CHUNK: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """The ⌈k⌉-th and (⌊k⌋+1)-th largest finite units, by bisection of the bits: at most 33 passes that only compare."""
    certain = field_of(state, CERTAIN)
    first, second = ranks(target - certain, certain.to(tl.int32))
    low = ordered_key(field_of(state, LEAST).to(tl.float32)).to(tl.int64)
    high = ordered_key(field_of(state, MOST).to(tl.float32)).to(tl.int64)
    active = tl.max((low < high).to(tl.int32), axis=0)
    while active > 0:
        middle = low + ((high - low + 1) >> 1)
        count = tl.zeros([1], tl.int32)
        for start in range(0, n, CHUNK):
            keys = ordered_key(_load(x_ptr, x_unit, n, start, CHUNK))
            count += tl.sum((keys >= middle.to(tl.int32)[:, None]).to(tl.int32), axis=1)
        enough = count >= first
        low, high = tl.where(enough, middle, low), tl.where(enough, high, middle - 1)
        active = tl.max((low < high).to(tl.int32), axis=0)
    upper = from_ordered_key(low.to(tl.int32))
    reached = tl.zeros([1], tl.int32)
    below = tl.zeros([1], tl.float32) - float("inf")
    for start in range(0, n, CHUNK):
        x = _load(x_ptr, x_unit, n, start, CHUNK)
        reached += tl.sum((x >= upper[:, None]).to(tl.int32), axis=1)
        below = tl.maximum(below, tl.max(tl.where(x < upper[:, None], x, -float("inf")), axis=1))
    return upper, tl.where(reached >= second, upper, below)


@triton.jit
def solve_alone(
    x_ptr: tl.tensor,
    x_unit: tl.tensor,
    n: tl.tensor,
    state: tl.tensor,
    target: tl.tensor,
    temperature: tl.tensor,
    CHUNK: tl.constexpr,
) -> tl.tensor:
    """The state of an open row after as many passes as it needs, between two order statistics."""
    field = tl.arange(0, FIELDS)
    upper, second = _order_statistics(x_ptr, x_unit, n, state, target, CHUNK)
    gap = (second.to(tl.float64) - upper.to(tl.float64)) / temperature
    low, high = order_bracket(target - field_of(state, CERTAIN), field_of(state, UNITS), gap)
    state = tl.where(field == PIVOT, upper.to(tl.float64), tl.where(field == SHIFT, 0.5 * low + 0.5 * high, state))
    state = tl.where(field == LOW, low, tl.where(field == HIGH, high, state))
    state = tl.where((field == PREVIOUS) | (field == WIDTH), high - low, state)
    inverse = inverse_of(temperature)
    passes = 0
    active = tl.max((field_of(state, STATUS) == OPEN).to(tl.int32), axis=0)
    while active > 0:
        sums = tl.zeros([FIELDS], tl.float64)
        for start in range(0, n, CHUNK):
            x = _load(x_ptr, x_unit, n, start, CHUNK)
            shift = field_of(state, SHIFT)
            sums += sums_of(standardise(x, field_of(state, PIVOT).to(tl.float32), shift, temperature, inverse))
        state = step_row(state, sums, target, temperature, passes)
        passes += 1
        still = tl.max((field_of(state, STATUS) == OPEN).to(tl.int32), axis=0)
        active = tl.where(passes < _BRACKETED_PASSES, still, 0)
    return state
