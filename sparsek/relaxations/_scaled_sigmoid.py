"""The scaled sigmoid as an object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsek._validation import check_positive
from sparsek.functional import scaled_sigmoid

from ._relaxation import Relaxation


@dataclass(frozen=True)
class ScaledSigmoid(Relaxation):
    r"""Sigmoids scaled to sum to k. See :func:`sparsek.functional.scaled_sigmoid`.

    On the capped simplex, but not invariant to a constant added to the scores.

    Args:
        temperature: T > 0, divides the scores.

    Raises:
        ValueError: If `temperature` is not finite and above 0.

    Example:
        >>> ScaledSigmoid()(torch.tensor([2.0, 1.0, 0.0, -1.0]), 2)
        tensor([0.7399, 0.6141, 0.4200, 0.2259])

    References:
        Pervez, Lippe, Gavves, 2023, "Scalable Subset Sampling with Neural Conditional Poisson Networks",
        https://openreview.net/forum?id=p8hMBcPtvju
    """

    temperature: float = 1.0

    on_capped_simplex: ClassVar[bool] = True
    real_k: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_positive("temperature", self.temperature)

    def __call__(
        self,
        input: Tensor,
        k: float | Tensor,
        dim: int = -1,
        mask: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Apply :func:`sparsek.functional.scaled_sigmoid`."""
        return scaled_sigmoid(input, k, dim, temperature=self.temperature, mask=mask)
