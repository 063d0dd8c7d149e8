"""Balancers that move a bias against the load of the previous batches: no auxiliary loss, no gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsek._validation import check_positive

from ._balance import Balancer


def centred(bias: Tensor) -> Tensor:
    """Take the mean off: a shift of all scores changes no choice."""
    return bias - bias.mean()


@dataclass(frozen=True)
class DualBias(Balancer):
    r"""A bias per expert, the entropic dual variable of "every expert takes its share".

    The bias is the multiplier of that constraint in the entropy-regularised assignment of tokens to experts, of which
    sigmoid top-k solves the rows. A step goes $b_e \leftarrow b_e + \eta \log(\bar n / n_e)$, one lagged and damped
    column sweep, with counts smoothed by one slot so that an idle expert is raised by a finite amount, then the mean is
    taken off. Counts of previous batches alone enter, so a causal model stays causal.

    Args:
        rate: $\eta$, above 0. Of the order of the spread of the logits for a full correction in one step; small
            values follow slowly.

    Example:
        >>> import torch
        >>> bias = DualBias(rate=0.1).update(torch.zeros(2), torch.tensor([300, 100]))
        >>> bias
        tensor([-0.0546,  0.0546])

    References:
        Wang et al., 2024, "Auxiliary-Loss-Free Load Balancing Strategy for Mixture-of-Experts",
        https://arxiv.org/abs/2408.15664
        Cuturi, 2013, "Sinkhorn Distances", https://arxiv.org/abs/1306.0895
    """

    rate: float = 0.05

    moves_bias: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_positive("rate", self.rate)

    def update(self, bias: Tensor, counts: Tensor) -> Tensor:
        """One lagged step; a load of zero everywhere changes nothing."""
        load = counts.to(bias.dtype) + 1
        return centred(bias + self.rate * (load.mean() / load).log())


@dataclass(frozen=True)
class SignBias(Balancer):
    r"""A bias per expert with steps of fixed size, $b_e \leftarrow b_e + u \operatorname{sign}(\bar n - n_e)$, then centred.

    The balancing of DeepSeek-V3, with the mean taken off. An expert at its share stays. It follows a change of load no
    faster than u per step and goes on moving by u at the optimum.

    Args:
        rate: $u$, above 0, in units of the scores: 0.001 is for affinities in [0, 1] (:class:`SigmoidGate`).

    Example:
        >>> import torch
        >>> SignBias(rate=0.1).update(torch.zeros(2), torch.tensor([300, 100]))
        tensor([-0.1000,  0.1000])

    References:
        Wang et al., 2024, "Auxiliary-Loss-Free Load Balancing Strategy for Mixture-of-Experts",
        https://arxiv.org/abs/2408.15664
        DeepSeek-AI, 2024, "DeepSeek-V3 Technical Report", https://arxiv.org/abs/2412.19437
    """

    rate: float = 0.001

    moves_bias: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_positive("rate", self.rate)

    def update(self, bias: Tensor, counts: Tensor) -> Tensor:
        """One lagged step; a load that is even changes nothing."""
        excess = counts * len(counts) - counts.sum()  # whole numbers: an expert at its share has exactly 0
        return centred(bias - self.rate * torch.sign(excess).to(bias.dtype))
