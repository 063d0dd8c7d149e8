"""Balancers: what keeps the experts of a router equally busy, by losses. The state is the router's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

Average = Callable[[Tensor], Tensor]
"""The mean over the processes of a data-parallel run of a tensor that needs no gradient."""


def alone(value: Tensor) -> Tensor:
    """The mean over processes where there is one."""
    return value


class Balancer:
    """One layer's balancing rule: losses on this batch, or a bias for the next ones. By default it does nothing.

    Attributes:
        moves_bias: Whether :meth:`update` does anything.
    """

    moves_bias: ClassVar[bool] = False

    def losses(
        self, logits: Tensor, marginals: Tensor, load: Tensor, mask: Tensor | None, average: Average = alone
    ) -> dict[str, Tensor]:
        """Terms to add to the objective, by name, already multiplied by their coefficients.

        Their mean over the processes of a data-parallel run is the term of the whole batch.

        Shape:
            - logits, marginals: (..., experts).
            - load: (experts,).
            - mask: (...), True = a real token.
        """
        return {}

    def measure(self, scores: Tensor, load: Tensor, k: int, mask: Tensor | None) -> Tensor:
        """Counts of one batch that :meth:`update` learns from; those of several batches or processes add up.

        Shape:
            - scores: (..., experts), bias included.
            - load: (experts,).
            - mask: (...).
            - output: (experts, ...), int64; by default the load.
        """
        return load

    def update(self, bias: Tensor, counts: Tensor) -> Tensor:
        """The selection bias of the next batches from that of the last ones and the counts that it gave.

        Shape:
            - bias, output: (experts,).
            - counts: as :meth:`measure` gives them.
        """
        return bias


@dataclass(frozen=True)
class NoBalance(Balancer):
    """No balancing: the router may collapse on few experts."""


def _mean(values: Tensor, mask: Tensor | None, average: Average) -> Tensor:
    """The mean over real tokens of values (..., c), where processes share the tokens; 0 if there is none."""
    if mask is None:
        mask = torch.ones_like(values[..., 0], dtype=torch.bool)
    total = values.masked_fill(~mask[..., None], 0).flatten(0, -2).sum(0)
    number = average(mask.sum().to(values.dtype))
    return total / number.masked_fill(number == 0, 1)


def _check_coefficient(coefficient: float) -> None:
    if not 0 <= coefficient < float("inf"):
        raise ValueError(f"coefficient must be finite and >= 0, got {coefficient}")


@dataclass(frozen=True)
class SwitchLoss(Balancer):
    r"""The auxiliary loss $c\,E \sum_e f_e P_e$ of one layer: $f_e$ the share of slots, $P_e$ the mean share of gate.

    The gradient goes through $P$; $f$ is a count. The sum is 1 when both are even. Marginals are divided by their sum
    per token, so that gates of total 1 and k are treated alike. Padding counts in neither; 0 if no token is real.

    Under data parallel $f$ is that of all processes, so the mean over processes is the loss of the whole batch.
    Accumulated batches are different: f is that of each batch, as its product with P cannot be split over them.

    Args:
        coefficient: $c$, at least 0.

    References:
        Fedus, Zoph & Shazeer, 2022, "Switch Transformers", https://arxiv.org/abs/2101.03961
        Qiu et al., 2025, "Demons in the Detail: On Implementing Load Balancing Loss for Training Specialized
        Mixture-of-Expert Models", https://arxiv.org/abs/2501.11873
    """

    coefficient: float = 0.01

    def __post_init__(self) -> None:
        _check_coefficient(self.coefficient)

    def losses(
        self, logits: Tensor, marginals: Tensor, load: Tensor, mask: Tensor | None, average: Average = alone
    ) -> dict[str, Tensor]:
        """The term `switch`."""
        gate = _mean(marginals / marginals.sum(-1, keepdim=True), mask, average)
        slots = average(load.to(gate.dtype))
        slots = slots / slots.sum().masked_fill(slots.sum() == 0, 1)
        return {"switch": self.coefficient * load.numel() * (slots * gate).sum()}


@dataclass(frozen=True)
class ZLoss(Balancer):
    r"""The penalty $c \cdot \operatorname{mean}_t (\log \sum_e \exp \text{logit}_{te})^2$ that keeps logits small.

    It balances nothing; combine it with what does (:class:`Balancers`). The mean is over real tokens; 0 if there is
    none.

    Args:
        coefficient: $c$, at least 0.

    References:
        Zoph et al., 2022, "ST-MoE: Designing Stable and Transferable Sparse Expert Models",
        https://arxiv.org/abs/2202.08906
    """

    coefficient: float = 1e-3

    def __post_init__(self) -> None:
        _check_coefficient(self.coefficient)

    def losses(
        self, logits: Tensor, marginals: Tensor, load: Tensor, mask: Tensor | None, average: Average = alone
    ) -> dict[str, Tensor]:
        """The term `z`."""
        square = logits.logsumexp(-1, keepdim=True).square()
        return {"z": self.coefficient * _mean(square, mask, average).sum()}


@dataclass(frozen=True)
class Balancers(Balancer):
    """Several balancers at once: the losses of all, and the bias of the one that moves it.

    Args:
        parts: At least one; at most one of them moves the bias, and no two give a loss of the same kind.

    Raises:
        ValueError: If two parts move the bias, or two are of one class.

    Example:
        >>> from sparsek.nn import DualBias, Router
        >>> router = Router(4, num_experts=4, k=2, balancer=Balancers([DualBias(), ZLoss(1e-3)]))
        >>> sorted(router(torch.randn(3, 4)).losses)
        ['z']
    """

    parts: Sequence[Balancer]

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(self.parts))
        object.__setattr__(self, "moves_bias", any(part.moves_bias for part in self.parts))
        kinds = [type(part).__name__ for part in self.parts]
        movers = [part for part in self.parts if part.moves_bias]
        if not kinds or len(set(kinds)) < len(kinds) or len(movers) > 1:
            raise ValueError(
                f"parts must be balancers of different classes, of which one at most moves the bias, got {kinds}"
            )

    @property
    def _mover(self) -> Balancer:
        return next((part for part in self.parts if part.moves_bias), self.parts[0])

    def losses(
        self, logits: Tensor, marginals: Tensor, load: Tensor, mask: Tensor | None, average: Average = alone
    ) -> dict[str, Tensor]:
        """The terms of all parts."""
        terms: dict[str, Tensor] = {}
        for part in self.parts:
            terms |= part.losses(logits, marginals, load, mask, average)
        return terms

    def measure(self, scores: Tensor, load: Tensor, k: int, mask: Tensor | None) -> Tensor:
        """What the part that moves the bias measures."""
        return self._mover.measure(scores, load, k, mask)

    def update(self, bias: Tensor, counts: Tensor) -> Tensor:
        """The step of the part that moves the bias."""
        return self._mover.update(bias, counts)
