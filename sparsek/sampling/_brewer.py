"""Brewer's method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsek.functional._calibration import free_units

from ._design import Design

_MOST_UNITS = 12  # for enumeration
_CHUNK = 1 << 22  # draws × units held at once


@dataclass(frozen=True)
class Brewer(Design):
    r"""Brewer's method: k sequential draws whose probabilities are such that the inclusion probabilities are π exactly.

    With r picks to go and A the picks so far, unit i outside A is drawn with probability in proportion to

    $$π_i \, \frac{a - π_i}{a - r π_i}, \quad a = k - \sum_{l ∈ A} π_l.$$

    O(k n) per draw, for n up to about a thousand. The probability of a sample is a sum over the k! orders in which it
    may come, so there is no `log_prob`; `joint` enumerates all subsets, for n ≤ 12, and is differentiable. Units with
    π = 0 are never taken and units with π = 1 always; k = 0 takes none and k = n all.

    Example:
        >>> import torch
        >>> from sparsek.sampling import Brewer
        >>> probs = torch.tensor([0.5, 0.25, 0.75, 0.5])
        >>> Brewer().sample(probs, (3,), generator=torch.Generator().manual_seed(0)).sum(-1)
        tensor([2., 2., 2.])
        >>> Brewer().joint(probs)[0]
        tensor([0.5000, 0.0568, 0.3068, 0.1364])

    References:
        Brewer (1975). A simple procedure for sampling πpswor. https://doi.org/10.1111/j.1467-842X.1975.tb00954.x

        Tillé (2006). Sampling Algorithms, section 6.6. https://doi.org/10.1007/0-387-34240-0
    """

    smooth: ClassVar[bool] = True

    def _sample(self, probs: Tensor, size: Tensor, draws: int, generator: torch.Generator | None) -> Tensor:
        step = max(1, _CHUNK // max(1, probs.numel()))
        parts = [self._chunk(probs, size, min(step, draws - i), generator) for i in range(0, draws, step)]
        return torch.cat(parts) if parts else probs.new_zeros((0, *probs.shape))

    def _chunk(self, probs: Tensor, size: Tensor, draws: int, generator: torch.Generator | None) -> Tensor:
        taken = (probs >= 1).to(probs.dtype).expand(draws, *probs.shape).clone()
        for _ in range(_most_picks(probs, size)):
            weight = _weights(probs, taken, size)
            cumulated = weight.cumsum(-1)
            total = cumulated[..., -1]
            uniform = torch.rand(total.shape, dtype=probs.dtype, device=probs.device, generator=generator)
            threshold = torch.minimum(uniform * total, torch.nextafter(total, torch.zeros_like(total)))
            unit = torch.searchsorted(cumulated, threshold.unsqueeze(-1), right=True).clamp(max=probs.shape[-1] - 1)
            taken.scatter_add_(-1, unit, (total > 0).to(probs.dtype).unsqueeze(-1))
        return taken

    def _joint(self, probs: Tensor, size: Tensor) -> Tensor:
        m = probs.shape[-1]
        if m > _MOST_UNITS + 1:  # one more for the phantom unit
            raise NotImplementedError(
                f"Brewer has joint inclusion probabilities by enumeration for n <= {_MOST_UNITS} only, got n = {m}; "
                "use ConditionalPoisson() or Sampford(), whose joint is exact at any n"
            )
        subsets = _subsets(m, probs)
        law = _enumerate(probs, size, subsets)
        return torch.einsum("rs,si,sj->rij", law, subsets, subsets)


def _most_picks(probs: Tensor, size: Tensor) -> int:
    """Number of draws that the row with most units still to take needs."""
    left = (size - (probs >= 1).sum(-1)).nan_to_num(0).clamp(0, probs.shape[-1])
    return int(left.max()) if left.numel() else 0


def _weights(probs: Tensor, taken: Tensor, size: Tensor) -> Tensor:
    """Weights of the next draw, (..., rows, m); all 0 where a row is complete.

    The two differences are sums of what is left and of what the picks left, so that nothing cancels near π = 1.
    """
    free = free_units(probs) & (taken == 0)
    to_go = (size - taken.sum(-1)).unsqueeze(-1)
    slack = (taken * (1 - probs)).sum(-1, keepdim=True)
    rest = (to_go - probs + slack).clamp(min=0)
    spread = to_go * (1 - probs) + slack
    ratio = torch.where(to_go > 1, rest / torch.where(spread > 0, spread, 1.0), 1.0)
    return torch.where(free & (to_go > 0), probs * ratio, 0.0)


def _subsets(m: int, like: Tensor) -> Tensor:
    """All subsets of m units, (2^m, m) of 0 and 1; the row number is the subset in binary."""
    codes = torch.arange(1 << m, device=like.device)
    return ((codes.unsqueeze(-1) >> torch.arange(m, device=like.device)) & 1).to(like.dtype)


def _enumerate(probs: Tensor, size: Tensor, subsets: Tensor) -> Tensor:
    """Probability that the draws end with each subset: (rows, m), (rows,) and (2^m, m) to (rows, 2^m)."""
    rows, m = probs.shape
    powers = 1 << torch.arange(m, device=probs.device)
    start = ((probs >= 1) * powers).sum(-1, keepdim=True)
    law = torch.zeros((rows, 1 << m), dtype=probs.dtype, device=probs.device).scatter(-1, start, 1.0)
    codes = torch.arange(1 << m, device=probs.device).unsqueeze(-1)
    weight = _weights(probs, subsets.unsqueeze(1).expand(-1, rows, -1), size)
    total = weight.sum(-1, keepdim=True)
    step = (weight / torch.where(total > 0, total, 1.0)).transpose(0, 1)
    after = (codes | powers).expand_as(step).reshape(rows, -1)
    done = law * (total.squeeze(-1).T == 0)
    for _ in range(_most_picks(probs, size)):
        law = torch.zeros_like(law).scatter_add(-1, after, (law.unsqueeze(-1) * step).reshape(rows, -1))
        done = done + law * (total.squeeze(-1).T == 0)
    return done
