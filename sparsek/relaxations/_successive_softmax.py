"""Successive softmax as an object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsek._validation import check_positive
from sparsek.functional import successive_softmax

from ._relaxation import Relaxation


@dataclass(frozen=True)
class SuccessiveSoftmax(Relaxation):
    r"""The sum of k softmaxes in succession. See :func:`sparsek.functional.successive_softmax`.

    It sums to k, but entries can exceed 1: not on the capped simplex, no inclusion probabilities. Whole k only.

    Args:
        temperature: T > 0; towards 0 the result is hard top-k.

    Raises:
        ValueError: If `temperature` is not finite and above 0.

    Example:
        >>> SuccessiveSoftmax(temperature=2.0)(torch.tensor([3.0, 0.0, 0.0]), 2)
        tensor([1.2665, 0.3667, 0.3667])

    References:
        Plötz, Roth, 2018, "Neural Nearest Neighbors Networks", https://arxiv.org/abs/1810.12575
        Xie, Ermon, 2019, "Reparameterizable Subset Sampling via Continuous Relaxations",
        https://arxiv.org/abs/1901.10517
    """

    temperature: float = 1.0

    on_capped_simplex: ClassVar[bool] = False
    real_k: ClassVar[bool] = False

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
        """Apply :func:`sparsek.functional.successive_softmax`."""
        return successive_softmax(input, k, dim, temperature=self.temperature, mask=mask)
