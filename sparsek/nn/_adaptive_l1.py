"""The balancer of ReMoE: an L1 penalty that finds its own coefficient."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsek._validation import check_positive

from ._balance import Average, Balancer, Routed, alone, mean_of_tokens

SMALLEST, LARGEST = 1e-20, 1e20  # so that it can come back in finite time


@dataclass(frozen=True)
class AdaptiveL1(Balancer):
    r"""The loss $\lambda \operatorname{mean}_t \sum_e f_e\, p_{te}$ with a $\lambda$ that makes tokens run k experts on average.

    After every optimizer step $\lambda$ is multiplied by `factor` if more than k slots per token were taken, divided by
    it if fewer, and stays if k exactly. $f_e = \tfrac{E}{kT} n_e$ presses on busy experts more, a count without
    gradient; 1 throughout if not `balance`. p are the marginals, with any gate; made for :class:`ReLUGate`, whose
    number of experts per token is free. It works by the mean of the tokens: on tokens that are symmetric about 0, half of
    the scores are positive whatever the size of the router's weight.

    $\lambda$ is of one layer (of all layers together in the paper), saved with the router, and kept in [1e-20, 1e20].
    Counts of previous batches move it, those of all processes and of all accumulated batches. f under data parallel is
    that of all processes; of accumulated batches each has its own. Padding counts nowhere; 0 if no token is real.

    Args:
        initial: $\lambda$ before the first step, in [1e-20, 1e20].
        factor: By which it moves, above 1.
        balance: Whether busy experts are pressed more.

    References:
        Wang, Chen & Zhu, 2024, "ReMoE: Fully Differentiable Mixture-of-Experts with ReLU Routing",
        https://arxiv.org/abs/2412.14711
    """

    initial: float = 1e-8
    factor: float = 1.2
    balance: bool = True

    def __post_init__(self) -> None:
        check_positive("factor", self.factor)
        if not self.factor > 1:
            raise ValueError(f"factor must be above 1, got {self.factor}")
        if not SMALLEST <= self.initial <= LARGEST:
            raise ValueError(f"initial must lie in [{SMALLEST}, {LARGEST}], got {self.initial}")

    def losses(self, routed: Routed, average: Average = alone, coefficient: Tensor | None = None) -> dict[str, Tensor]:
        """The term `l1`."""
        pressed = routed.marginals * self._pressure(routed, average) if self.balance else routed.marginals
        mean = mean_of_tokens(pressed.sum(-1, keepdim=True), routed, average).sum()
        return {"l1": mean * (self.initial if coefficient is None else coefficient.detach().to(mean.dtype, copy=True))}

    def _pressure(self, routed: Routed, average: Average) -> Tensor:
        """Each expert's load over its share."""
        load = average(routed.load.to(routed.marginals.dtype))
        share = average(routed.tokens.to(load.dtype)) * routed.k / len(load)
        return load / share.masked_fill(share == 0, 1)

    def measure(self, routed: Routed) -> Tensor:
        """Columns that add up to E times the slots taken, and to E times those wanted."""
        experts = len(routed.load)
        return torch.stack([routed.load * experts, (routed.tokens * routed.k).expand(experts)], -1)

    def start(self) -> float:
        """`initial`."""
        return self.initial

    def adapt(self, coefficient: Tensor, counts: Tensor) -> Tensor:
        """One lagged step; a load of zero tokens changes nothing."""
        load, share = counts.sum(0)
        excess = torch.sign(load - share).to(coefficient.dtype)
        return (coefficient * self.factor**excess).clamp(SMALLEST, LARGEST)
