"""Sigmoid top-k on CUDA for rows longer than a program holds: two reads and one write of an ordinary row, no host in between.

The launches are always the same. A strided subsample of the row is solved on chip for a start. Each pass then sums the first
four derivatives of Σσ at the threshold, chunk by chunk; the program that finishes a row last adds the chunks up and takes the
guarded step, or ends the solve where the Taylor series reaches the solution. The output is that series at the same threshold,
so what rounding did to the sums it does to the output, and the sum is k. Passes over a solved row end before they read it; a row that
all passes leave open (heavy tails with few units above the threshold) is solved by one program between order statistics.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._sigmoid_limits import OPEN, SOLVED, classify, fill_limits, place_limits
from ._sigmoid_long_row import (
    CERTAIN,
    FIELDS,
    HIGH,
    LAST,
    LEAST,
    LOW,
    MOST,
    PIVOT,
    PREVIOUS,
    SHIFT,
    STATUS,
    UNITS,
    WIDTH,
    add_up,
    field_of,
    record,
    solve_alone,
    step_row,
    sums_of,
)
from ._sigmoid_steps import inverse_of, log_odds, sides, standardise, taylor
from ._sigmoid_tile import census, safe_bracket, solve_by_moments

SAMPLE = 8192
"""Units of the subsample."""
CHUNK = 4096
"""Units that one program sums."""
_PASSES = 4
_TOGETHER = 128
"""Chunks that are added up at a time."""


def solve_long_rows(x: Tensor, k: Tensor, temperature: Tensor, probs: Tensor, threshold: Tensor) -> None:
    """Fill `probs` and `threshold`, both contiguous; arguments as in :func:`sparsek.kernels.triton._sigmoid_topk.solve`."""
    rows, n = x.shape
    chunks = triton.cdiv(n, CHUNK)
    state = torch.empty((rows, FIELDS.value), dtype=torch.float64, device=x.device)
    partial = torch.empty((rows, chunks, FIELDS.value), dtype=torch.float64, device=x.device)
    tickets = torch.empty(rows, dtype=torch.int32, device=x.device)
    columns = (k, temperature, 0 if len(k) == 1 else k.stride(0), 0 if len(temperature) == 1 else temperature.stride(0))
    row = (x, *x.stride(), n)
    with torch.cuda.device_of(x):
        sample = min(SAMPLE, triton.next_power_of_2(n))
        _start_kernel[(rows,)](*row, *columns, state, tickets, SAMPLE=sample, num_warps=min(16, max(4, sample // 512)))
        for index in range(_PASSES):
            _pass_kernel[(rows * chunks,)](
                *row,
                *columns,
                state,
                partial,
                tickets,
                chunks,
                index,
                FIRST=index == 0,
                CHUNK=CHUNK,
                TOGETHER=_TOGETHER,
                num_warps=8,
            )
        _alone_kernel[(rows,)](*row, *columns, state, CHUNK=CHUNK, num_warps=8)
        _output_kernel[(rows * chunks,)](*row, *columns, state, probs, threshold, chunks, CHUNK=CHUNK, num_warps=8)


@triton.jit
def _start_kernel(
    x_ptr: tl.tensor,
    x_row: tl.tensor,
    x_unit: tl.tensor,
    n: tl.tensor,
    k_ptr: tl.tensor,
    temperature_ptr: tl.tensor,
    k_row: tl.tensor,
    temperature_row: tl.tensor,
    state_ptr: tl.tensor,
    tickets_ptr: tl.tensor,
    SAMPLE: tl.constexpr,
) -> None:
    """A threshold for each row from a strided subsample of it."""
    row = tl.program_id(0).to(tl.int64) + tl.arange(0, 1)
    stride = (n + SAMPLE - 1) // SAMPLE
    unit = tl.arange(0, SAMPLE).to(tl.int64) * stride
    mask = (unit < n)[None, :]
    x = tl.load(x_ptr + row[:, None] * x_row + unit[None, :] * x_unit, mask=mask, other=-float("inf")).to(tl.float32)
    target = tl.load(k_ptr + row * k_row)
    temperature = tl.load(temperature_ptr + row * temperature_row)
    units, certain, _, least, most, total = census(x)
    share = target * tl.sum(mask.to(tl.int32), axis=1).to(tl.float64) / n
    free = tl.maximum(share - certain.to(tl.float64), 1.0e-2 * share)
    free = tl.minimum(tl.maximum(free, 1.0e-12), units.to(tl.float64) - 1.0e-6)
    target = certain.to(tl.float64) + free
    is_open = tl.where(units > 0, 1, 0)
    _, pivot, shift, _ = solve_by_moments(x, target, certain, units, least, most, total, temperature, is_open)
    start = pivot + shift * temperature.to(tl.float32)
    start = tl.where(tl.abs(start) <= 3.0e38, start, pivot)
    field = tl.arange(0, FIELDS)
    first = tl.where(field == PIVOT, start.to(tl.float64), tl.zeros([FIELDS], tl.float64))
    tl.store(state_ptr + row * FIELDS + field, first)
    tl.store(tickets_ptr + row, tl.zeros([1], tl.int32))


@triton.jit
def _pass_kernel(
    x_ptr: tl.tensor,
    x_row: tl.tensor,
    x_unit: tl.tensor,
    n: tl.tensor,
    k_ptr: tl.tensor,
    temperature_ptr: tl.tensor,
    k_row: tl.tensor,
    temperature_row: tl.tensor,
    state_ptr: tl.tensor,
    partial_ptr: tl.tensor,
    tickets_ptr: tl.tensor,
    chunks: tl.tensor,
    passes: tl.tensor,
    FIRST: tl.constexpr,
    CHUNK: tl.constexpr,
    TOGETHER: tl.constexpr,
) -> None:
    """Sums over one chunk of an open row; the last program of the row moves its threshold."""
    program = tl.program_id(0).to(tl.int64)
    row, chunk = program // chunks, program % chunks
    state = tl.load(state_ptr + row * FIELDS + tl.arange(0, FIELDS))
    if tl.max(field_of(state, STATUS).to(tl.int32), axis=0) == OPEN:
        temperature = tl.load(temperature_ptr + row * temperature_row + tl.arange(0, 1))
        unit = chunk * CHUNK + tl.arange(0, CHUNK)
        mask = (unit < n)[None, :]
        source = x_ptr + row * x_row + unit[None, :] * x_unit
        x = tl.load(source, mask=mask, other=-float("inf")).to(tl.float32)
        pivot, shift = field_of(state, PIVOT).to(tl.float32), field_of(state, SHIFT)
        sums = sums_of(standardise(x, pivot, shift, temperature, inverse_of(temperature)))
        if FIRST:
            units, certain, wrong, least, most, _ = census(x)
            sums = record(sums, units, certain, wrong, least, most)
        sink = partial_ptr + (row * chunks + chunk) * FIELDS + tl.arange(0, FIELDS)
        tl.store(sink, sums)
        tl.debug_barrier()
        ticket = tl.atomic_add(tickets_ptr + row, 1, sem="acq_rel")
        if ticket % chunks == chunks - 1:
            total, smallest = add_up(partial_ptr + row * chunks * FIELDS, chunks, TOGETHER)
            target = tl.load(k_ptr + row * k_row + tl.arange(0, 1))
            if FIRST:
                state = _open_row(state, total, smallest, target, temperature)
            state = step_row(state, total, target, temperature, passes)
            tl.store(state_ptr + row * FIELDS + tl.arange(0, FIELDS), state)


@triton.jit
def _open_row(
    state: tl.tensor, total: tl.tensor, smallest: tl.tensor, target: tl.tensor, temperature: tl.tensor
) -> tl.tensor:
    """State with the counts of the row, what they make of it, and the bracket that is right for any row."""
    field = tl.arange(0, FIELDS)
    units, certain = field_of(total, UNITS), field_of(total, CERTAIN)
    least, most = field_of(smallest, LEAST), -field_of(smallest, MOST)
    status = classify(target, certain, units, field_of(total, STATUS), temperature)
    free = target - certain
    is_open = status == OPEN
    odds = log_odds(tl.where(is_open, free, 1.0).to(tl.float32), tl.where(is_open, units - free, 1.0).to(tl.float32))
    pivot = field_of(state, PIVOT).to(tl.float32)
    low, high = safe_bracket(least.to(tl.float32), most.to(tl.float32), odds, pivot, inverse_of(temperature))
    low, high = low.to(tl.float64), high.to(tl.float64)
    state = tl.where(field == UNITS, units, tl.where(field == CERTAIN, certain, state))
    state = tl.where(field == LEAST, least, tl.where(field == MOST, most, state))
    state = tl.where(field == LOW, low, tl.where(field == HIGH, high, state))
    state = tl.where((field == PREVIOUS) | (field == WIDTH), high - low, state)
    return tl.where(field == STATUS, status.to(tl.float64), state)


@triton.jit
def _alone_kernel(
    x_ptr: tl.tensor,
    x_row: tl.tensor,
    x_unit: tl.tensor,
    n: tl.tensor,
    k_ptr: tl.tensor,
    temperature_ptr: tl.tensor,
    k_row: tl.tensor,
    temperature_row: tl.tensor,
    state_ptr: tl.tensor,
    CHUNK: tl.constexpr,
) -> None:
    """Solve a row that is still open, by one program."""
    row = tl.program_id(0).to(tl.int64)
    state = tl.load(state_ptr + row * FIELDS + tl.arange(0, FIELDS))
    if tl.max(field_of(state, STATUS).to(tl.int32), axis=0) == OPEN:
        target = tl.load(k_ptr + row * k_row + tl.arange(0, 1))
        temperature = tl.load(temperature_ptr + row * temperature_row + tl.arange(0, 1))
        state = solve_alone(x_ptr + row * x_row, x_unit, n, state, target, temperature, CHUNK)
        state = tl.where(tl.arange(0, FIELDS) == STATUS, SOLVED, state)
        tl.store(state_ptr + row * FIELDS + tl.arange(0, FIELDS), state)


@triton.jit
def _output_kernel(
    x_ptr: tl.tensor,
    x_row: tl.tensor,
    x_unit: tl.tensor,
    n: tl.tensor,
    k_ptr: tl.tensor,
    temperature_ptr: tl.tensor,
    k_row: tl.tensor,
    temperature_row: tl.tensor,
    state_ptr: tl.tensor,
    probs_ptr: tl.tensor,
    threshold_ptr: tl.tensor,
    chunks: tl.tensor,
    CHUNK: tl.constexpr,
) -> None:
    """Probabilities of one chunk by the Taylor series at the threshold of its row."""
    program = tl.program_id(0).to(tl.int64)
    row, chunk = program // chunks, program % chunks
    state = tl.load(state_ptr + row * FIELDS + tl.arange(0, FIELDS))
    temperature = tl.load(temperature_ptr + row * temperature_row + tl.arange(0, 1))
    unit = chunk * CHUNK + tl.arange(0, CHUNK)
    mask = (unit < n)[None, :]
    source = x_ptr + row * x_row + unit[None, :] * x_unit
    x = tl.load(source, mask=mask, other=-float("inf")).to(tl.float32)
    pivot, shift, last = field_of(state, PIVOT).to(tl.float32), field_of(state, SHIFT), field_of(state, LAST)
    status = field_of(state, STATUS).to(tl.int32)
    z = standardise(x, pivot, shift, temperature, inverse_of(temperature))
    large, small, _ = sides(z)
    probs = taylor(z, small, large, last.to(tl.float32))
    if tl.max(status, axis=0) != SOLVED:
        probs = fill_limits(probs, x, status)
    tl.store(probs_ptr + row * n + unit[None, :], probs.to(probs_ptr.dtype.element_ty), mask=mask)
    if chunk == 0:
        least, most = field_of(state, LEAST), field_of(state, MOST)
        threshold = pivot.to(tl.float64) + (shift - last) * temperature
        threshold = place_limits(threshold, status, least, most, temperature)
        tl.store(threshold_ptr + row + tl.arange(0, 1), threshold)
