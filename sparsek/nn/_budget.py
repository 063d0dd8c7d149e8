"""The balancer of adaptive k: thresholds at which a batch would have had its budget of slots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsek._validation import check_positive

from ._adaptive import threshold
from ._balance import Balancer, Routed
from ._quantile import excess_margin, margin_counts
from ._routing import rows_of


@dataclass(frozen=True)
class BudgetBalance(Balancer):
    r"""Moves the threshold of :class:`AdaptiveTopK` and :class:`BudgetTopK` to where batches have k slots per token.

    The margin of a (token, expert) is how far its score is above the threshold. If more than the budget were taken, the
    bias falls by the margin that as many as are too many stay below, and it rises if they were too few: one quantile step of
    :class:`QuantileBalance`, on its bins. With `even` every expert has its own threshold and its share $k T / E$ as budget,
    so loads are even as well; otherwise all experts move together, and take what their scores give them.

    The bias holds the threshold, so its mean is not zero. The counts are of all processes and of the batches since the last
    step, and a batch is selected by what earlier ones gave.

    Args:
        rate: Share of the step taken, in (0, 1]. Towards 1 it follows faster, and carries the noise of one step's tokens.
        even: Whether each expert has a budget of its own.

    Example:
        >>> from sparsek.nn import AdaptiveTopK, BudgetGate, Router
        >>> router = Router(4, 4, k=2, gate=BudgetGate(), selection=AdaptiveTopK(3), balancer=BudgetBalance())
        >>> router(torch.randn(5, 4)).indices.shape
        torch.Size([5, 3])
    """

    rate: float = 0.5
    even: bool = True

    moves_bias: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_positive("rate", self.rate)
        if self.rate > 1:
            raise ValueError(f"rate must be at most 1, got {self.rate}")

    def measure(self, routed: Routed) -> Tensor:
        """Counts of margins, then the slots taken and, the same for all experts, those of the budget: (experts, 194)."""
        scores = rows_of(routed.scores)
        margins = scores - threshold(scores, routed.k)
        counts = margin_counts(margins, margins > 0, routed.mask)
        budget = (routed.k * routed.tokens).expand_as(routed.load)
        return torch.cat((counts, routed.load.unsqueeze(-1), budget.unsqueeze(-1)), -1)

    def update(self, bias: Tensor, counts: Tensor) -> Tensor:
        """One lagged, damped step of all thresholds."""
        margins, load, budget = counts[:, :-2], counts[:, -2].double(), counts[:, -1].double() / len(counts)
        if not self.even:
            margins, load, budget = (x.sum(0, keepdim=True) for x in (margins, load, budget))
        return bias - self.rate * excess_margin(margins, load - budget).to(bias.dtype)
