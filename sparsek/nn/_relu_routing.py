"""ReLU routing (ReMoE): a token runs every expert whose score is positive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ._gate import Gate
from ._selection import Selection, padded


@dataclass(frozen=True)
class ReLUGate(Gate):
    r"""Marginals $\max(0, \text{logits})$, which are the weights too: continuous where an expert comes or goes.

    They have no bound and no fixed sum. The gradient is exact, 0 for logits at 0 and below; an expert that no token
    scores above 0 gets none, and a token whose scores are all negative passes the layer by.

    Example:
        >>> import torch
        >>> ReLUGate().marginals(torch.tensor([-1.0, 0.5]), 1)
        tensor([0.0000, 0.5000])

    References:
        Wang, Chen & Zhu, 2024, "ReMoE: Fully Differentiable Mixture-of-Experts with ReLU Routing",
        https://arxiv.org/abs/2412.14711
    """

    on_capped_simplex: ClassVar[bool] = False

    def marginals(self, logits: Tensor, k: int) -> Tensor:
        """The positive part of the logits."""
        return logits.relu()


@dataclass(frozen=True)
class Positive(Selection):
    """Every expert with a marginal above 0: with :class:`ReLUGate` the routing of ReMoE.

    The number of experts of a token varies, from 0 to E: indices are filled up with −1 to the most of any token. k is
    what they should be on average, which :class:`AdaptiveL1` brings about; with a gate that gives every expert a
    positive marginal, all are run.

    Example:
        >>> import torch
        >>> from sparsek.nn import AdaptiveL1, Router
        >>> router = Router(4, num_experts=3, k=1, gate=ReLUGate(), selection=Positive(), balancer=AdaptiveL1())
        >>> routing = router(torch.randn(6, 4))
        >>> bool(((routing.indices >= 0).sum(-1) == (routing.logits > 0).sum(-1)).all())
        True

    References:
        Wang, Chen & Zhu, 2024, "ReMoE: Fully Differentiable Mixture-of-Experts with ReLU Routing",
        https://arxiv.org/abs/2412.14711
    """

    uses_bias: ClassVar[bool] = False

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
        """Take those above 0."""
        return padded((marginals > 0) & mask[..., None])
