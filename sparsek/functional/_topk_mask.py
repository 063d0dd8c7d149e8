"""Hard top-k with fixed rules for ties, real k and infinite scores."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sparsek._validation import check_dim, check_floating, check_k, check_mask, inspectable, values_visible
from sparsek.functional._rows import column
from sparsek.kernels import native
from sparsek.kernels._backend import triton_takes

_LONGEST = 16_384
"""Rows of at most so many units are held on chip by a kernel."""


def topk_mask(input: Tensor, k: float | Tensor, dim: int = -1, *, mask: Tensor | None = None) -> Tensor:
    r"""Select the k largest entries along `dim`: 1 there, 0 elsewhere.

    $$s_i = \min(1, \max(0, k - r_i)),$$

    where $r_i \in \{0, 1, \dots\}$ is the rank of entry i in the order "value descending, index ascending". With whole
    k this is a k-hot vector; with real k the first $\lfloor k \rfloor$ entries are 1 and the next one holds the
    fraction: the limit of :func:`sigmoid_topk` for temperature to 0, with ties broken by the lowest index.

    On the CPU, C++ bisects for the k-th largest value. Elsewhere it is found by `topk` where k is at hand, and ties at it
    are resolved only if there are any; under `torch.func` a tensor k costs a stable sort. **No gradient** flows to
    `input` or `k`; `sigmoid_topk(..., hard=True)` is the operator with one.

    k = 0 gives zeros, k = n ones. Entries at +inf come first, masked ones and -inf are exactly 0 and do not count as
    valid. A NaN that is not masked makes its own row NaN.

    Shape:
        - input: any shape, n units along `dim`.
        - k: a number, or a tensor that broadcasts to the shape of `input` without `dim`.
        - output: the shape of `input`.

    Args:
        input: Scores, floating point.
        k: How many to select, in [0, number of valid entries]; may be real.
        dim: Dimension of the units.
        mask: True = keep; broadcasts to `input`.

    Returns:
        The selection, in the dtype of `input`.

    Raises:
        ValueError: If an argument has the wrong type, shape or range; if a row has fewer than k valid entries, or
            more than k at +inf. Values are looked at in eager mode only; otherwise, and on CUDA where a kernel takes
            the row (Triton, n ≤ 16,384), such a row is NaN.

    Example:
        >>> topk_mask(torch.tensor([0.1, 3.0, 2.0, 3.0]), 2)
        tensor([0., 1., 0., 1.])
        >>> topk_mask(torch.tensor([0.1, 3.0, 2.0, 3.0]), 2.25)
        tensor([0.0000, 1.0000, 0.2500, 1.0000])
    """
    check_floating("input", input)
    dim = check_dim("input", input, dim)
    scores = input.detach()
    if mask is not None:
        check_mask("mask", mask, input)
        scores = scores.masked_fill(~mask, -torch.inf)
    scores = scores.movedim(dim, -1)
    fused = _fits_a_kernel(scores)
    check_k(k, scores.shape[:-1], None if fused and isinstance(k, Tensor) else scores.shape[-1])
    if scores.numel() == 0:
        return torch.zeros_like(input)
    if fused:
        selected = _by_kernel(scores, k)
    elif torch.compiler.is_compiling():
        wanted = k if isinstance(k, Tensor) else torch.ones((), dtype=torch.float64, device=scores.device) * k
        selected = _mask_op(scores, wanted)
    else:
        selected = _of_rows(scores, k, validate=values_visible(scores))
    return selected.movedim(-1, dim)


def _of_rows(scores: Tensor, k: float | Tensor, *, validate: bool) -> Tensor:
    selected = _by_native(scores, k)
    if selected is not None:
        return selected
    whole, fraction = _split(k, scores)
    if not isinstance(whole, Tensor) or inspectable(scores, whole):
        return _by_threshold(scores, whole, fraction, validate)
    return _by_sort(scores, whole, fraction, validate)


# Under torch.compile the selection is one opaque operator, as the solve is.


@torch.library.custom_op("sparsek::topk_mask", mutates_args=())
def _mask_op(scores: Tensor, k: Tensor) -> Tensor:
    return _of_rows(scores, k, validate=False).contiguous()


@_mask_op.register_fake
def _(scores: Tensor, k: Tensor) -> Tensor:
    return torch.empty(scores.shape, dtype=scores.dtype, device=scores.device)


def _fits_a_kernel(scores: Tensor) -> bool:
    """Whether a kernel takes these rows. It has no rule for the transforms of `torch.func`."""
    if scores.shape[-1] > _LONGEST or not triton_takes(scores):
        return False
    return torch.compiler.is_compiling() or inspectable(scores)


def _by_native(scores: Tensor, k: float | Tensor) -> Tensor | None:
    """By C++; None where it does not run, or where some row has no answer and the refusal is left to tensor operations."""
    rows = scores.reshape(-1, scores.shape[-1])
    rows = rows if rows.dtype.itemsize > 2 else rows.float()
    if not inspectable(scores) or not native.takes(rows, "topk_mask"):
        return None
    if isinstance(k, Tensor):
        k = k.detach().double()
        k = k.item() if k.numel() == 1 else k.expand(scores.shape[:-1]).reshape(-1, 1)
    selected = native.topk_mask(rows, k)
    return None if selected is None else selected.view(scores.shape).to(scores.dtype)


def _by_kernel(scores: Tensor, k: float | Tensor) -> Tensor:
    """One launch that waits for nothing; a row where k has no answer is NaN."""
    from sparsek.kernels.triton._topk_mask import topk_mask_rows  # noqa: PLC0415 - loads Triton

    batch, n = scores.shape[:-1], scores.shape[-1]
    if isinstance(k, Tensor):
        wanted = k.detach().to(scores.device, torch.float64)
    else:
        wanted = torch.full((), k, dtype=torch.float64, device=scores.device)
    selected: Tensor = topk_mask_rows(scores.reshape(-1, n), wanted.expand(batch).reshape(-1))
    return selected.reshape(scores.shape)


def _split(k: float | Tensor, scores: Tensor) -> tuple[int | Tensor, float | Tensor]:
    """Whole part and fraction of k; columns if k is a tensor, or a float that a compiler may trace."""
    if isinstance(k, int) or (not isinstance(k, Tensor) and inspectable(scores)):
        return math.floor(k), k - math.floor(k)
    k = column(k.detach() if isinstance(k, Tensor) else k, scores, torch.float64)
    return k.floor().long(), k - k.floor()


def _by_threshold(scores: Tensor, whole: int | Tensor, fraction: float | Tensor, validate: bool) -> Tensor:
    """Compare with the smallest selected value; ties at it cost a cumulative sum where there are any."""
    size = whole + (fraction > 0)
    threshold = _smallest_selected(scores, size)
    if not inspectable(scores):
        return _resolve_ties(scores, threshold, whole, fraction, validate)
    inside = scores >= threshold
    clear = (_count(inside) == size) & threshold.isfinite() & ~scores.amax(-1, keepdim=True).isnan()
    if not isinstance(fraction, Tensor) and fraction == 0:
        selected = inside.to(scores.dtype)
    else:
        at = scores == threshold
        clear &= _count(at) == 1
        selected = torch.where(at, _last(fraction, scores), inside.to(scores.dtype))
    return selected if bool(clear.all()) else _resolve_ties(scores, threshold, whole, fraction, validate)


def _count(units: Tensor) -> Tensor:
    return units.sum(-1, keepdim=True, dtype=torch.int32)


def _last(fraction: float | Tensor, scores: Tensor) -> float | Tensor:
    """What the last selected entry holds: the fraction, or 1 where k is whole."""
    last = fraction + (fraction == 0)
    return last.to(scores.dtype) if isinstance(last, Tensor) else last


def _smallest_selected(scores: Tensor, size: int | Tensor) -> Tensor:
    """The `size`-th largest value of each row; +inf where `size` is 0; NaN kept."""
    n = scores.shape[-1]
    if isinstance(size, Tensor):
        largest = scores.topk(int(size.max().clamp(min=1)), dim=-1).values
        index = (size - 1).clamp(min=0).expand(*scores.shape[:-1], 1)
        value = largest.gather(-1, index)
        return value.masked_fill((size == 0) & ~value.isnan(), torch.inf)
    if size == 0:
        value = scores.amax(-1, keepdim=True)
        return value.masked_fill(~value.isnan(), torch.inf)
    if 2 * size <= n + 1:
        return scores.topk(size, dim=-1, sorted=False).values.amin(-1, keepdim=True)
    return scores.topk(n - size + 1, dim=-1, largest=False, sorted=False).values.amax(-1, keepdim=True)


def _resolve_ties(
    scores: Tensor, threshold: Tensor, whole: int | Tensor, fraction: float | Tensor, validate: bool
) -> Tensor:
    size = whole + (fraction > 0)
    above = scores > threshold
    at = scores == threshold
    rank = _count(above) + at.cumsum(-1)  # counted from 1, right for the entries at the threshold
    selected = (above | (at & (rank <= size))).to(scores.dtype)
    selected = torch.where(at & (rank == size), _last(fraction, scores), selected)
    return _refuse(scores, selected, whole, size, validate)


def _by_sort(scores: Tensor, whole: Tensor, fraction: float | Tensor, validate: bool) -> Tensor:
    """The same by ranks: one route for every k, which a compiler need not specialise."""
    order = scores.sort(dim=-1, descending=True, stable=True).indices
    rank = torch.arange(scores.shape[-1], device=scores.device)
    ranked = torch.where(rank < whole, 1.0, torch.where(rank == whole, fraction, 0.0)).to(scores.dtype)
    selected = torch.zeros_like(scores).scatter(-1, order, ranked.expand(scores.shape))
    return _refuse(scores, selected, whole, whole + (fraction > 0), validate)


def _refuse(scores: Tensor, selected: Tensor, whole: int | Tensor, size: int | Tensor, validate: bool) -> Tensor:
    """Raise, or answer NaN in that row, where k has no answer; NaN too where a score is NaN."""
    num_infinite = (scores == torch.inf).sum(-1, keepdim=True)
    num_valid = (scores > -torch.inf).sum(-1, keepdim=True)
    broken = scores.isnan().any(-1, keepdim=True)
    few = (num_valid < size) & ~broken
    many = num_infinite > whole
    if validate:
        if bool(few.any()):
            raise ValueError(f"k must be at most the number of valid units, {int(num_valid.min())} in one row")
        if bool((many & ~broken).any()):
            raise ValueError(f"input must have at most k entries at +inf in every row, got {int(num_infinite.max())}")
    outside = whole < 0 if isinstance(whole, Tensor) else torch.zeros_like(few)
    return selected.masked_fill(broken | few | many | outside, torch.nan)
