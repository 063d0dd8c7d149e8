"""The gradient of sigmoid top-k on CUDA: one fused pass over a row held on chip, two over a longer one."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import _sigmoid_topk as forward
from ._sigmoid_long_row import FIELDS, add_up, field_of
from ._sigmoid_steps import inverse_of, standardise
from ._sigmoid_weights import at_limit, densities, mean_of_sides, nearest, side_sums

CHUNK = 4096
"""Units of a long row that one program takes."""
_TOGETHER = 128


def pull_back(
    grad: Tensor, x: Tensor, k: Tensor, temperature: Tensor, threshold: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Gradients of rows of probabilities, from the scores and thresholds alone; never synchronises with the host.

    With $z = (x-τ)/T$, $d = σ(z)σ(-z)$ and $w = d/\sum d$ or, on a saturated row, its limit:
    $∂L/∂x = d ∘ (g - ⟨w, g⟩)/T$, $∂L/∂k = ⟨w, g⟩$, $∂L/∂T = -\sum ∂L/∂x · z$.

    Args:
        grad: (rows, n), any strides.
        x: (rows, n) float32, float16 or bfloat16, any strides.
        k: (rows, 1) or (1, 1) float64.
        temperature: Likewise.
        threshold: (rows, 1) float64, from :func:`sparsek.kernels.triton._sigmoid_topk.solve`.

    Returns:
        Gradients to `x` (rows, n), contiguous, of its dtype; to `k` and to `temperature`, (rows, 1) float64. The two last are 0 in a
        row without finite units.
    """
    rows, n = x.shape
    to_x = torch.empty((rows, n), dtype=x.dtype, device=x.device)
    mean, along = torch.zeros((2, rows, 1), dtype=torch.float64, device=x.device)
    if rows and n:
        fill = pull_back_long_rows if n > forward.LONGEST_ROW else pull_back_rows
        fill(grad, x, k, temperature, threshold, to_x, mean, along)
    return to_x, mean, along


def pull_back_rows(
    grad: Tensor,
    x: Tensor,
    k: Tensor,
    temperature: Tensor,
    threshold: Tensor,
    to_x: Tensor,
    mean: Tensor,
    along: Tensor,
) -> None:
    """Fill the three gradients, all contiguous, from rows that fit on chip."""
    rows, n = x.shape
    width, height, warps = forward.tile_of(n)
    row = _arguments(grad, x, k, temperature, threshold)
    with torch.cuda.device_of(x):
        _row_kernel[(triton.cdiv(rows, height),)](*row, to_x, mean, along, HEIGHT=height, WIDTH=width, num_warps=warps)


def pull_back_long_rows(
    grad: Tensor,
    x: Tensor,
    k: Tensor,
    temperature: Tensor,
    threshold: Tensor,
    to_x: Tensor,
    mean: Tensor,
    along: Tensor,
) -> None:
    """The same from rows of any length: sums chunk by chunk, then the output."""
    rows, n = x.shape
    chunks = triton.cdiv(n, CHUNK)
    partial = torch.empty((rows, chunks, FIELDS.value), dtype=torch.float64, device=x.device)
    tickets = torch.zeros(rows, dtype=torch.int32, device=x.device)
    limit = torch.empty(rows, dtype=torch.int32, device=x.device)
    row = _arguments(grad, x, k, temperature, threshold)
    results = (mean, along, limit, chunks)
    with torch.cuda.device_of(x):
        _sums_kernel[(rows * chunks,)](*row, partial, tickets, *results, CHUNK=CHUNK, TOGETHER=_TOGETHER, num_warps=8)
        _output_kernel[(rows * chunks,)](*row, to_x, *results, CHUNK=CHUNK, num_warps=8)


def _arguments(grad: Tensor, x: Tensor, k: Tensor, temperature: Tensor, threshold: Tensor) -> tuple[Tensor | int, ...]:
    """What the kernels share: tensors with their strides."""
    strides = (forward.row_stride(k), forward.row_stride(temperature), threshold.stride(0))
    return grad, *grad.stride(), x, *x.stride(), *x.shape, k, temperature, threshold, *strides


@triton.jit
def _row_kernel(
    grad_ptr: tl.tensor,
    grad_row: tl.tensor,
    grad_unit: tl.tensor,
    x_ptr: tl.tensor,
    x_row: tl.tensor,
    x_unit: tl.tensor,
    rows: tl.tensor,
    n: tl.tensor,
    k_ptr: tl.tensor,
    temperature_ptr: tl.tensor,
    threshold_ptr: tl.tensor,
    k_row: tl.tensor,
    temperature_row: tl.tensor,
    threshold_row: tl.tensor,
    to_x_ptr: tl.tensor,
    mean_ptr: tl.tensor,
    along_ptr: tl.tensor,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64) * HEIGHT + tl.arange(0, HEIGHT)
    unit = tl.arange(0, WIDTH).to(tl.int64)[None, :]
    there = row < rows
    mask = there[:, None] & (unit < n)
    x = tl.load(x_ptr + row[:, None] * x_row + unit * x_unit, mask=mask, other=-float("inf")).to(tl.float32)
    grad = tl.load(grad_ptr + row[:, None] * grad_row + unit * grad_unit, mask=mask, other=0.0).to(tl.float32)
    target = tl.load(k_ptr + row * k_row, mask=there, other=0.0)
    temperature = tl.load(temperature_ptr + row * temperature_row, mask=there, other=1.0)
    threshold = tl.load(threshold_ptr + row * threshold_row, mask=there, other=0.0)
    inverse = inverse_of(temperature)
    z, upper, lower = _sides_of(x, threshold, temperature, inverse)
    density, square = densities(z)
    upper_near, lower_near = nearest(z, upper), nearest(z, lower)
    upper_sum, upper_grad = side_sums(z, upper, upper_near, square, grad)
    lower_sum, lower_grad = side_sums(z, lower, lower_near, square, grad)
    mean = mean_of_sides(upper_near, upper_sum, upper_grad, lower_near, lower_sum, lower_grad)
    right = threshold == threshold  # noqa: PLR0124 - false for a NaN alone
    mean = tl.where(right, mean, float("nan"))
    product = density * (grad - mean[:, None]) * inverse[:, None]
    limit = right & at_limit(target, upper_near, lower_near)
    product = tl.where(limit[:, None], 0.0, product)
    tl.store(to_x_ptr + row[:, None] * n + unit, product.to(to_x_ptr.dtype.element_ty), mask=mask)
    along = -tl.sum(tl.where(density > 0, z * product, 0.0), axis=1)
    along = tl.where(right, along, float("nan"))
    tl.store(mean_ptr + row, mean.to(tl.float64), mask=there)
    tl.store(along_ptr + row, along.to(tl.float64), mask=there)


@triton.jit
def _sides_of(
    x: tl.tensor, threshold: tl.tensor, temperature: tl.tensor, inverse: tl.tensor
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """z, and the finite units above the threshold and at or below it. A finite unit has a finite z, however far it is."""
    near = tl.minimum(tl.maximum(threshold, -3.0e38), 3.0e38).to(tl.float32)
    z = standardise(x, near, (threshold - near.to(tl.float64)) / temperature, temperature, inverse)
    finite = tl.abs(x) < float("inf")
    z = tl.where(finite, tl.minimum(tl.maximum(z, -3.0e38), 3.0e38), z)
    return z, finite & (z > 0), finite & (z <= 0)


# Fields of the sums over a chunk.
_UPPER_NEAR = tl.constexpr(0)
_UPPER = tl.constexpr(1)
_UPPER_GRAD = tl.constexpr(2)
_LOWER_NEAR = tl.constexpr(3)
_LOWER = tl.constexpr(4)
_LOWER_GRAD = tl.constexpr(5)
_MOMENT = tl.constexpr(6)
"""Σd z."""
_MOMENT_GRAD = tl.constexpr(7)
"""Σd z g."""


@triton.jit
def _sums_kernel(
    grad_ptr: tl.tensor,
    grad_row: tl.tensor,
    grad_unit: tl.tensor,
    x_ptr: tl.tensor,
    x_row: tl.tensor,
    x_unit: tl.tensor,
    rows: tl.tensor,
    n: tl.tensor,
    k_ptr: tl.tensor,
    temperature_ptr: tl.tensor,
    threshold_ptr: tl.tensor,
    k_row: tl.tensor,
    temperature_row: tl.tensor,
    threshold_row: tl.tensor,
    partial_ptr: tl.tensor,
    tickets_ptr: tl.tensor,
    mean_ptr: tl.tensor,
    along_ptr: tl.tensor,
    limit_ptr: tl.tensor,
    chunks: tl.tensor,
    CHUNK: tl.constexpr,
    TOGETHER: tl.constexpr,
) -> None:
    """Sums over one chunk; the last program of a row makes its mean and its gradient to T of them."""
    program = tl.program_id(0).to(tl.int64)
    row, chunk = program // chunks, program % chunks
    one = tl.arange(0, 1)
    unit = (chunk * CHUNK + tl.arange(0, CHUNK))[None, :]
    x = tl.load(x_ptr + row * x_row + unit * x_unit, mask=unit < n, other=-float("inf")).to(tl.float32)
    grad = tl.load(grad_ptr + row * grad_row + unit * grad_unit, mask=unit < n, other=0.0).to(tl.float32)
    temperature = tl.load(temperature_ptr + row * temperature_row + one)
    threshold = tl.load(threshold_ptr + row * threshold_row + one)
    inverse = inverse_of(temperature)
    z, upper, lower = _sides_of(x, threshold, temperature, inverse)
    density, square = densities(z)
    upper_near, lower_near = nearest(z, upper), nearest(z, lower)
    upper_sum, upper_grad = side_sums(z, upper, upper_near, square, grad)
    lower_sum, lower_grad = side_sums(z, lower, lower_near, square, grad)
    moment = tl.where(density > 0, density * z, 0.0)
    field = tl.arange(0, FIELDS)
    sums = tl.where(field == _UPPER_NEAR, upper_near, tl.where(field == _LOWER_NEAR, lower_near, 0.0))
    sums = tl.where(field == _UPPER, upper_sum, tl.where(field == _UPPER_GRAD, upper_grad, sums))
    sums = tl.where(field == _LOWER, lower_sum, tl.where(field == _LOWER_GRAD, lower_grad, sums))
    sums = tl.where(field == _MOMENT, tl.sum(moment, axis=1), sums)
    sums = tl.where(field == _MOMENT_GRAD, tl.sum(tl.where(density > 0, moment * grad, 0.0), axis=1), sums)
    tl.store(partial_ptr + program * FIELDS + field, sums.to(tl.float64))
    tl.debug_barrier()
    ticket = tl.atomic_add(tickets_ptr + row, 1, sem="acq_rel")
    if ticket == chunks - 1:
        first = partial_ptr + row * chunks * FIELDS
        total, smallest = add_up(first, chunks, TOGETHER)
        upper_least, lower_least = field_of(smallest, _UPPER_NEAR), field_of(smallest, _LOWER_NEAR)
        total = _add_up_relative(first, chunks, upper_least, lower_least, total, TOGETHER)
        mean = mean_of_sides(
            upper_least.to(tl.float32),
            field_of(total, _UPPER).to(tl.float32),
            field_of(total, _UPPER_GRAD).to(tl.float32),
            lower_least.to(tl.float32),
            field_of(total, _LOWER).to(tl.float32),
            field_of(total, _LOWER_GRAD).to(tl.float32),
        ).to(tl.float64)
        right = threshold == threshold  # noqa: PLR0124 - false for a NaN alone
        mean = tl.where(right, mean, float("nan"))
        target = tl.load(k_ptr + row * k_row + one)
        limit = right & at_limit(target, upper_least, lower_least)
        along = (mean * field_of(total, _MOMENT) - field_of(total, _MOMENT_GRAD)) / temperature
        along = tl.where(limit, 0.0, along)
        tl.store(mean_ptr + row + one, mean)
        tl.store(along_ptr + row + one, along)
        tl.store(limit_ptr + row + one, limit.to(tl.int32))


@triton.jit
def _add_up_relative(
    partial_ptr: tl.tensor,
    chunks: tl.tensor,
    upper_least: tl.tensor,
    lower_least: tl.tensor,
    total: tl.tensor,
    TOGETHER: tl.constexpr,
) -> tl.tensor:
    """The totals with the sums of each side, which chunks hold relative to their own nearest unit, relative to that of the row."""
    field = tl.arange(0, FIELDS)
    sides = tl.zeros([FIELDS], tl.float64)
    is_upper = (field == _UPPER) | (field == _UPPER_GRAD)
    is_lower = (field == _LOWER) | (field == _LOWER_GRAD)
    own = tl.where(is_upper, _UPPER_NEAR, tl.where(is_lower, _LOWER_NEAR, field))
    least = tl.where(is_upper, upper_least, tl.where(is_lower, lower_least, 0.0))
    for start in range(0, chunks, TOGETHER):
        chunk = (start + tl.arange(0, TOGETHER)).to(tl.int64)[:, None]
        mask = (chunk < chunks) & (is_upper | is_lower)[None, :]
        part = tl.load(partial_ptr + chunk * FIELDS + field[None, :], mask=mask, other=0.0, cache_modifier=".cg")
        near = tl.load(partial_ptr + chunk * FIELDS + own[None, :], mask=mask, other=0.0, cache_modifier=".cg")
        away = tl.where(mask & (near < float("inf")), near - least[None, :], 0.0).to(tl.float32)
        sides += tl.sum(part * tl.exp(-tl.maximum(away, 0.0)).to(tl.float64), axis=0)
    return tl.where(is_upper | is_lower, sides, total)


@triton.jit
def _output_kernel(
    grad_ptr: tl.tensor,
    grad_row: tl.tensor,
    grad_unit: tl.tensor,
    x_ptr: tl.tensor,
    x_row: tl.tensor,
    x_unit: tl.tensor,
    rows: tl.tensor,
    n: tl.tensor,
    k_ptr: tl.tensor,
    temperature_ptr: tl.tensor,
    threshold_ptr: tl.tensor,
    k_row: tl.tensor,
    temperature_row: tl.tensor,
    threshold_row: tl.tensor,
    to_x_ptr: tl.tensor,
    mean_ptr: tl.tensor,
    along_ptr: tl.tensor,
    limit_ptr: tl.tensor,
    chunks: tl.tensor,
    CHUNK: tl.constexpr,
) -> None:
    """The gradient to one chunk of the scores."""
    program = tl.program_id(0).to(tl.int64)
    row, chunk = program // chunks, program % chunks
    one = tl.arange(0, 1)
    unit = (chunk * CHUNK + tl.arange(0, CHUNK))[None, :]
    x = tl.load(x_ptr + row * x_row + unit * x_unit, mask=unit < n, other=-float("inf")).to(tl.float32)
    grad = tl.load(grad_ptr + row * grad_row + unit * grad_unit, mask=unit < n, other=0.0).to(tl.float32)
    temperature = tl.load(temperature_ptr + row * temperature_row + one)
    threshold = tl.load(threshold_ptr + row * threshold_row + one)
    mean = tl.load(mean_ptr + row + one).to(tl.float32)
    limit = tl.load(limit_ptr + row + one) > 0
    inverse = inverse_of(temperature)
    z, _, _ = _sides_of(x, threshold, temperature, inverse)
    density, _ = densities(z)
    product = density * (grad - mean[:, None]) * inverse[:, None]
    product = tl.where(limit[:, None], 0.0, product)
    tl.store(to_x_ptr + row * n + unit, product.to(to_x_ptr.dtype.element_ty), mask=unit < n)
