"""Perturbed top-k as an object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsek._validation import check_positive
from sparsek.functional import perturbed_topk

from ._relaxation import Relaxation


@dataclass(frozen=True)
class Perturbed(Relaxation):
    r"""The mean of hard top-k over Gaussian noise on the scores. See :func:`sparsek.functional.perturbed_topk`.

    Args:
        samples: Number of draws, at least 1.
        sigma: Standard deviation of the noise, > 0.

    Raises:
        ValueError: If `samples` or `sigma` is out of range.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> Perturbed(samples=500)(torch.tensor([9.0, 1.0, 1.0, -9.0]), 2, generator=generator).round(decimals=1)
        tensor([1.0000, 0.5000, 0.5000, 0.0000])

    References:
        Berthet, Blondel, Teboul, Cuturi, Vert, Bach, 2020, "Learning with Differentiable Perturbed Optimizers",
        https://arxiv.org/abs/2002.08676
        Cordonnier, Mahendran, Dosovitskiy, Weissenborn, Uszkoreit, Unterthiner, 2021, "Differentiable Patch Selection
        for Image Recognition", https://arxiv.org/abs/2104.03059
    """

    samples: int = 100
    sigma: float = 1.0

    on_capped_simplex: ClassVar[bool] = True
    real_k: ClassVar[bool] = True
    stochastic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if isinstance(self.samples, bool) or not isinstance(self.samples, int) or self.samples < 1:
            raise ValueError(f"samples must be a whole number >= 1, got {self.samples}")
        check_positive("sigma", self.sigma)

    def __call__(
        self,
        input: Tensor,
        k: float | Tensor,
        dim: int = -1,
        mask: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Apply :func:`sparsek.functional.perturbed_topk`."""
        return perturbed_topk(input, k, dim, samples=self.samples, sigma=self.sigma, mask=mask, generator=generator)
