"""Selections: which experts a token takes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from sparsek.sampling import Design, Pivotal

from ._gate import Gate


class Selection(ABC):
    """A choice of experts per token: a small immutable object.

    Attributes:
        causal: Whether the experts of a token depend on that token alone (and on chance).
        sampled: Whether experts are drawn while training, with the gate's marginals as inclusion probabilities. Their
            forward weight is then 1: the expected output is the mixture by marginals.
        biases_marginals: Whether the marginals have the bias in them, as the law of a draw must; so it is if `sampled`.
        uses_bias: Whether a bias changes the choice.
    """

    causal: ClassVar[bool] = True
    sampled: ClassVar[bool] = False
    biases_marginals: ClassVar[bool] = False
    uses_bias: ClassVar[bool] = True

    def check(self, gate: Gate, k: int) -> None:
        """Refuse a gate that this selection cannot use; by default none."""
        return

    @abstractmethod
    def __call__(
        self,
        scores: Tensor,
        marginals: Tensor,
        k: int,
        *,
        mask: Tensor,
        training: bool,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Choose.

        Shape:
            - scores, marginals: (..., experts).
            - mask: (...).
            - output: (..., k), int64; of another width if the number of experts of a token varies (:func:`padded`).

        Args:
            scores: The gate's scores plus the balance bias, detached.
            marginals: The gate's number for every expert, detached.
            k: Experts per token.
            mask: True = a real token; what is chosen for others is thrown away.
            training: Whether the model trains; every selection is deterministic otherwise.
            generator: Source of randomness; only stochastic selections read it.

        Returns:
            The experts of each token, best first where they are ranked; −1 = none.
        """

    def weights(self, gate: Gate, marginals: Tensor, indices: Tensor) -> Tensor:
        """Weights (..., k) of the chosen experts, 0 at slots without one, before the gradient has its say."""
        chosen = marginals_of(indices, marginals)
        return 1 + moving(chosen) if self.sampled else gate.weights(chosen)

    def log_prob(self, marginals: Tensor, taken: Tensor, k: int, logits: Tensor | None = None) -> Tensor:
        """Log-probability (...) of a draw `taken` (..., experts) bool, with its gradient to the marginals or their logits."""
        raise NotImplementedError(f"{type(self).__name__} has no log-probability; use Sampled(ConditionalPoisson())")


def moving(value: Tensor) -> Tensor:
    """0 in value, with the gradient of `value`."""
    return value - value.detach()


def marginals_of(indices: Tensor, marginals: Tensor) -> Tensor:
    """The marginals (..., k) of the chosen experts; 0 at slots without one."""
    return marginals.gather(-1, indices.clamp_min(0)).masked_fill(indices < 0, 0)


def padded(taken: Tensor) -> Tensor:
    """Indices (..., width) of the experts that are True in `taken` (..., experts), filled up with −1.

    In rising order; the width is the most experts of any token, and at least 1.
    """
    number = taken.sum(-1)
    width = max(int(number.max()), 1) if taken.numel() else 1
    place = torch.where(taken, taken.cumsum(-1) - 1, width)  # those not taken go to a last column, which is cut off
    experts = torch.arange(taken.shape[-1], device=taken.device).expand_as(place)
    return place.new_full((*place.shape[:-1], width + 1), -1).scatter_(-1, place, experts)[..., :width]


def top_indices(scores: Tensor, k: int) -> Tensor:
    """Indices of the k largest, or of all, best first, ties to the lowest index (which `torch.topk` does not promise)."""
    k = min(k, scores.shape[-1])
    if scores.dtype != torch.float32:
        return scores.sort(dim=-1, descending=True, stable=True).indices[..., :k]
    return _distinct(scores).topk(k).indices  # a third of the time


def _distinct(scores: Tensor) -> Tensor:
    """Whole numbers in the order of float32 scores that are not NaN, the lower index above where these are equal."""
    bits = (scores + 0.0).view(torch.int32)  # −0 becomes 0
    rising = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (rising.long() << 32) - torch.arange(scores.shape[-1], device=scores.device)


@dataclass(frozen=True)
class HardTopK(Selection):
    """The k largest of scores + bias; the weights are the gate's at the logits alone: the bias moves the choice only.

    Ties go to the lowest index.

    References:
        Wang et al., 2024, "Auxiliary-Loss-Free Load Balancing Strategy for Mixture-of-Experts",
        https://arxiv.org/abs/2408.15664
    """

    def __call__(
        self,
        scores: Tensor,
        marginals: Tensor,
        k: int,
        *,
        mask: Tensor,
        training: bool,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Choose the k largest."""
        return top_indices(scores, k)


@dataclass(frozen=True)
class Sampled(Selection):
    r"""A k-hot sample from a πps design with inclusion probabilities $\pi$ = the gate at logits + bias.

    Forward, every drawn expert has weight 1, so the expected output is $\sum_i \pi_i f_i(x)$. Each token draws its own
    sample, independently of the others. In eval mode the k largest are taken, with weight 1.

    Under activation checkpointing pass no `generator`: the recomputed forward pass must draw the same experts, and
    `torch.utils.checkpoint` restores the state of the default generator only.

    Args:
        design: A design of fixed size.

    Example:
        >>> import torch
        >>> from sparsek.nn import Router
        >>> router = Router(4, num_experts=3, k=1, selection=Sampled())
        >>> router(torch.randn(5, 4)).weights.flatten()
        tensor([1., 1., 1., 1., 1.], grad_fn=...)

    References:
        Bengio, Léonard & Courville, 2013, "Estimating or Propagating Gradients Through Stochastic Neurons",
        https://arxiv.org/abs/1308.3432
    """

    design: Design = field(default_factory=Pivotal)

    sampled: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.design.fixed_size:
            raise ValueError(f"design must have a fixed size, got {self.design}; Pivotal() has")

    def check(self, gate: Gate, k: int) -> None:
        """Refuse a gate whose marginals are not inclusion probabilities at this k."""
        if not gate.gives_inclusion(k):
            raise ValueError(
                f"gate must give inclusion probabilities that sum to k = {k}, got {gate}; SigmoidTopKGate() gives them"
            )

    def __call__(
        self,
        scores: Tensor,
        marginals: Tensor,
        k: int,
        *,
        mask: Tensor,
        training: bool,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw k experts while training; take the k largest otherwise."""
        return top_indices(self.design.sample(marginals, k=k, generator=generator) if training else scores, k)

    def log_prob(self, marginals: Tensor, taken: Tensor, k: int, logits: Tensor | None = None) -> Tensor:
        """The design's."""
        return self.design.log_prob(marginals, taken, k=k)
