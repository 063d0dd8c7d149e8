"""The last step of a solve: remove what is left of the residual from the probabilities themselves, by a Taylor series."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sparsek._records import replaced


class Precision(NamedTuple):
    """What a working dtype can resolve."""

    first_order: float
    """Largest step that a first-order polish removes."""
    second_order: float
    """Largest step that a second-order polish removes."""
    newton: float
    """Largest step after which a Newton update is exact to rounding."""
    saturation: float
    """Σσ(1-σ) / Σσ below which plain sums no longer resolve the threshold."""
    rounding: float
    """Relative residual that is rounding."""


_SINGLE = Precision(first_order=1e-3, second_order=8e-3, newton=1e-4, saturation=2e-2, rounding=1e-7)
_DOUBLE = Precision(first_order=1e-7, second_order=4e-5, newton=1e-8, saturation=1e-5, rounding=1e-15)


BLOCK = 2**18
"""Units that are polished at a time: temporaries of whole large tensors cost more in page faults than the arithmetic."""


def precision(dtype: torch.dtype) -> Precision:
    """The limits of float64, or of float32 and whatever is solved in it."""
    return _DOUBLE if dtype == torch.float64 else _SINGLE


def precision_of_long_rows(dtype: torch.dtype) -> Precision:
    """The limits for a row in which the rarest rounding errors occur.

    A polish rounds once more. Near 1 the log-odds of a float32 sigmoid are right to 9e-5 and those of a polished one to 1.2e-4,
    which one unit in some thousands near 0.999 reaches. A polish by at most 3e-5 moves no such unit by half its spacing; so the
    last step of a long row is a pass of its own.
    """
    return _DOUBLE if dtype == torch.float64 else replaced(_SINGLE, first_order=3e-5, second_order=3e-5)


def polish_rows(probs: Tensor, missing: Tensor, spread: Tensor, *, first_order: bool) -> None:
    """Move `probs` (rows, n) in place along τ so that their sums grow by `missing`.

    With $d = π(1-π)$ and a shift δ of the logits, $π + δ d + δ^2/2 · d(1-2π)$; δ is such that the sum of the series is right.

    Args:
        probs: Sigmoids at a threshold close to the solution.
        missing: (rows, 1), k minus their sum.
        spread: (rows, 1), Σd.
        first_order: Whether one term of the series is enough.
    """
    if probs.numel() > BLOCK and len(probs) > 1:
        size = max(1, BLOCK // probs.shape[-1])
        for block in zip(*(t.split(size) for t in (probs, missing, spread)), strict=True):
            polish_rows(*block, first_order=first_order)
        return
    slope = torch.addcmul(probs, probs, probs, value=-1)
    shift = missing / spread
    if first_order:
        probs.addcmul_(slope, shift)
        return
    twist = torch.linalg.vecdot(slope, probs).unsqueeze(-1) / spread  # Σd(1-2π) / Σd = 1 - 2·twist
    root = torch.addcmul(1 + 2 * shift, shift, twist, value=-4).clamp_min_(0).sqrt_()
    shift = 2 * shift / (1 + root)
    square = shift.square()
    probs.addcmul_(slope, torch.addcmul(torch.add(shift, square, alpha=0.5), probs, square, value=-1))
