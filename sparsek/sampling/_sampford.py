"""Sampford sampling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsek.functional._calibration import free_units
from sparsek.functional._conditional_poisson import log_normaliser, marginals, mean_picks
from sparsek.functional._conditional_poisson_sample import count_levels
from sparsek.functional._marked_sample import draw_marked, mark_levels
from sparsek.functional._poisson_binomial import frequencies, tilt, tilted_picks

from ._design import Design


@dataclass(frozen=True)
class Sampford(Design):
    r"""Sampford sampling: conditional Poisson with the odds of π, weighted so that π comes out exactly.

    $$P(s) ∝ \sum_{l ∈ s} (1 - π_l) \prod_{i ∈ s} \frac{π_i}{1 - π_i}, \quad |s| = k.$$

    Sampford draws one unit with probability π/k and k − 1 with replacement with probability in proportion to π/(1 −
    π), and starts again unless all are distinct: at equal probabilities one try in about $e^{k^2/2n}$. Here the same
    law is drawn without rejection, so no k is impractical: the sum in P(s) says that one unit l of the sample is
    marked, and the mark is followed down the binary tree that splits k in conditional Poisson sampling. O(n log n) a
    draw.

    With m the marginals of conditional Poisson with odds π/(1 − π), the normaliser is $e_k \sum_i m_i (1 - π_i)$, so
    `log_prob` is exact, O(n), smooth and twice differentiable. `joint` is a mean over the same at most 28
    frequencies. Units with π = 0 are never taken and units with π = 1 always; k = 0 takes none and k = n all.

    Example:
        >>> import torch
        >>> from sparsek.sampling import Sampford
        >>> probs = torch.tensor([0.5, 0.25, 0.75, 0.5])
        >>> Sampford().sample(probs, (3,), generator=torch.Generator().manual_seed(0)).sum(-1)
        tensor([2., 2., 2.])
        >>> Sampford().log_prob(probs, torch.tensor([1, 0, 1, 0])).exp()
        tensor(0.3068)

    References:
        Sampford (1967). On sampling without replacement with unequal probabilities of selection.
        https://doi.org/10.1093/biomet/54.3-4.499

        Bondesson, Traat and Lundqvist (2006). Pareto sampling versus Sampford and conditional Poisson sampling.
        https://doi.org/10.1111/j.1467-9469.2006.00497.x
    """

    smooth: ClassVar[bool] = True

    def _sample(self, probs: Tensor, size: Tensor, draws: int, generator: torch.Generator | None) -> Tensor:
        levels = count_levels(probs, 1 - probs)
        marked = mark_levels(levels, probs * (1 - probs))
        return draw_marked(levels, marked, size, draws, probs.shape[-1], generator)

    def _log_prob(self, probs: Tensor, sample: Tensor, size: Tensor) -> Tensor:
        free = free_units(probs)
        odds, left = _odds(probs, size)
        rest = torch.where(free, 1 - probs, 0.0)
        product = (torch.where(free, odds, 0.0) * sample).sum(-1) - log_normaliser(odds, left)
        weight = _log((rest * sample).sum(-1)) - _log((rest * marginals(odds, left)).sum(-1))
        impossible = (~free & (sample != probs)).any(-1)
        return (product + torch.where(left.squeeze(-1) > 0, weight, 0.0)).masked_fill(impossible, -torch.inf)

    def _joint(self, probs: Tensor, size: Tensor) -> Tensor:
        rows = tilt(*_odds(probs, size))
        rule = frequencies(rows)
        rest = torch.where(free_units(probs), 1 - probs, 0.0)
        picks = torch.complex(*tilted_picks(rows, rule.t)[:2])
        spare = rest.unsqueeze(-2) * picks
        weight = torch.complex(rule.real, rule.imag)
        both = picks.mT @ (weight * spare.sum(-1, keepdim=True) * picks)
        one = picks.mT @ (weight * spare * (1 - picks))
        total = (rest * mean_picks(rows, rule)[0]).sum(-1)
        pairs = (both + one + one.mT).real / torch.where(total > 0, total, 1.0)[..., None, None]
        certain = (probs >= 1).to(probs.dtype)
        return (
            pairs
            + certain.unsqueeze(-1) * probs.unsqueeze(-2)
            + (probs - certain).unsqueeze(-1) * certain.unsqueeze(-2)
        )


def _odds(probs: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """Log-odds of the units strictly inside (0, 1), −inf at the others, and how many of the former are taken."""
    free = free_units(probs)
    left = size.unsqueeze(-1) - (probs >= 1).sum(-1, keepdim=True)
    return torch.where(free, torch.where(free, probs, 0.5).logit(), -torch.inf), left


def _log(value: Tensor) -> Tensor:
    return value.clamp(min=torch.finfo(value.dtype).tiny).log()
