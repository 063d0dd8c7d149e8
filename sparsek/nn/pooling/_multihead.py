"""Pooling by multihead attention: K learnt queries, each with its own view of the tokens."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparsek.functional.pooling import softmax_weights
from sparsek.functional.pooling._tokens import blank, empty_rows, select

from ._attention import apply_linear
from ._empty import EmptyPolicy
from ._pooling import _ZERO, Pooling


class Combination(ABC):
    """Makes one vector of the K that the queries found."""

    @abstractmethod
    def combine(self, views: Tensor) -> Tensor:
        """(B, K, D) to (B, D') of one row."""


@dataclass(frozen=True)
class Concatenate(Combination):
    """The views one after the other: (B, K·D).

    Example:
        >>> import torch
        >>> from sparsek.nn import Concatenate
        >>> Concatenate().combine(torch.zeros(5, 4, 8)).shape
        torch.Size([5, 32])
    """

    def combine(self, views: Tensor) -> Tensor:
        """(B, K, D) to (B, K·D)."""
        return views.flatten(-2)


@dataclass(frozen=True)
class Average(Combination):
    """The mean of the views: (B, D).

    Example:
        >>> import torch
        >>> from sparsek.nn import Average
        >>> Average().combine(torch.zeros(5, 4, 8)).shape
        torch.Size([5, 8])
    """

    def combine(self, views: Tensor) -> Tensor:
        """(B, K, D) to (B, D)."""
        return views.mean(-2)


_CONCATENATE = Concatenate()


class MultiheadAttentionPool(Pooling):
    r"""Multihead attention of K learnt queries (seeds) to the tokens: PMA of the Set Transformer, without its feed-forward.

    $$\text{view}_k = W_o \operatorname{concat}_h\Big(W_v^h \sum_t w_t^{hk} x_t\Big), \quad
    w^{hk} = \operatorname{softmax}_t \big(⟨s_k^h, W_k^h x_t⟩/\sqrt{D/H}\big).$$

    The result is that of `torch.nn.MultiheadAttention` with the seeds as projected queries. Since queries do not depend on the input,
    keys are folded into them and values projected after the sum over tokens: H·K products with each token in place of 2 D.
    Residual and feed-forward of the paper's block are ordinary layers and left to the caller. With `project=False` there are
    only the K seeds, and each head sees its part of the token as it is.

    Weights: (B, T, K), the mean over heads.

    Args:
        dim: D, dimension of a token.
        queries: K, number of seeds.
        heads: H, a divisor of D.
        combine: :class:`Concatenate` to (B, K·D) or :class:`Average` to (B, D).
        project: Whether to have the three projections.
        empty: What to return for a row without a token, see :class:`Pooling`.

    Raises:
        ValueError: If `heads` does not divide `dim`, or a number is below 1.

    Example:
        >>> import torch
        >>> from sparsek.nn import Average, MultiheadAttentionPool
        >>> MultiheadAttentionPool(8, queries=4, heads=2)(torch.ones(1, 5, 8)).shape
        torch.Size([1, 32])
        >>> MultiheadAttentionPool(8, queries=4, heads=2, combine=Average())(torch.ones(1, 5, 8)).shape
        torch.Size([1, 8])

    References:
        Lee et al. (2019), "Set Transformer", https://arxiv.org/abs/1810.00825.
    """

    def __init__(
        self,
        dim: int,
        queries: int = 4,
        *,
        heads: int = 1,
        combine: Combination = _CONCATENATE,
        project: bool = True,
        empty: EmptyPolicy = _ZERO,
    ) -> None:
        super().__init__(empty=empty)
        if queries < 1:
            raise ValueError(f"queries must be >= 1, got {queries}")
        if heads < 1 or dim % heads:
            raise ValueError(f"heads must be >= 1 and divide dim = {dim}, got {heads}")
        if not isinstance(combine, Combination):
            raise ValueError(f"combine must be Concatenate() or Average(), got {combine!r}")
        self.heads = heads
        self.combine = combine
        self.seeds = nn.Parameter(torch.randn(queries, dim) * (1.0 if project else 0.02))
        self.key = nn.Linear(dim, dim, bias=False) if project else None
        self.value = nn.Linear(dim, dim) if project else None
        self.output = nn.Linear(dim, dim) if project else None

    def pool(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Pool (B, T, D) to (B, K·D) or (B, D)."""
        return self._pooled(x, mask, need_weights=False)[0]

    def weights(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Attention of each query to each token, mean over heads: (B, T, K)."""
        return self._attention(select(x, mask), mask).mean(-3).movedim(-2, -1)

    def _pooled(self, x: Tensor, mask: Tensor | None, need_weights: bool) -> tuple[Tensor, Tensor | None]:
        x = select(x, mask)
        attention = self._attention(x, mask)
        output = blank(self.combine.combine(self._views(x, attention)), empty_rows(x, mask))
        return output, attention.mean(-3).movedim(-2, -1) if need_weights else None

    def _attention(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Weights (B, H, K, T)."""
        products = x @ self._queries(x).flatten(0, 1).T
        scores: Tensor = products.movedim(-1, -2).unflatten(-2, (self.heads, -1))
        return softmax_weights(scores, None if mask is None else mask.expand(x.shape[:-1])[..., None, None, :])

    def _queries(self, x: Tensor) -> Tensor:
        """What is multiplied with the tokens: scaled seeds with the keys folded in, (H, K, D)."""
        seeds: Tensor = self.seeds.to(x.dtype).unflatten(-1, (self.heads, -1)).movedim(-2, 0)
        seeds = seeds / math.sqrt(seeds.shape[-1])
        parts = (
            torch.eye(x.shape[-1], dtype=x.dtype, device=x.device) if self.key is None else self.key.weight.to(x.dtype)
        )
        queries: Tensor = seeds @ parts.unflatten(0, (self.heads, -1))
        return queries

    def _views(self, x: Tensor, attention: Tensor) -> Tensor:
        """(B, K, D): of each head its part of the projected sums of tokens."""
        sums = attention.flatten(1, 2) @ x
        sums = sums.unflatten(1, attention.shape[1:3])
        if self.value is None or self.output is None:
            parts = [part.chunk(self.heads, -1)[h] for h, part in enumerate(sums.unbind(1))]
            return torch.cat(parts, -1)
        weight = self.value.weight.to(x.dtype).unflatten(0, (self.heads, -1))
        views = sums.movedim(1, 0).flatten(1, 2) @ weight.mT  # one product a head, for all rows
        views = views.movedim(0, -2).flatten(-2).unflatten(0, sums.shape[::2])
        if self.value.bias is not None:
            views = views + self.value.bias.to(x.dtype)
        return apply_linear(views, self.output)

    def extra_repr(self) -> str:
        """Return the arguments."""
        return f"queries={len(self.seeds)}, heads={self.heads}, combine={self.combine}"
