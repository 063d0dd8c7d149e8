"""A gate whose inclusion probabilities give every expert its share of the batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsek._validation import check_positive
from sparsek.functional import doubly_capped, sigmoid_topk

from ._gate import Gate
from ._routing import rows_of


@dataclass(frozen=True)
class DoublyCappedGate(Gate):
    r"""Inclusion probabilities that sum to k per token and to at most a capacity per expert of the batch.

    While training $\pi$ = :func:`~sparsek.functional.doubly_capped` (logits / temperature), its bias found for this batch,
    starting from the router's; the capacity is `factor` times the even share $T k / E$ of the T real tokens. In eval mode
    $\pi$ = :func:`~sparsek.functional.sigmoid_topk` (logits + the router's bias), which a balancer that looks at scores, as
    :class:`QuantileBalance` does, keeps even and close to what training sees.

    **Not causal** while training: the bias of a batch depends on all its tokens. In a data-parallel run each process caps its own
    batch.

    Args:
        temperature: Above 0.
        factor: Capacity over the even share, at least 1. At 1 all experts get exactly their share.
        iterations: Sweeps over the columns, at least 1.

    Example:
        >>> import torch
        >>> from sparsek.nn import DoublyCappedGate, Router
        >>> router = Router(4, num_experts=3, k=1, gate=DoublyCappedGate())
        >>> router(torch.randn(6, 4)).marginals.sum(0).allclose(torch.tensor(2.0))
        True

    References:
        Lewis et al., 2021, "BASE Layers: Simplifying Training of Large, Sparse Models", https://arxiv.org/abs/2103.16716
    """

    temperature: float = 1.0
    factor: float = 1.0
    iterations: int = 8

    on_capped_simplex: ClassVar[bool] = True
    causal: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_positive("temperature", self.temperature)
        check_positive("factor", self.factor)
        if self.factor < 1:
            raise ValueError(f"factor must be at least 1, got {self.factor}: the experts must hold k per token")
        if self.iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {self.iterations}")

    def marginals(self, logits: Tensor, k: int) -> Tensor:
        """Sigmoid top-k of the logits: every token by itself."""
        return sigmoid_topk(logits, k, temperature=self.temperature)

    def batch_marginals(self, logits: Tensor, k: int, mask: Tensor) -> Tensor:
        """Doubly capped over the real tokens; k / experts at others, whose logits must be finite."""
        tokens, experts = rows_of(logits), logits.shape[-1]
        real = mask.flatten()
        capacity = None if self.factor == 1 else (self.factor * k / experts * real.sum()).expand(experts)
        probs = doubly_capped(
            tokens, k, capacity, temperature=self.temperature, row_mask=real, iterations=self.iterations
        ).probs
        return torch.where(mask[..., None], probs.view(logits.shape), k / experts)
