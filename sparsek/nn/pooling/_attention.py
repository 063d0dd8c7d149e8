"""Poolings that learn which tokens count: gates, one query, gated attention."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from sparsek.functional.pooling import gate_weights, softmax_weights

from ._empty import EmptyPolicy
from ._pooling import _ZERO, WeightedPooling


def apply_linear(x: Tensor, layer: nn.Linear) -> Tensor:
    """The layer in the precision of `x`, whatever that of its parameters."""
    bias = layer.bias
    return linear(x, layer.weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


class GatedPool(WeightedPooling):
    r"""Mean of the kept tokens, weighted by a sigmoid gate of each.

    $$w_t = σ(⟨a, x_t⟩ + b) \Big/ \sum_u σ(⟨a, x_u⟩ + b).$$

    Every token decides for itself; see :func:`~sparsek.functional.pooling.gate_weights`. D + 1 parameters.

    Args:
        dim: D, dimension of a token.
        empty: What to return for a row without a token, see :class:`Pooling`.

    Example:
        >>> import torch
        >>> from sparsek.nn import GatedPool
        >>> GatedPool(2)(torch.ones(1, 4, 2)).detach()
        tensor([[1., 1.]])
    """

    def __init__(self, dim: int, *, empty: EmptyPolicy = _ZERO) -> None:
        super().__init__(empty=empty)
        self.gate = nn.Linear(dim, 1)

    def weights(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Normalised gates, (B, T)."""
        return gate_weights(apply_linear(x, self.gate).squeeze(-1), mask)


class AttentionPool(WeightedPooling):
    r"""Attention of one learnt query: tokens weighted by the softmax of their scaled products with it.

    $$w = \operatorname{softmax}_t\big(⟨q, x_t⟩/\sqrt D\big).$$

    See :func:`~sparsek.functional.pooling.softmax_weights`. D parameters, near 0 at first: it begins near the mean.

    Args:
        dim: D, dimension of a token.
        empty: What to return for a row without a token, see :class:`Pooling`.

    Example:
        >>> import torch
        >>> from sparsek.nn import AttentionPool
        >>> pool = AttentionPool(2)
        >>> _ = pool.query.data.copy_(torch.tensor([0.7, -0.5]))
        >>> pool(torch.tensor([[[0.5, 0.3], [0.8, -0.2], [0.1, 0.9], [-0.3, 0.5]]])).detach()
        tensor([[0.4043, 0.2541]])
    """

    def __init__(self, dim: int, *, empty: EmptyPolicy = _ZERO) -> None:
        super().__init__(empty=empty)
        self.query = nn.Parameter(torch.randn(dim) * 0.02)

    def scores(self, x: Tensor) -> Tensor:
        """Scaled products with the query, (B, T)."""
        return x @ self.query.to(x.dtype) / math.sqrt(self.query.numel())

    def weights(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Softmax of the scores, (B, T)."""
        return softmax_weights(self.scores(x), mask)


class GatedAttentionPool(WeightedPooling):
    r"""Gated attention, as in attention-based multiple instance learning (ABMIL).

    $$w = \operatorname{softmax}_t\, ⟨a, \tanh(V x_t) ∘ σ(U x_t)⟩.$$

    Scores are not linear in the token as those of :class:`AttentionPool` are. 2H(D + 1) + H + 1 parameters.

    Args:
        dim: D, dimension of a token.
        hidden: H, dimension of the gates.
        empty: What to return for a row without a token, see :class:`Pooling`.

    Example:
        >>> import torch
        >>> from sparsek.nn import GatedAttentionPool
        >>> GatedAttentionPool(2, hidden=8)(torch.ones(1, 4, 2)).detach()
        tensor([[1., 1.]])

    References:
        Ilse, Tomczak, Welling (2018), "Attention-based Deep Multiple Instance Learning", https://arxiv.org/abs/1802.04712.
    """

    def __init__(self, dim: int, hidden: int = 128, *, empty: EmptyPolicy = _ZERO) -> None:
        super().__init__(empty=empty)
        self.value = nn.Linear(dim, hidden)
        self.gate = nn.Linear(dim, hidden)
        self.score = nn.Linear(hidden, 1)

    def weights(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Softmax of the scores, (B, T)."""
        features = apply_linear(x, self.value).tanh() * apply_linear(x, self.gate).sigmoid()
        return softmax_weights(apply_linear(features, self.score).squeeze(-1), mask)
