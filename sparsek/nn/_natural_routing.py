"""Routing by the conditional Poisson law with the logits as its natural parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsek.functional import conditional_poisson_marginals, conditional_poisson_sample, log_esp

from ._gate import Gate
from ._selection import Selection, top_indices


@dataclass(frozen=True)
class ConditionalPoissonGate(Gate):
    r"""Inclusion probabilities of the law $P(s) \propto e^{\langle \text{logits}, s \rangle}$ on sets of k experts.

    They lie in [0, 1] and sum to k, so any design can draw from them, and rise with the logits; at k = 1 they are the
    softmax. The gradient is the covariance of the law, exact. At k = experts all are 1.

    Example:
        >>> import torch
        >>> ConditionalPoissonGate().marginals(torch.tensor([0.0, 0.0, 0.0, 0.0]), 2)
        tensor([0.5000, 0.5000, 0.5000, 0.5000])

    References:
        Ahmed et al., 2023, "SIMPLE: A Gradient Estimator for k-Subset Sampling", https://arxiv.org/abs/2210.01941
    """

    on_capped_simplex: ClassVar[bool] = True

    def marginals(self, logits: Tensor, k: int) -> Tensor:
        """The marginals of the law."""
        return conditional_poisson_marginals(logits, k)


@dataclass(frozen=True)
class SampledNatural(Selection):
    r"""k experts drawn from the law of :class:`ConditionalPoissonGate` itself, with the weights of :class:`Sampled`.

    The same law as `Sampled(ConditionalPoisson())` gives under that gate, without the search for the natural parameters
    that have its marginals: they are the logits + bias. The log-probability, which :class:`SecondOrder` wants, is smooth
    in them. In eval mode the k largest are taken. Under activation checkpointing pass no `generator`.

    Example:
        >>> import torch
        >>> from sparsek.nn import Router, SecondOrder
        >>> router = Router(4, 3, 2, gate=ConditionalPoissonGate(), selection=SampledNatural(), gradient=SecondOrder())
        >>> router(torch.randn(5, 4)).indices.shape
        torch.Size([5, 2])

    References:
        Chen, Dempster & Liu, 1994, "Weighted finite population sampling to maximize entropy",
        https://doi.org/10.1093/biomet/81.3.457
    """

    sampled: ClassVar[bool] = True

    def check(self, gate: Gate, k: int) -> None:
        """Refuse a gate whose marginals are of another law."""
        if not isinstance(gate, ConditionalPoissonGate):
            raise ValueError(f"gate must be a ConditionalPoissonGate under {self}, got {gate}")

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
        return top_indices(conditional_poisson_sample(scores, k, generator=generator) if training else scores, k)

    def log_prob(self, marginals: Tensor, taken: Tensor, k: int, logits: Tensor | None = None) -> Tensor:
        """The logits of the drawn less the log-normaliser."""
        if logits is None:
            raise ValueError("logits must be given: they are the natural parameters of the law, got None")
        return (logits * taken).sum(-1) - log_esp(logits, k)
