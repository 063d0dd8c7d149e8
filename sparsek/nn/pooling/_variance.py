"""Estimates of the variance of a sampled pooling: one exact, for designs whose pairs can all meet, one approximate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sparsek.functional.pooling import fixed_size_variance, sen_yates_grundy
from sparsek.sampling import Brewer, ConditionalPoisson, Design, Sampford

_PAIRS_MEET = (ConditionalPoisson, Sampford, Brewer)


class VarianceEstimate(ABC):
    """Estimates the variance of a Horvitz-Thompson total from the sample that gave it.

    Attributes:
        exact: Whether the estimate is unbiased.
    """

    exact: ClassVar[bool]

    def check(self, design: Design) -> None:
        """Refuse a design for which this estimate has no meaning."""
        if not design.fixed_size:
            raise ValueError(f"design must have samples of fixed size, got {design}")

    @abstractmethod
    def estimate(self, values: Tensor, sample: Tensor, probs: Tensor, design: Design, k: Tensor) -> Tensor:
        """Variance (B, D) of Σ s·y/π, from values y (B, T, D), sample and π (B, T) and its sums (B,)."""


@dataclass(frozen=True)
class SenYatesGrundy(VarianceEstimate):
    """The unbiased estimate of Sen, Yates and Grundy, for conditional Poisson, Sampford and Brewer: O(T²) memory.

    Pivotal and systematic sampling have pairs that never meet; no unbiased estimate exists for them.

    Example:
        >>> from sparsek.nn import SenYatesGrundy
        >>> from sparsek.sampling import Pivotal
        >>> SenYatesGrundy().check(Pivotal())
        Traceback (most recent call last):
        ...
        ValueError: design must let all pairs meet for the Sen-Yates-Grundy estimate, as ConditionalPoisson(), Sampford() and
        Brewer() do, got Pivotal(shuffle=False); ApproximateVariance() serves any
    """

    exact: ClassVar[bool] = True

    def check(self, design: Design) -> None:
        """Refuse a design in which some pairs never meet."""
        super().check(design)
        if not isinstance(design, _PAIRS_MEET):
            raise ValueError(
                "design must let all pairs meet for the Sen-Yates-Grundy estimate, as ConditionalPoisson(), Sampford() and "
                f"Brewer() do, got {design}; ApproximateVariance() serves any"
            )

    def estimate(self, values: Tensor, sample: Tensor, probs: Tensor, design: Design, k: Tensor) -> Tensor:
        """See :func:`~sparsek.functional.pooling.sen_yates_grundy`."""
        return sen_yates_grundy(values, sample, probs, design.joint(probs, k=k))


@dataclass(frozen=True)
class ApproximateVariance(VarianceEstimate):
    """An approximation from π alone, for any design of fixed size; not unbiased.

    Example:
        >>> from sparsek.nn import ApproximateVariance
        >>> ApproximateVariance().exact
        False
    """

    exact: ClassVar[bool] = False

    def estimate(self, values: Tensor, sample: Tensor, probs: Tensor, design: Design, k: Tensor) -> Tensor:
        """See :func:`~sparsek.functional.pooling.fixed_size_variance`."""
        return fixed_size_variance(values, sample, probs)


def default_variance(design: Design) -> VarianceEstimate:
    """The exact estimate where there is one."""
    return SenYatesGrundy() if isinstance(design, _PAIRS_MEET) else ApproximateVariance()
