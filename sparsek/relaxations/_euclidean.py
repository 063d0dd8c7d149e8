"""Euclidean projection as an object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsek.functional import project_capped_simplex

from ._relaxation import Relaxation


@dataclass(frozen=True)
class Euclidean(Relaxation):
    r"""The Euclidean projection on the capped simplex: sparse. See :func:`sparsek.functional.project_capped_simplex`.

    Example:
        >>> Euclidean()(torch.tensor([1.5, 0.5, 0.25, -2.0]), 2)
        tensor([1.0000, 0.6250, 0.3750, 0.0000])

    References:
        Martins, Astudillo, 2016, "From Softmax to Sparsemax" (k = 1), https://arxiv.org/abs/1602.02068
        Wang, Lu, 2015, "Projection onto the capped simplex", https://arxiv.org/abs/1503.01002
    """

    on_capped_simplex: ClassVar[bool] = True
    real_k: ClassVar[bool] = True

    def __call__(
        self,
        input: Tensor,
        k: float | Tensor,
        dim: int = -1,
        mask: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Apply :func:`sparsek.functional.project_capped_simplex`."""
        return project_capped_simplex(input, k, dim, mask=mask)
