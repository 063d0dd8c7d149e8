"""How a sample of tokens stands for all, and with which sizes tokens are drawn: small classes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsek._validation import inspectable
from sparsek.functional.pooling import hajek_weights, horvitz_thompson_weights


class SampleWeighting(ABC):
    """Weights of the drawn tokens.

    Attributes:
        unbiased: Whether the weighted sum is unbiased for that of all tokens.
    """

    unbiased: ClassVar[bool]

    @abstractmethod
    def weights(self, sample: Tensor, probs: Tensor, target: Tensor) -> Tensor:
        """Weights (B, T) that stand for `target`, the weights of all tokens."""

    @abstractmethod
    def residuals(self, x: Tensor, target: Tensor, output: Tensor) -> Tensor:
        """Values (B, T, D) whose total has, at least approximately, the variance of the output."""


@dataclass(frozen=True)
class HorvitzThompsonWeights(SampleWeighting):
    """Weights over inclusion probabilities: unbiased, for value and gradient.

    Example:
        >>> import torch
        >>> from sparsek.nn import HorvitzThompsonWeights
        >>> target, probs = torch.full((1, 3), 1 / 3), torch.full((1, 3), 2 / 3)
        >>> HorvitzThompsonWeights().weights(torch.tensor([[1.0, 0.0, 1.0]]), probs, target)
        tensor([[0.5000, 0.0000, 0.5000]])
    """

    unbiased: ClassVar[bool] = True

    def weights(self, sample: Tensor, probs: Tensor, target: Tensor) -> Tensor:
        """Target over π at the drawn tokens."""
        return target * horvitz_thompson_weights(sample, probs).to(target.dtype)

    def residuals(self, x: Tensor, target: Tensor, output: Tensor) -> Tensor:
        """The weighted tokens."""
        return target.unsqueeze(-1) * x


@dataclass(frozen=True)
class HajekWeights(SampleWeighting):
    """The same, made to sum to 1: consistent, and better than unbiased where tokens are much alike.

    Its variance is that of a ratio, estimated by linearisation: approximate under every design.

    Example:
        >>> import torch
        >>> from sparsek.nn import HajekWeights
        >>> target, probs = torch.full((1, 3), 1 / 3), torch.tensor([[0.5, 0.5, 1.0]])
        >>> HajekWeights().weights(torch.tensor([[1.0, 0.0, 1.0]]), probs, target)
        tensor([[0.6667, 0.0000, 0.3333]])
    """

    unbiased: ClassVar[bool] = False

    def weights(self, sample: Tensor, probs: Tensor, target: Tensor) -> Tensor:
        """Target over π at the drawn tokens, over the sum of these."""
        return hajek_weights(sample.to(target.dtype), probs.to(target.dtype), target)

    def residuals(self, x: Tensor, target: Tensor, output: Tensor) -> Tensor:
        """The weighted differences from the output."""
        return target.unsqueeze(-1) * (x - output.unsqueeze(-2))


class TokenSizes(ABC):
    """Sizes in proportion to which tokens are drawn."""

    @abstractmethod
    def sizes(self, values: Tensor) -> Tensor:
        """Sizes >= 0 (B, T) of values (B, T, D), float64."""


@dataclass(frozen=True)
class NormSizes(TokenSizes):
    """Euclidean norms: the variance is least when values of equal direction are drawn in proportion to them.

    Args:
        floor: Share of the mean norm below which no size falls, so that weights stay bounded.

    Example:
        >>> import torch
        >>> from sparsek.nn import NormSizes
        >>> NormSizes(floor=0.25).sizes(torch.tensor([[[3.0, 4.0], [0.0, 3.0], [0.0, 0.0]]]))
        tensor([[5.0000, 3.0000, 0.6667]], dtype=torch.float64)
    """

    floor: float = 0.05

    def __post_init__(self) -> None:
        if not 0 <= self.floor <= 1:
            raise ValueError(f"floor must lie in [0, 1], got {self.floor!r}")

    def sizes(self, values: Tensor) -> Tensor:
        """Norms, not below the floor; 1 where all are 0."""
        norms = _norms(values)
        mean = norms.mean(-1, keepdim=True)
        return torch.where(mean > 0, torch.maximum(norms, self.floor * mean), 1.0)


def _norms(values: Tensor) -> Tensor:
    """In the precision of the values, unless squares overflow there."""
    norms: Tensor = torch.linalg.vector_norm(values, dim=-1).double()
    if not inspectable(norms) or not bool(norms.isfinite().all()):
        norms = torch.linalg.vector_norm(values, dim=-1, dtype=torch.float64)
    return norms


@dataclass(frozen=True)
class EqualSizes(TokenSizes):
    """All tokens alike: simple random sampling.

    Example:
        >>> import torch
        >>> from sparsek.nn import EqualSizes
        >>> EqualSizes().sizes(torch.zeros(1, 3, 2))
        tensor([[1., 1., 1.]], dtype=torch.float64)
    """

    def sizes(self, values: Tensor) -> Tensor:
        """Ones."""
        return values.new_ones(values.shape[:-1], dtype=torch.float64)
