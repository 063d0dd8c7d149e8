"""Selections: which k experts a token takes, and what carries the gradient to the gate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from sparsek.sampling import Design, Pivotal

from ._gate import Gate


class Selected(NamedTuple):
    """What a selection returns, for scores of shape (..., experts)."""

    indices: Tensor
    """(..., k): the experts of each token, best first where they are ranked."""
    weights: Tensor
    """(..., k): the weights of those experts, with a gradient to the logits."""
    marginals: Tensor
    """(..., experts): the gate's number for every expert."""


class Selection(ABC):
    """A choice of k experts per token: a small immutable object."""

    def check(self, gate: Gate) -> None:
        """Refuse a gate that this selection cannot use; by default none."""
        return

    @abstractmethod
    def __call__(
        self,
        logits: Tensor,
        bias: Tensor,
        k: int,
        gate: Gate,
        *,
        training: bool,
        generator: torch.Generator | None = None,
    ) -> Selected:
        """Choose.

        Shape:
            - logits: (..., experts).
            - bias: (experts,).

        Args:
            logits: Router logits.
            bias: Balance bias, added to the logits for the choice.
            k: Experts per token.
            gate: What turns logits into weights.
            training: Whether the model trains; every selection is deterministic otherwise.
            generator: Source of randomness; only stochastic selections read it.
        """


def _top_indices(scores: Tensor, k: int) -> Tensor:
    """Indices of the k largest, best first, ties to the lowest index (which `torch.topk` does not promise)."""
    return scores.detach().sort(dim=-1, descending=True, stable=True).indices[..., :k]


@dataclass(frozen=True)
class HardTopK(Selection):
    """The k largest of logits + bias, weighted by the gate at the logits alone: the bias moves the choice only.

    Ties go to the lowest index. The gradient reaches the logits through the weights of the chosen experts.

    References:
        Wang et al., 2024, "Auxiliary-Loss-Free Load Balancing Strategy for Mixture-of-Experts",
        https://arxiv.org/abs/2408.15664
    """

    def __call__(
        self,
        logits: Tensor,
        bias: Tensor,
        k: int,
        gate: Gate,
        *,
        training: bool,
        generator: torch.Generator | None = None,
    ) -> Selected:
        """Choose the k largest."""
        marginals = gate.marginals(logits, k)
        indices = _top_indices(logits + bias, k)
        return Selected(indices, gate.weights(marginals.gather(-1, indices)), marginals)


@dataclass(frozen=True)
class Sampled(Selection):
    r"""A k-hot sample from a πps design with inclusion probabilities $\pi$ = the gate at logits + bias.

    Forward, every drawn expert has weight 1, so the expected output is $\sum_i \pi_i f_i(x)$; backward, the weight
    passes its gradient to $\pi_i$ (straight-through on the chosen units: the others' outputs are not computed, so their
    terms are missing). Each token draws its own sample. In eval mode the k largest are taken, with weight 1.

    Args:
        design: A design of fixed size.

    References:
        Bengio, Léonard & Courville, 2013, "Estimating or Propagating Gradients Through Stochastic Neurons",
        https://arxiv.org/abs/1308.3432
    """

    design: Design = field(default_factory=Pivotal)

    def __post_init__(self) -> None:
        if not self.design.fixed_size:
            raise ValueError(f"design must have a fixed size, got {self.design}; Pivotal() has")

    def check(self, gate: Gate) -> None:
        """Refuse a gate whose marginals are not inclusion probabilities."""
        if not gate.on_capped_simplex:
            raise ValueError(
                f"gate must give inclusion probabilities that sum to k, got {gate}; SigmoidTopKGate() gives them"
            )

    def __call__(
        self,
        logits: Tensor,
        bias: Tensor,
        k: int,
        gate: Gate,
        *,
        training: bool,
        generator: torch.Generator | None = None,
    ) -> Selected:
        """Draw k experts while training; take the k largest otherwise."""
        marginals = gate.marginals(logits + bias, k)
        scores = self.design.sample(marginals.detach(), k=k, generator=generator) if training else logits + bias
        indices = _top_indices(scores, k)
        chosen = marginals.gather(-1, indices)
        return Selected(indices, 1 + (chosen - chosen.detach()), marginals)
