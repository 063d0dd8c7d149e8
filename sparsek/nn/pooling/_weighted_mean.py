"""Mean with weights that depend on the place of a token."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsek._validation import check_positive
from sparsek.functional.pooling import normalised_weights

from ._empty import EmptyPolicy
from ._pooling import _ZERO, WeightedPooling


class Weighting(ABC):
    """Gives tokens weights >= 0 of any scale."""

    @abstractmethod
    def weights(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Weights (B, T) of the tokens (B, T, D); they are not looked at where masked."""


@dataclass(frozen=True)
class PositionWeighting(Weighting):
    """The place of a token among the kept ones, from 1, to a power: in a causal model later tokens have seen more.

    Args:
        power: 1 is the weighting of SGPT, 0 the mean.

    Example:
        >>> import torch
        >>> from sparsek.nn import PositionWeighting
        >>> PositionWeighting().weights(torch.zeros(1, 4, 2), torch.tensor([[False, True, True, True]]))[:, 1:]
        tensor([[1., 2., 3.]])

    References:
        Muennighoff (2022), "SGPT: GPT Sentence Embeddings for Semantic Search", https://arxiv.org/abs/2202.08904.
    """

    power: float = 1.0

    def weights(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Places to the power."""
        return _place(x, mask).clamp(min=1).pow(self.power)


@dataclass(frozen=True)
class RecencyWeighting(Weighting):
    """Half the weight for every `half_life` kept tokens that follow.

    Args:
        half_life: Number of tokens > 0.

    Example:
        >>> import torch
        >>> from sparsek.nn import RecencyWeighting
        >>> RecencyWeighting(half_life=1).weights(torch.zeros(1, 3, 2), None)
        tensor([[0.2500, 0.5000, 1.0000]])
    """

    half_life: float

    def __post_init__(self) -> None:
        check_positive("half_life", self.half_life)

    def weights(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Two to the minus number of tokens that follow, in half-lives."""
        place = _place(x, mask)
        return ((place - place[..., -1:]) / self.half_life).exp2()


_POSITION = PositionWeighting()


class WeightedMeanPool(WeightedPooling):
    """Mean of the kept tokens with weights. See :func:`~sparsek.functional.pooling.weighted_mean_pool`.

    Weights: those of the weighting, made to sum to 1.

    Args:
        weighting: :class:`PositionWeighting`, :class:`RecencyWeighting`, or a :class:`Weighting` of your own. Places count kept
            tokens only, so padding on either side changes nothing.
        empty: What to return for a row without a token, see :class:`Pooling`.

    Example:
        >>> import torch
        >>> from sparsek.nn import WeightedMeanPool
        >>> WeightedMeanPool()(torch.tensor([[[3.0], [0.0]]]))
        tensor([[1.]])
    """

    def __init__(self, weighting: Weighting = _POSITION, *, empty: EmptyPolicy = _ZERO) -> None:
        super().__init__(empty=empty)
        if not isinstance(weighting, Weighting):
            raise ValueError(f"weighting must be a Weighting such as PositionWeighting(), got {weighting!r}")
        self.weighting = weighting

    def weights(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Normalised weights, (B, T)."""
        return normalised_weights(x, self.weighting.weights(x, mask), mask)

    def extra_repr(self) -> str:
        """Return the arguments."""
        return f"weighting={self.weighting}"


def _place(x: Tensor, mask: Tensor | None) -> Tensor:
    """Place of each token among the kept ones, from 1, (B, T)."""
    ones = x.new_ones(x.shape[:-1]) if mask is None else mask.expand(x.shape[:-1]).to(x.dtype)
    return torch.cumsum(ones, -1)
