"""How what is summed over a row is put together: the operators ask here, so that a row may also be spread over processes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Counts(NamedTuple):
    """Numbers of units of each kind in a row, (rows, 1), and the sum of its finite scores."""

    certain: Tensor  # at +inf
    units: Tensor  # finite
    broken: Tensor  # NaN
    total: Tensor  # Σ of the finite scores


class Reduction:
    """Reductions of whole rows (rows, n) to (rows, 1); this one is of rows that lie in one piece.

    :mod:`sparsek.distributed` overrides every method for a row of which each process holds a part.
    """

    def sums(self, *parts: Tensor) -> tuple[Tensor, ...]:
        """Sums of whole rows from the sums of the parts that are here."""
        return parts

    def largest(self, part: Tensor) -> Tensor:
        """Maxima of whole rows from the maxima of the parts that are here."""
        return part

    def total(self, values: Tensor) -> Tensor:
        """Sum along the row, differentiable."""
        return values.sum(-1, keepdim=True)

    def logsumexp(self, values: Tensor) -> Tensor:
        """Log of the sum of exponentials along the row."""
        return values.logsumexp(-1, keepdim=True)

    def softmax(self, values: Tensor) -> Tensor:
        """Softmax along the row."""
        return values.softmax(-1)

    def order_statistics(self, x: Tensor, ranks: Tensor) -> Tensor:
        """The largest scores of each row by rank, counted from 1: (rows, m) for `ranks` (rows, m)."""
        return x.sort(dim=-1, descending=True).values.gather(-1, ranks - 1)


WHOLE = Reduction()


def count(x: Tensor) -> Counts:
    """The counts of the part of each row that is here."""
    finite = x.isfinite()
    return Counts(
        (x == torch.inf).sum(-1, keepdim=True),
        finite.sum(-1, keepdim=True),
        x.isnan().sum(-1, keepdim=True),
        torch.where(finite, x, 0).sum(-1, keepdim=True, dtype=torch.float64),
    )
