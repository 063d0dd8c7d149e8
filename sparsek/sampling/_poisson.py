"""Poisson sampling: every unit on its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ._design import Design


@dataclass(frozen=True)
class Poisson(Design):
    r"""Poisson sampling: unit i is in with probability $π_i$, independently. The size is random.

    $\log P(s) = Σ_i s_i \log π_i + (1 - s_i) \log(1 - π_i)$, of mean size $Σ π_i$ and variance $Σ π_i (1 - π_i)$, and
    $π_{ij} = π_i π_j$. It is the design of largest entropy when the size is free. Any sum is legal; a given `k` is the
    expected size, which the sum must agree with.

    Example:
        >>> import torch
        >>> from sparsek.sampling import Poisson
        >>> probs = torch.tensor([0.5, 0.25, 1.0])
        >>> Poisson().log_prob(probs, torch.tensor([1, 0, 1])).exp()
        tensor(0.3750)

    References:
        Hájek (1964). Asymptotic theory of rejective sampling with varying probabilities from a finite population.
        https://doi.org/10.1214/aoms/1177700375
    """

    fixed_size: ClassVar[bool] = False
    smooth: ClassVar[bool] = True

    def _sample(self, probs: Tensor, size: Tensor, draws: int, generator: torch.Generator | None) -> Tensor:
        uniform = torch.rand((draws, *probs.shape), dtype=probs.dtype, device=probs.device, generator=generator)
        return uniform < probs

    def _log_prob(self, probs: Tensor, sample: Tensor, size: Tensor) -> Tensor:
        chance = torch.where(sample > 0, probs, 1 - probs)
        impossible = (chance <= 0).any(-1)
        return chance.clamp(min=torch.finfo(chance.dtype).tiny).log().sum(-1).masked_fill(impossible, -torch.inf)

    def _joint(self, probs: Tensor, size: Tensor) -> Tensor:
        return probs.unsqueeze(-1) * probs.unsqueeze(-2)
