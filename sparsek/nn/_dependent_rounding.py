"""Experts drawn for all tokens of a batch at once, with even loads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsek.sampling import dependent_rounding

from ._gate import Gate
from ._routing import rows_of
from ._selection import Sampled, Selection, top_indices


@dataclass(frozen=True)
class DependentRounding(Selection):
    r"""A k-hot sample per token whose loads are their expectations, rounded down or up: :func:`sparsek.sampling.dependent_rounding`.

    As :class:`Sampled`, drawn with inclusion probabilities $\pi$ = the gate at logits + bias, every drawn expert with weight
    1; but an expert's load is $\lfloor \sum_t \pi_{te} \rfloor$ or one more, where independent tokens give it a spread of
    about its square root. With :class:`DoublyCappedGate` that is its share. In eval mode the k largest are taken.

    **Not causal** while training: the draws of tokens depend on each other, although each token by itself has the law that its
    own π gives it. In eval mode a token's experts depend on it alone.

    The draw is sequential and runs on the CPU: 20 ms for 4096 tokens and 64 experts in C++, seconds without a compiler; from
    another device it waits for the π. Under activation checkpointing pass no `generator`, as with :class:`Sampled`.

    Example:
        >>> import torch
        >>> from sparsek.nn import DoublyCappedGate, Router
        >>> router = Router(4, num_experts=3, k=1, gate=DoublyCappedGate(), selection=DependentRounding())
        >>> router(torch.randn(6, 4)).stats["load"]
        tensor([2, 2, 2])

    References:
        Gandhi, Khuller, Parthasarathy & Srinivasan, 2006, "Dependent rounding and its applications to approximation
        algorithms", https://doi.org/10.1145/1147954.1147956
    """

    causal: ClassVar[bool] = False
    sampled: ClassVar[bool] = True

    def check(self, gate: Gate, k: int) -> None:
        """Refuse a gate whose marginals are not inclusion probabilities at this k."""
        Sampled().check(gate, k)

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
        """Draw k experts for every real token while training; take the k largest otherwise."""
        if not training:
            return top_indices(scores, k)
        real = mask.flatten()
        probs = rows_of(marginals).masked_fill(~real[:, None], 0)
        sample = dependent_rounding(probs, k=real * k, generator=generator)
        return top_indices(sample, k).view(*marginals.shape[:-1], k)
