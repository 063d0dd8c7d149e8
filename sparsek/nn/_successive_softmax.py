"""Experts drawn one after another from a softmax of those left: the selection of SparseMixer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ._gate import Gate
from ._selection import Selection, top_indices


@dataclass(frozen=True)
class SuccessiveSoftmax(Selection):
    r"""k experts drawn one after another while training, each with probability $p_e$ over the sum of those left.

    The weight of an expert is that probability, so the k weights of a token do not sum to 1: the first is near 1 where
    the gate is sure, and so is the second among the rest. In eval the largest is taken each time, with the same weight.
    The law contains the balance bias. With a finite `margin`, only experts whose $\log p$ is within it of the largest
    left can be drawn, and the weights are shares among those; a token with one such expert has the weight 1 and gives
    the gate no gradient. GRIN uses about 0.02 times the largest score, here it is in nats.

    Under activation checkpointing pass no `generator` (see :class:`Sampled`).

    Args:
        margin: Above 0; infinite: all experts can be drawn (the Plackett-Luce law).

    Example:
        >>> import torch
        >>> from sparsek.nn import Router, SoftmaxGate
        >>> router = Router(4, num_experts=3, k=3, gate=SoftmaxGate(normalise=False), selection=SuccessiveSoftmax())
        >>> router(torch.randn(5, 4)).weights[:, -1]  # of one that is left
        tensor([1., 1., 1., 1., 1.], grad_fn=...)

    References:
        Liu et al., 2023, "Sparse Backpropagation for MoE Training", https://arxiv.org/abs/2310.00811
        Liu et al., 2024, "GRIN: GRadient-INformed MoE", https://arxiv.org/abs/2409.12136
    """

    margin: float = math.inf

    biases_marginals: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.margin > 0:
            raise ValueError(f"margin must be above 0, got {self.margin}")

    def check(self, gate: Gate, k: int) -> None:
        """Refuse normalised weights: this selection makes its own."""
        if getattr(gate, "normalise", False):
            raise ValueError(
                f"gate must have normalise = False under {self}, which makes its own weights of the marginals, got {gate}"
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
        """Draw, by the largest of log p + Gumbel noise; without noise in eval."""
        left, picks = _log(marginals), []
        for _ in range(k):
            keys = self._near(left)
            keys = keys + _gumbel(keys, generator) if training else keys
            picks.append(top_indices(keys, 1))
            left = left.scatter(-1, picks[-1], -torch.inf)
        return torch.cat(picks, -1)

    def weights(self, gate: Gate, marginals: Tensor, indices: Tensor) -> Tensor:
        """Each expert's probability among those that could be drawn in its place."""
        left, weights = _log(marginals), []
        for index in indices.clamp_min(0).split(1, -1):
            near = self._near(left)
            weights.append((near.gather(-1, index) - near.logsumexp(-1, keepdim=True)).exp())
            left = left.scatter(-1, index, -torch.inf)
        return torch.cat(weights, -1).masked_fill(indices < 0, 0)

    def _near(self, left: Tensor) -> Tensor:
        """Without those that are further than the margin below the largest."""
        far = left < left.detach().amax(-1, keepdim=True) - self.margin
        return left.masked_fill(far, -torch.inf)


def best_of_the_rest(indices: Tensor, marginals: Tensor) -> Tensor:
    """Whether each expert (..., k) has the largest marginal of those that the earlier slots left."""
    left, best = marginals, []
    for index in indices.clamp_min(0).split(1, -1):
        best.append(left.gather(-1, index) == left.amax(-1, keepdim=True))
        left = left.scatter(-1, index, -1)
    return torch.cat(best, -1)


def _log(marginals: Tensor) -> Tensor:
    """Finite log-marginals: those that underflow are alike."""
    return marginals.clamp_min(torch.finfo(marginals.dtype).tiny).log()


def _gumbel(like: Tensor, generator: torch.Generator | None) -> Tensor:
    return -torch.empty_like(like).exponential_(generator=generator).log()
