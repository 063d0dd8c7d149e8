"""LapSum as an object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsek._validation import check_positive
from sparsek.functional import lapsum_topk

from ._relaxation import Relaxation


@dataclass(frozen=True)
class LapSum(Relaxation):
    r"""A Laplace distribution function whose shift makes the sum k. See :func:`sparsek.functional.lapsum_topk`.

    Args:
        scale: Width of the transition, > 0; towards 0 the result is hard top-k.

    Raises:
        ValueError: If `scale` is not finite and above 0.

    Example:
        >>> LapSum()(torch.tensor([2.0, 1.0, 0.0, -1.0]), 2)
        tensor([0.8884, 0.6967, 0.3033, 0.1116])

    References:
        Struski, Bednarczyk, Podolak, Tabor, 2025, "LapSum - One Method to Differentiate Them All: Ranking, Sorting and
        Top-k Selection", https://arxiv.org/abs/2503.06242
    """

    scale: float = 1.0

    on_capped_simplex: ClassVar[bool] = True
    real_k: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_positive("scale", self.scale)

    def __call__(
        self,
        input: Tensor,
        k: float | Tensor,
        dim: int = -1,
        mask: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Apply :func:`sparsek.functional.lapsum_topk`."""
        return lapsum_topk(input, k, dim, scale=self.scale, mask=mask)
