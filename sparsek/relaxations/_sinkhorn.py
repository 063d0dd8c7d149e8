"""Top-k by optimal transport as an object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsek._validation import check_positive
from sparsek.functional import sinkhorn_topk

from ._relaxation import Relaxation


@dataclass(frozen=True)
class Sinkhorn(Relaxation):
    r"""Entropic optimal transport of the scores to the anchors 0 and 1. See :func:`sparsek.functional.sinkhorn_topk`.

    Args:
        epsilon: Weight of the entropy, > 0. The result is that of sigmoid top-k at temperature `epsilon / 2`.

    Raises:
        ValueError: If `epsilon` is not finite and above 0.

    Example:
        >>> Sinkhorn(epsilon=2.0)(torch.tensor([2.0, 1.0, 0.0, -1.0]), 2)
        tensor([0.8176, 0.6225, 0.3775, 0.1824])

    References:
        Xie, Dai, Chen, Dai, Zhao, Zha, Wei, Pfister, 2020, "Differentiable Top-k with Optimal Transport",
        https://arxiv.org/abs/2002.06504
    """

    epsilon: float = 0.1

    on_capped_simplex: ClassVar[bool] = True
    real_k: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_positive("epsilon", self.epsilon)

    def __call__(
        self,
        input: Tensor,
        k: float | Tensor,
        dim: int = -1,
        mask: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Apply :func:`sparsek.functional.sinkhorn_topk`."""
        return sinkhorn_topk(input, k, dim, epsilon=self.epsilon, mask=mask)
