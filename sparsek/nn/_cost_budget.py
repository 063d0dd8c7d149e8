"""A budget on costs in place of a number of units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsek._validation import check_positive
from sparsek.relaxations import Relaxation

_STEPS = 60


@dataclass(frozen=True)
class CostBudget:
    r"""Choose as many units as a budget pays for: the k at which $\sum_i c_i \pi_i = B$.

    $\pi$ rises with k at every unit, so the expected cost does, and one real k per row meets the budget (k = n where
    everything is affordable). It is found by bisection; its gradient to the scores (and through a relaxation with a
    tensor temperature) is the implicit one, $-\sum_i c_i\,d\pi_i|_k \,/\, \sum_i c_i\,\partial\pi_i/\partial k$: a dear
    unit that rises makes k fall, so scores weigh use against cost. Second derivatives do not go through k.

    Samples cost B on average. :meth:`affordable` is what evaluation keeps: the longest prefix of the units, by score,
    whose cost is at most B, so never more than the budget.

    Args:
        costs: Cost of each unit (of each feature, where a gate has groups), finite and above 0.
        limit: B, finite and above 0.

    Raises:
        ValueError: If a cost or the limit is out of range.

    Example:
        >>> import torch
        >>> from sparsek.relaxations import SigmoidTopK
        >>> budget = CostBudget(costs=(1.0, 1.0, 5.0, 1.0), limit=3.0)
        >>> scores = torch.tensor([2.0, 1.0, 0.0, -1.0])
        >>> k = budget.k(scores, SigmoidTopK(), torch.tensor(budget.costs))
        >>> round(float((SigmoidTopK()(scores, k) * torch.tensor(budget.costs)).sum()), 3)
        3.0
        >>> budget.affordable(scores, torch.tensor(budget.costs))
        tensor([1., 1., 0., 0.])
    """

    costs: Sequence[float]
    limit: float

    def __post_init__(self) -> None:
        check_positive("limit", self.limit)
        object.__setattr__(self, "costs", tuple(float(cost) for cost in self.costs))
        if not self.costs:
            raise ValueError("costs must hold a number for each unit, got none")
        for cost in self.costs:
            check_positive("costs", cost)

    def k(self, input: Tensor, relaxation: Relaxation, costs: Tensor) -> Tensor:
        """Return the number of units per row that the budget pays for.

        Shape:
            - input: (..., n).
            - costs: (n,).
            - output: (...).
        """
        k = self._solve(input.detach(), relaxation, costs)
        if not (torch.is_grad_enabled() and input.requires_grad):
            return k
        slope = _slope(input.detach(), k, relaxation, costs)
        missing = self.limit - (relaxation(input, k) * costs).sum(-1)
        short = (k < input.shape[-1]).to(k.dtype)
        return k + short * (missing - missing.detach()) / slope

    @torch.no_grad()
    def _solve(self, input: Tensor, relaxation: Relaxation, costs: Tensor) -> Tensor:
        low = input.new_zeros(input.shape[:-1])
        high = torch.full_like(low, input.shape[-1])
        if float(costs.sum()) <= self.limit:
            return high
        for _ in range(_STEPS):
            middle = (low + high) / 2
            over = (relaxation(input, middle) * costs).sum(-1) > self.limit
            low, high = torch.where(over, low, middle), torch.where(over, middle, high)
        return low

    def affordable(self, input: Tensor, costs: Tensor) -> Tensor:
        """Return 1 for the best units of each row that the budget pays for, and 0 for the others.

        Shape:
            - input: (..., n); ties go to the lowest index.
            - costs: (n,).
            - output: (..., n).
        """
        order = input.sort(dim=-1, descending=True, stable=True).indices
        paid = costs[order].cumsum(-1) <= self.limit
        return torch.zeros_like(input).scatter(-1, order, paid.to(input.dtype))


@torch.enable_grad()
def _slope(input: Tensor, k: Tensor, relaxation: Relaxation, costs: Tensor) -> Tensor:
    """Return the cost of a little more k, of each row."""
    k = k.detach().requires_grad_()
    cost = (relaxation(input, k) * costs).sum()
    return torch.autograd.grad(cost, k)[0]
