"""Pareto order sampling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ._design import Design


@dataclass(frozen=True)
class Pareto(Design):
    r"""Pareto order sampling: the k largest of randomly perturbed log-odds; π approximately.

    $$Q_i = \operatorname{logit} π_i - \operatorname{logit} U_i - c_i, \quad U_i ∼ \mathrm{Uniform}(0, 1),$$

    with c = 0, or adjusted $c_i = π_i (1 - π_i)(π_i - \tfrac12) / d^2$, $d = \sum_i π_i (1 - π_i)$ (at least ½ here:
    below, the adjustment would overshoot), which removes the leading term of the error in π. Largest errors in π
    measured over 250 random rows of 3 to 12 units, without and with adjustment: 0.006 and 0.002 where d ≥ 1.5, 0.015
    and 0.007 where d ≥ 1, and up to 0.07 and 0.05 on rows with nearly no choice (d < ½). One `topk` a draw, any n.
    Units with π = 0 are never taken and units with π = 1 always; k = 0 takes none and k = n all.

    Args:
        adjusted: Whether to adjust.

    Example:
        >>> import torch
        >>> from sparsek.sampling import Pareto
        >>> probs = torch.tensor([0.5, 0.25, 0.75, 0.5])
        >>> Pareto().sample(probs, (3,), generator=torch.Generator().manual_seed(0)).sum(-1)
        tensor([2., 2., 2.])

    References:
        Rosén (1997). On sampling with probability proportional to size. https://doi.org/10.1016/S0378-3758(96)00186-3

        Bondesson, Traat and Lundqvist (2006). Pareto sampling versus Sampford and conditional Poisson sampling.
        https://doi.org/10.1111/j.1467-9469.2006.00497.x
    """

    adjusted: bool = True
    exact: ClassVar[bool] = False
    smooth: ClassVar[bool] = True

    def _sample(self, probs: Tensor, size: Tensor, draws: int, generator: torch.Generator | None) -> Tensor:
        shape = (draws, *probs.shape)
        uniform = torch.rand(shape, dtype=probs.dtype, device=probs.device, generator=generator)
        uniform = uniform.clamp(min=torch.finfo(probs.dtype).tiny)
        score = ranking_offset(probs, self.adjusted) - uniform.logit()
        most = int(size.nan_to_num(0).clamp(0, probs.shape[-1]).max()) if size.numel() else 0
        unit = score.topk(most, dim=-1).indices
        taken = torch.arange(most, device=probs.device) < size.unsqueeze(-1)
        return torch.zeros(shape, dtype=torch.bool, device=probs.device).scatter(-1, unit, taken.expand(unit.shape))


def ranking_offset(probs: Tensor, adjusted: bool) -> Tensor:
    """The fixed part of the ranking variables."""
    offset = probs.logit()
    if not adjusted:
        return offset
    spread = probs * (1 - probs)
    total = spread.sum(-1, keepdim=True).clamp(min=0.5)
    return offset - spread * (probs - 0.5) / total.square()
