"""Sigmoid top-k as an object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsek._validation import check_positive
from sparsek.functional import sigmoid_topk

from ._relaxation import Relaxation


@dataclass(frozen=True)
class SigmoidTopK(Relaxation):
    r"""Sigmoid top-k: $σ((x - τ)/T)$ with τ such that the sum is k. See :func:`sparsek.functional.sigmoid_topk`.

    Args:
        temperature: T > 0; towards 0 the result is hard top-k, towards infinity k/n.
        hard: Whether the value is hard top-k and only the gradient that of the relaxation.

    Raises:
        ValueError: If `temperature` is not finite and above 0.

    Example:
        >>> SigmoidTopK(temperature=0.5)(torch.tensor([2.0, 1.0, 0.0, -1.0]), 2)
        tensor([0.9526, 0.7311, 0.2689, 0.0474])

    References:
        Wijk, Vinuesa, Azizpour, 2025, "Differentiable Top-k: From One-Hot to k-Hot",
        https://openreview.net/forum?id=VMlajIH1oF
        Amos, Koltun, Kolter, 2019, "The Limited Multi-Label Projection Layer", https://arxiv.org/abs/1906.08707
    """

    temperature: float = 1.0
    hard: bool = False

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
        """Apply :func:`sparsek.functional.sigmoid_topk`."""
        return sigmoid_topk(input, k, dim, temperature=self.temperature, mask=mask, hard=self.hard)
