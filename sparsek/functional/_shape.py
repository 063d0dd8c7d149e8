"""The function of a relaxation that is solved row by row: what its solver and its derivative have to provide."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from ._reduction import WHOLE, Reduction

RESOLVED = {torch.float32: 1e-3, torch.float64: 2e-12}
"""Σd/k above which d, formed from the rounded π, still gives w."""


class Shape(ABC):
    """The function Φ of a relaxation: how to solve its rows, and its density."""

    name: ClassVar[str]
    across: Reduction = WHOLE

    @abstractmethod
    def solve(
        self, x: Tensor, k: float | Tensor, scale: float | Tensor, *, validate: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Probabilities (..., n) and float64 thresholds (..., 1); units that do not compete have x = -inf and get 0."""

    def probabilities(self, x: Tensor, k: float | Tensor, scale: float | Tensor, *, validate: bool = False) -> Tensor:
        """The probabilities alone, where nothing will be differentiated."""
        return self.solve(x, k, scale, validate=validate)[0]

    def fused_gradient(
        self,
        grad: Tensor,
        x: Tensor,
        k: float | Tensor,
        scale: float | Tensor,
        probs: Tensor,
        threshold: Tensor,
        *,
        scaled: bool,
    ) -> tuple[Tensor, Tensor, Tensor | None] | None:
        """∂L/∂x, ∂L/∂k and, if `scaled`, ∂L/∂s of each row from ∂L/∂π by one kernel, where there is one for these tensors."""
        return None

    @abstractmethod
    def density(self, probs: Tensor) -> Tensor:
        """Φ' where Φ = `probs`; 0 at 0 and 1."""

    @abstractmethod
    def limit(self, z: Tensor, probs: Tensor) -> Tensor:
        """The weights of rows whose density vanishes in working precision: a one-sided limit with sum 1."""


SHAPES: dict[str, Shape] = {}
"""The shapes by name: what an operator of a compiled graph can refer to."""
