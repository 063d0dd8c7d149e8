"""Balancers: what keeps the experts of a router equally busy, by losses. The state is the router's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ._routing import rows_of

Average = Callable[[Tensor], Tensor]
"""The mean over the processes of a data-parallel run of a tensor that needs no gradient."""


def alone(value: Tensor) -> Tensor:
    """The mean over processes where there is one."""
    return value


class Routed(NamedTuple):
    """What a balancer sees of one batch."""

    logits: Tensor
    """(..., experts): the router's scores before any bias."""
    marginals: Tensor
    """(..., experts): the gate's number for every expert."""
    scores: Tensor
    """(..., experts), detached: what the experts were chosen by, bias included."""
    load: Tensor
    """(experts,) int64: slots per expert, padding excluded."""
    k: int
    """Experts per token that the router was made for."""
    mask: Tensor | None = None
    """(...): True = a real token; None: all are."""

    @property
    def tokens(self) -> Tensor:
        """The number of real tokens, 0-d int64."""
        return (torch.ones_like(self.scores[..., 0], dtype=torch.bool) if self.mask is None else self.mask).sum()


class Balancer:
    """One layer's balancing rule: losses on this batch, or a state for the next ones. By default it does nothing.

    The state is kept by the router: a bias per expert, and one coefficient for balancers that :meth:`start` one.

    Attributes:
        moves_bias: Whether :meth:`update` does anything.
    """

    moves_bias: ClassVar[bool] = False

    def losses(self, routed: Routed, average: Average = alone, coefficient: Tensor | None = None) -> dict[str, Tensor]:
        """Terms to add to the objective, by name, already multiplied by their coefficients.

        Their mean over the processes of a data-parallel run is the term of the whole batch.

        Args:
            routed: One batch.
            average: The mean over processes.
            coefficient: 0-d, what :meth:`start` and :meth:`adapt` have made of it; None if there is none.
        """
        return {}

    def measure(self, routed: Routed) -> Tensor:
        """Counts of one batch, (experts, ...) int64, that :meth:`update` and :meth:`adapt` learn from; by default the load.

        Those of several batches or processes add up.
        """
        return routed.load

    def start(self) -> float | None:
        """The first value of a coefficient that moves with the counts, or None."""
        return None

    def adapt(self, coefficient: Tensor, counts: Tensor) -> Tensor:
        """The coefficient (0-d) of the next batches from that of the last ones and their counts."""
        return coefficient

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


def mean_of_tokens(values: Tensor, routed: Routed, average: Average) -> Tensor:
    """The mean over real tokens of values (..., c), where processes share the tokens; 0 if there is none."""
    kept = values if routed.mask is None else values.masked_fill(~routed.mask[..., None], 0)
    number = average(routed.tokens.to(values.dtype))
    return rows_of(kept).sum(0) / number.masked_fill(number == 0, 1)


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

    def losses(self, routed: Routed, average: Average = alone, coefficient: Tensor | None = None) -> dict[str, Tensor]:
        """The term `switch`."""
        total = routed.marginals.sum(-1, keepdim=True)
        gate = mean_of_tokens(routed.marginals / total.masked_fill(total == 0, 1), routed, average)
        slots = average(routed.load.to(gate.dtype))
        slots = slots / slots.sum().masked_fill(slots.sum() == 0, 1)
        return {"switch": self.coefficient * len(slots) * (slots * gate).sum()}


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

    def losses(self, routed: Routed, average: Average = alone, coefficient: Tensor | None = None) -> dict[str, Tensor]:
        """The term `z`."""
        square = routed.logits.logsumexp(-1, keepdim=True).square()
        return {"z": self.coefficient * mean_of_tokens(square, routed, average).sum()}


@dataclass(frozen=True)
class Balancers(Balancer):
    """Several balancers at once: the losses of all, and the state of the one that learns from the load.

    Args:
        parts: At least one; at most one of them moves a bias or a coefficient, and no two give a loss of the same kind.

    Raises:
        ValueError: If two parts move a bias or a coefficient, or two are of one class.

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
        if not kinds or len(set(kinds)) < len(kinds) or len(self._learners) > 1:
            raise ValueError(
                "parts must be balancers of different classes, of which one at most moves a bias or a coefficient, "
                f"got {kinds}"
            )

    @property
    def _learners(self) -> list[Balancer]:
        return [part for part in self.parts if part.moves_bias or part.start() is not None]

    @property
    def _learner(self) -> Balancer:
        return next(iter(self._learners), NoBalance())

    def losses(self, routed: Routed, average: Average = alone, coefficient: Tensor | None = None) -> dict[str, Tensor]:
        """The terms of all parts."""
        terms: dict[str, Tensor] = {}
        for part in self.parts:
            terms |= part.losses(routed, average, coefficient)
        return terms

    def measure(self, routed: Routed) -> Tensor:
        """What the part that learns measures."""
        return self._learner.measure(routed)

    def update(self, bias: Tensor, counts: Tensor) -> Tensor:
        """The step of the part that learns."""
        return self._learner.update(bias, counts)

    def start(self) -> float | None:
        """The coefficient of the part that has one."""
        return self._learner.start()

    def adapt(self, coefficient: Tensor, counts: Tensor) -> Tensor:
        """The step of the part that learns."""
        return self._learner.adapt(coefficient, counts)
