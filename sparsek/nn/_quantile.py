"""Quantile balancing: the bias at which each expert would have taken its share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsek._validation import check_positive

from ._balance import Balancer, Routed
from ._bias import centred
from ._routing import rows_of

PER_SIDE = 96
SMALLEST, LARGEST = -4.0, 4.0  # decades


@dataclass(frozen=True)
class QuantileBalance(Balancer):
    r"""Moves each bias by the quantile of its expert's margins at which the expert would have had its share.

    The margin of expert e at token t is how far its score is above what it needs to be among the k chosen (the
    (k+1)-th largest if it is chosen, else the k-th). Moving $b_e$ alone by $-q$ leaves it the tokens with margin above
    q, so q = the $(1 - k/E)$-quantile of its margins gives it its share: the coordinate step of the linear assignment
    problem's dual. All experts step at once, damped by `rate`, then the mean is taken off. The step has the size that
    the scores need, whatever their scale, and is 0 for an expert that has its share.

    Margins are kept as counts in 192 bins, geometric in both directions from 1e-4 to 1e4 in units of the scores and
    interpolated linearly, so that batches and processes add up exactly and bins are finest where balance is close.

    Args:
        rate: Share of the step taken, in (0, 1]. Towards 1 it follows faster, and carries the noise of one step's
            tokens.

    References:
        Bertsekas, 1988, "The Auction Algorithm: A Distributed Relaxation Method for the Assignment Problem",
        https://doi.org/10.1007/BF02186476
    """

    rate: float = 0.5

    moves_bias: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_positive("rate", self.rate)
        if self.rate > 1:
            raise ValueError(f"rate must be at most 1, got {self.rate}")

    def measure(self, routed: Routed) -> Tensor:
        """Counts of margins, (experts, 192): the unchosen from the far side up, then the chosen."""
        rows, k = rows_of(routed.scores), routed.k
        experts = rows.shape[-1]
        best = rows.topk(min(k + 1, experts))
        chosen = torch.zeros_like(rows, dtype=torch.bool).scatter(-1, best.indices[:, :k], True)
        runner_up = best.values[:, k:] if k < experts else -torch.inf
        bar = torch.where(chosen, runner_up, best.values[:, k - 1 : k])
        return margin_counts(rows - bar, chosen, routed.mask)

    def update(self, bias: Tensor, counts: Tensor) -> Tensor:
        """One lagged, damped step of all experts."""
        return centred(bias - self.rate * excess_margin(counts).to(bias.dtype))


def margin_counts(margins: Tensor, chosen: Tensor, mask: Tensor | None) -> Tensor:
    """Counts of the margins (tokens, experts) of real tokens, (experts, 192), on two sides: unchosen and `chosen`."""
    experts = margins.shape[-1]
    size = torch.bucketize(margins.abs(), _edges(margins.device)[1:-1].to(margins.dtype))
    first = 2 * PER_SIDE * torch.arange(experts, device=margins.device)
    place = first + torch.where(chosen, PER_SIDE + size, PER_SIDE - 1 - size)
    kept = torch.ones_like(place) if mask is None else mask.flatten()[:, None].expand_as(place).long()
    counts = place.new_zeros(experts * 2 * PER_SIDE)
    return counts.index_add(0, place.flatten(), kept.flatten()).view(experts, 2 * PER_SIDE)


def excess_margin(counts: Tensor, surplus: Tensor | None = None) -> Tensor:
    """The margin above which each expert has its share of the tokens, (experts,), from counts (experts, 192).

    0 where it has exactly that. `surplus` (experts,): by how much it has more; default: more than the mean.
    """
    counts = counts.double()
    if surplus is None:
        load = counts[:, PER_SIDE:].sum(-1)
        surplus = load - load.mean()
    sides = torch.stack([counts[:, PER_SIDE:], counts[:, :PER_SIDE].flip(-1)])  # chosen, then unchosen, from 0 outwards
    side = torch.where((surplus >= 0)[:, None], sides[0], sides[1])
    return surplus.sign() * _distance(side, surplus.abs())


def _distance(counts: Tensor, target: Tensor) -> Tensor:
    """How far from 0 the first `target` entries of each row of counts reach, linear within a bin."""
    edges = _edges(counts.device)
    total = counts.cumsum(-1)
    bin = torch.searchsorted(total, target[:, None]).clamp_max(PER_SIDE - 1)
    inside = counts.gather(-1, bin)
    part = (target[:, None] - total.gather(-1, bin) + inside) / inside.clamp_min(1)
    return torch.lerp(edges[bin], edges[bin + 1], part.clamp(0, 1)).squeeze(-1)


def _edges(device: torch.device) -> Tensor:
    """Edges of the bins of one side, 0 and then geometric, (97,)."""
    powers = torch.logspace(SMALLEST, LARGEST, PER_SIDE, dtype=torch.float64, device=device)
    return torch.cat([powers.new_zeros(1), powers])
