r"""Inclusion probabilities of the exponential race (Gumbel top-k), by quadrature over the arrival time of the unit."""

from __future__ import annotations

import math

import torch
from torch import Tensor

MAX_TERMS = 2**26
"""Largest number of terms (nodes × rows × n × k) held at once."""


def inclusion(logits: Tensor, k: Tensor) -> Tensor:
    r"""Return $π_i = P(\text{fewer than k others arrive before unit i})$, differentiable in `logits`.

    $$π_i = \int_0^∞ w_i e^{-w_i t} \, P\Big(\sum_{j ≠ i} B_j(t) < k\Big) \, dt,
    \quad B_j(t) ∼ \mathrm{Bernoulli}(1 - e^{-w_j t}).$$

    The trapezoidal rule in log t, on a Poisson-binomial recursion from the left and one from the right of i: positive
    terms only, O(J n k) for J nodes.

    Args:
        logits: (rows, n), finite or −inf, float64.
        k: (rows,) whole numbers, at most the number of finite logits.

    Raises:
        NotImplementedError: If there are more than 2^26 terms.
    """
    rows, n = logits.shape
    most = int(k.max()) if rows else 0
    if logits.numel() == 0:
        return logits
    with torch.no_grad():
        low, high, count = _interval(logits, k, most)
        terms = rows * count * n * max(most, 1)
        if terms > MAX_TERMS:
            raise NotImplementedError(
                f"the mean of Gumbel top-k costs {terms:.3g} terms here, more than {MAX_TERMS}: estimate it "
                "from samples, or use ConditionalPoisson(k, logits), whose mean is O(n)"
            )
        step = (high - low) / max(count - 1, 1)
        y = low.unsqueeze(-1) + step.unsqueeze(-1) * torch.arange(count, dtype=step.dtype, device=step.device)
    hazard = (y.unsqueeze(-1) + logits.unsqueeze(-2)).clamp(max=7.0).exp()  # w t, (rows, J, n)
    arrived, waiting = -torch.expm1(-hazard), torch.exp(-hazard)
    early = _fewer_than_k(arrived, waiting, k, most)
    picked = (hazard * waiting * early).sum(-2) * step.unsqueeze(-1)
    candidates = logits > -torch.inf
    return torch.where((k >= candidates.sum(-1)).unsqueeze(-1), candidates.to(picked.dtype), picked)


def _interval(logits: Tensor, k: Tensor, most: int) -> tuple[Tensor, Tensor, int]:
    """Return the ends (rows,) in log t, from before the first arrivals to after the (k + 1)-th, and the number of nodes between."""
    ranked = logits.sort(dim=-1, descending=True).values
    finite = ranked.masked_fill(ranked == -torch.inf, torch.inf).amin(-1, keepdim=True)
    last = ranked.gather(-1, k.long().clamp(max=ranked.shape[-1] - 1).unsqueeze(-1)).maximum(finite).squeeze(-1)
    idle = ranked[..., 0] == -torch.inf  # nobody can arrive: any interval will do
    low = (-ranked[..., 0] - 38.0).masked_fill(idle, -38.0)
    high = (math.log(38.0 + math.log1p(most)) - last).masked_fill(idle, 0.0)
    length = float((high - low).max()) * _nodes_per_unit(most)
    return low, high, math.ceil(min(length, MAX_TERMS)) + 1


def _nodes_per_unit(k: int) -> float:
    """Enough for 1e-14: the k-th arrival settles within a width of about 1/sqrt(k) in log t."""
    return 3.0 * math.sqrt(1.0 + k)


def _fewer_than_k(arrived: Tensor, waiting: Tensor, k: Tensor, most: int) -> Tensor:
    """Return P(fewer than k of the units other than i have arrived), (rows, J, n)."""
    n = arrived.shape[-1]
    before = [torch.nn.functional.pad(torch.ones_like(arrived[..., :1]), (0, max(most - 1, 0)))]
    after = [torch.ones_like(before[0])]  # P(at most m among none) = 1
    for i in range(n - 1):
        before.append(_shifted(before[-1], arrived[..., i], waiting[..., i]))
        after.append(_shifted(after[-1], arrived[..., n - 1 - i], waiting[..., n - 1 - i]))
    index = k.long().unsqueeze(-1) - 1 - torch.arange(before[0].shape[-1], device=k.device)
    left, right = torch.stack(before, -2), torch.stack(after[::-1], -2)
    matched = right.gather(-1, index.clamp(min=0)[:, None, None].expand_as(right))
    return (left * matched * (index >= 0)[:, None, None]).sum(-1)


def _shifted(law: Tensor, arrived: Tensor, waiting: Tensor) -> Tensor:
    """Add one unit to a law on counts 0 … k − 1, or to its cumulative law."""
    one_more = torch.nn.functional.pad(law[..., :-1], (1, 0))
    return law * waiting.unsqueeze(-1) + one_more * arrived.unsqueeze(-1)
