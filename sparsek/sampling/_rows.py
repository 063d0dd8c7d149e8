"""Inclusion probabilities as rows that sum to whole numbers: checks, precision and the phantom unit."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sparsek._validation import check_dim, check_floating, check_k, inspectable, values_visible


class Rows(NamedTuple):
    """What a design works on."""

    probs: Tensor
    """(rows, m) in float64 (float32 on devices without it). Rows sum to their size; m = n, or n + 1 with phantom."""
    size: Tensor
    """(rows,) whole numbers, in the dtype of `probs`; for a design of random size, the expected size."""
    n: int
    """Number of real units."""
    valid: Tensor | None
    """(rows,) False where a row is not made of probabilities or misses its k; None when this was checked by raising."""

    def poison(self, output: Tensor, unit_dims: int) -> Tensor:
        """Return `output` of shape (..., rows, *unit dimensions) with NaN in the rows that are not valid."""
        if self.valid is None:
            return output
        return output.masked_fill(~self.valid.reshape(-1, *[1] * unit_dims), torch.nan)


def as_rows(probs: Tensor, k: float | Tensor | None, fixed_size: bool, look: bool = True) -> Rows:
    """Check `probs` and `k`, flatten to rows, settle each row's sum and append the phantom unit where it is needed.

    The size of a row is `k` where given, else its sum, which counts as a whole number when it is as near to one as
    :func:`tolerance` says. What the sum then misses is spread in proportion to $π_i (1 - π_i)$ (entries of 0 and 1 keep
    their value). The phantom has $π = ⌈k⌉ - k$; in rows with a whole k it has π = 0, which changes nothing.

    Without `look` no value of a tensor is looked at, which would wait for the device: a bad row is then not valid.
    """
    check_floating("probs", probs)
    check_dim("probs", probs, -1)
    batch, n = probs.shape[:-1], probs.shape[-1]
    if k is not None:
        check_k(k, batch, n if look or not isinstance(k, Tensor) else None)
    work = probs.to(working_dtype(probs.device)).reshape(batch.numel(), n)
    total = work.sum(-1)
    target = _target(total, k, batch, tolerance(probs.dtype, given=False))
    miss = (target - total).detach()
    excess = miss.abs() / (tolerance(probs.dtype, given=True) * target.detach().clamp(min=1))
    if not fixed_size:
        return Rows(work, total.detach(), n, _check(probs, work, target, excess, look=look)[0])
    size = target.detach().ceil()
    phantom = size - target
    valid, settled, fractional = _check(probs, work, target, excess, phantom.detach(), look=look)
    if isinstance(k, (int, float)):
        fractional = k != int(k)
    if not settled:
        work = _spread(work, miss)
    if fractional:
        work = torch.cat((work, phantom.unsqueeze(-1)), -1)
    return Rows(work, size, n, valid)


def as_number(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return `tensor` in `dtype`. Booleans are read as bytes, which converts them several times faster; `vmap` of torch 2.6 cannot."""
    if tensor.dtype == torch.bool and inspectable(tensor):
        tensor = tensor.view(torch.uint8)
    return tensor.to(dtype)


def working_dtype(device: torch.device) -> torch.dtype:
    """Return float64: cumulative sums and tree sums of 1e6 units lose the small probabilities in float32."""
    return torch.float32 if device.type == "mps" else torch.float64


def tolerance(dtype: torch.dtype, *, given: bool) -> float:
    """Return how far a sum may lie from a size s, in units of max(1, s).

    A given k also admits the rounding of the entries to a half-precision `dtype`, half an ulp in each.
    """
    if dtype == torch.float64:
        return 1e-12
    return max(2e-6, torch.finfo(dtype).eps / 2) if given else 2e-6


def _target(total: Tensor, k: float | Tensor | None, batch: torch.Size, near: float) -> Tensor:
    """Return the expected size of each row: k, or the sum, or the whole number that the sum is close to."""
    if isinstance(k, Tensor):
        return k.to(total).expand(batch).reshape(total.shape)
    if k is not None:
        return torch.full_like(total, k)
    whole = total.detach().round()
    return torch.where((total - whole).abs() <= near * whole.clamp(min=1), whole, total)


def _check(
    probs: Tensor, work: Tensor, target: Tensor, excess: Tensor, phantom: Tensor | None = None, *, look: bool
) -> tuple[Tensor | None, bool, bool]:
    """Return (valid rows or None, whether sums are exact, whether a phantom is needed); raise where values show.

    One look at the device for all questions.
    """
    if not (look and values_visible(probs)):
        inside = ((work >= 0) & (work <= 1)).all(-1)
        return inside & (excess <= 1), False, True
    if probs.numel() == 0:
        return None, True, False
    extremes = [x.to(excess.dtype) for x in torch.aminmax(probs.detach())]
    rest = [excess.max(), (excess if phantom is None else phantom).max()]
    low, high, worst, most = torch.stack([*extremes, *rest]).tolist()
    if not (low >= 0 and high <= 1):
        raise ValueError(f"probs must lie in [0, 1] everywhere, got values from {low} to {high}")
    if not worst <= 1:
        row = int(excess.argmax())
        raise ValueError(
            f"probs must sum to k within {tolerance(probs.dtype, given=True):.1e}·max(1, k) in every row, "
            f"got a sum of {work[row].sum().item():.9g} with k = {target[row].item():.9g}"
        )
    return None, worst * tolerance(probs.dtype, given=True) <= tolerance(torch.float64, given=True), most > 0


def _spread(probs: Tensor, miss: Tensor) -> Tensor:
    """Return `probs` with `miss` added to each row in proportion to π(1 - π). The gradient passes straight through."""
    with torch.no_grad():
        spread = torch.addcmul(probs, probs, probs, value=-1)
        room = spread.sum(-1)
        rate = torch.where(room > 0, miss / room, 0).clamp(-1, 1)
        settled = spread.mul_(rate.unsqueeze(-1)).add_(probs)
    return probs + (settled - probs).detach() if probs.requires_grad else settled
