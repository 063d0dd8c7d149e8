"""Balancers: what keeps the experts of a router equally busy. The state is the router's."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sparsek._validation import check_positive


class Balancer:
    """One layer's balancing rule: a loss on this batch, or a bias for the next ones. By default it does nothing."""

    def losses(self, marginals: Tensor, load: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        """Terms to add to the objective, by name, already multiplied by their coefficients.

        Shape:
            - marginals: (..., experts).
            - load: (experts,).
            - mask: (...), True = a real token.
        """
        return {}

    def update(self, bias: Tensor, load: Tensor) -> Tensor:
        """The selection bias of the next batches from that of the last one and the load that it gave.

        Shape:
            - bias, load, output: (experts,).
        """
        return bias


@dataclass(frozen=True)
class NoBalance(Balancer):
    """No balancing: the router may collapse on few experts."""


@dataclass(frozen=True)
class SwitchLoss(Balancer):
    r"""The auxiliary loss $c\,E \sum_e f_e P_e$ of one layer: $f_e$ the share of slots, $P_e$ the mean share of gate.

    The gradient goes through $P$; $f$ is a count. The sum is 1 when both are even. Marginals are divided by their sum
    per token, so that gates of total 1 and k are treated alike. Padding counts in neither; 0 if no token is real.

    Args:
        coefficient: $c$, at least 0.

    References:
        Fedus, Zoph & Shazeer, 2022, "Switch Transformers", https://arxiv.org/abs/2101.03961
    """

    coefficient: float = 0.01

    def __post_init__(self) -> None:
        if not 0 <= self.coefficient < float("inf"):
            raise ValueError(f"coefficient must be finite and >= 0, got {self.coefficient}")

    def losses(self, marginals: Tensor, load: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        """The term `switch`."""
        shares = marginals / marginals.sum(-1, keepdim=True)
        shares = shares.flatten(0, -2) if mask is None else shares[mask]
        gate = shares.sum(0) / max(len(shares), 1)
        slots = load / load.sum().clamp_min(1)
        return {"switch": self.coefficient * load.numel() * (slots * gate).sum()}


@dataclass(frozen=True)
class DualBias(Balancer):
    r"""A bias per expert, moved against the load of the previous batch: no auxiliary loss, no gradient.

    The bias is the multiplier of "every expert takes its share" in the entropy-regularised assignment of tokens to
    experts, of which sigmoid top-k solves the rows. A step goes $b_e \leftarrow b_e + \eta \log(\bar n / n_e)$, one
    lagged and damped column sweep, with counts smoothed by one slot so that an idle expert is raised by a finite
    amount, then the mean is taken off (a shift of all scores changes no choice). Counts of previous batches alone
    enter, so a causal model stays causal.

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

    def __post_init__(self) -> None:
        check_positive("rate", self.rate)

    def update(self, bias: Tensor, load: Tensor) -> Tensor:
        """One lagged step; a load of zero everywhere changes nothing."""
        load = load.to(bias.dtype) + 1
        step = self.rate * (load.mean() / load).log()
        return (bias + step) - (bias + step).mean()
