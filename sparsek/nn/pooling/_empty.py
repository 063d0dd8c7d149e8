"""What a pooling returns for a row without a token: one small class per policy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsek._validation import values_visible


class EmptyPolicy(ABC):
    """What to return for rows without a token."""

    @abstractmethod
    def answer(self, output: Tensor, empty: Tensor) -> Tensor:
        """The output with the answer of the empty rows.

        Args:
            output: (B, D), 0 without gradient in empty rows.
            empty: (B,), True where a row has no token.
        """


@dataclass(frozen=True)
class ZeroIfEmpty(EmptyPolicy):
    """Zeros, with gradient 0.

    Example:
        >>> import torch
        >>> from sparsek.nn import MeanPool, ZeroIfEmpty
        >>> MeanPool(empty=ZeroIfEmpty())(torch.ones(1, 2, 3), mask=torch.zeros(1, 2, dtype=torch.bool))
        tensor([[0., 0., 0.]])
    """

    def answer(self, output: Tensor, empty: Tensor) -> Tensor:
        """The output as it is."""
        return output


@dataclass(frozen=True)
class NanIfEmpty(EmptyPolicy):
    """NaN, with gradient 0.

    Example:
        >>> import torch
        >>> from sparsek.nn import MeanPool, NanIfEmpty
        >>> MeanPool(empty=NanIfEmpty())(torch.ones(1, 2, 3), mask=torch.zeros(1, 2, dtype=torch.bool))
        tensor([[nan, nan, nan]])
    """

    def answer(self, output: Tensor, empty: Tensor) -> Tensor:
        """NaN in the empty rows."""
        return output.masked_fill(empty.unsqueeze(-1), torch.nan)


@dataclass(frozen=True)
class RaiseIfEmpty(EmptyPolicy):
    """`ValueError` where values are visible (eager mode), NaN otherwise.

    Example:
        >>> import torch
        >>> from sparsek.nn import MeanPool, RaiseIfEmpty
        >>> MeanPool(empty=RaiseIfEmpty())(torch.ones(1, 2, 3), mask=torch.zeros(1, 2, dtype=torch.bool))
        Traceback (most recent call last):
        ...
        ValueError: x must have a token in every row, got 1 row(s) of 1 without
    """

    def answer(self, output: Tensor, empty: Tensor) -> Tensor:
        """The output as it is, if no row is empty."""
        if values_visible(empty) and bool(empty.any()):
            raise ValueError(f"x must have a token in every row, got {int(empty.sum())} row(s) of {len(empty)} without")
        return NanIfEmpty().answer(output, empty)
