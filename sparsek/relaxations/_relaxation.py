"""The contract of a top-k relaxation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor


class Relaxation(ABC):
    """A map from scores to k "soft picks": an immutable object over one function of :mod:`sparsek.functional`.

    Facts, on the class, that a user or a module asks before combining it with a design or an estimator:

    Attributes:
        on_capped_simplex: Whether every output lies in $[0, 1]^n$ and sums to k: can be inclusion probabilities.
        real_k: Whether k may be a real number (otherwise only whole numbers have a meaning).
        stochastic: Whether the output is random, drawn from the `generator`.
    """

    on_capped_simplex: ClassVar[bool]
    real_k: ClassVar[bool]
    stochastic: ClassVar[bool] = False

    @abstractmethod
    def __call__(
        self,
        input: Tensor,
        k: float | Tensor,
        dim: int = -1,
        mask: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Relax "the k largest of `input` along `dim`".

        Shape:
            - input: any shape, units along `dim`.
            - output: the shape of `input`.

        Args:
            input: Free scores.
            k: Number of units to pick: a number in [0, n], or a tensor that broadcasts over the batch.
            dim: Dimension of the units.
            mask: True = keep; masked units get exactly 0. Broadcasts to `input`.
            generator: Source of randomness; only stochastic relaxations read it.
        """
