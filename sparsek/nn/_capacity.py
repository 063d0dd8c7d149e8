"""Capacity: the most slots that an expert takes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsek._validation import check_positive


@dataclass(frozen=True)
class Capacity:
    r"""Every expert takes at most c slots of one call; further ones are dropped, and their token goes without them.

    $c = \lceil \text{factor} \cdot \tfrac1E \sum_e n_e \rceil$ with the $n_e$ slots that want expert e (padding wants none), or a
    number. Served first are the earlier tokens, and of one token its earlier slots. Within a sequence that is causal.
    With `by_weight` the slots of larger weight are served first, ties in that order: a later token may then push out an
    earlier one, so a **causal model loses its causality**.

    Args:
        factor: Capacity over the mean load, above 0; 1 is just enough for an even load. Give it or `slots`.
        slots: The number itself, at least 1.
        by_weight: Whether larger weights are served first.

    Raises:
        ValueError: If a number is out of range, or both or none of `factor` and `slots` are given.

    Example:
        >>> import torch
        >>> Capacity(factor=1.5).limit(torch.tensor([6, 1, 1]))
        tensor(4)

    References:
        Lepikhin et al., 2021, "GShard", https://arxiv.org/abs/2006.16668
        Riquelme et al., 2021, "Scaling Vision with Sparse Mixture of Experts", https://arxiv.org/abs/2106.05974
    """

    factor: float | None = None
    slots: int | None = None
    by_weight: bool = False

    def __post_init__(self) -> None:
        if (self.factor is None) == (self.slots is None):
            raise ValueError(f"factor or slots must be given, and not both, got {self.factor} and {self.slots}")
        if self.factor is not None:
            check_positive("factor", self.factor)
        elif not isinstance(self.slots, int) or isinstance(self.slots, bool) or self.slots < 1:
            raise ValueError(f"slots must be a whole number >= 1, got {self.slots!r}")

    def limit(self, counts: Tensor) -> Tensor:
        """The most slots of an expert, 0-d int64, from the slots that want each, (experts,); never copied to the host."""
        if self.factor is None:
            return counts.new_tensor(self.slots)
        share = counts.sum().double() * self.factor / len(counts)
        return (share * (1 - 1e-9)).ceil().long()  # 1.1 means 11/10, not the slightly larger number that stores it

    def order(self, slots: Tensor, weights: Tensor) -> Tensor:
        """Slots by expert, and in the order in which they are served."""
        if not self.by_weight:
            return slots.argsort(stable=True)
        served = weights.detach().argsort(descending=True, stable=True)
        return served.index_select(0, slots.index_select(0, served).argsort(stable=True))


def within(order: Tensor, counts: Tensor, limit: Tensor) -> Tensor:
    """Which entries of an order by expert are among the first `limit` of their expert, (N,) bool."""
    first = (counts.cumsum(0) - counts).repeat_interleave(counts, output_size=len(order))
    return torch.arange(len(order), device=order.device) - first < limit
