"""Expert choice: experts take tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsek._validation import check_positive

from ._gate import Gate
from ._routing import rows_of
from ._selection import Selection, padded


@dataclass(frozen=True)
class ExpertChoice(Selection):
    r"""Every expert takes the $c = \lceil \text{factor} \cdot T k / E \rceil$ tokens with the largest marginals, of T.

    The load is even by construction; a token gets from 0 to E experts (k of them on average), so the width of the
    indices is the most experts of any token, filled up with −1. Ties go to the earlier token. Padding is never taken
    and does not count in T; c is at most T.

    **Not causal**: whether a token is taken depends on all tokens of the call, later ones and other sequences included,
    in training and in evaluation. A language model trained with it reads its future through the selection, and its
    bits per byte are not comparable with those of causal models. Use it for encoders.

    Args:
        factor: Capacity factor, above 0.

    Example:
        >>> import torch
        >>> from sparsek.nn import Router
        >>> router = Router(4, num_experts=3, k=1, selection=ExpertChoice())
        >>> router(torch.randn(6, 4)).stats["load"]
        tensor([2, 2, 2])

    References:
        Zhou et al., 2022, "Mixture-of-Experts with Expert Choice Routing", https://arxiv.org/abs/2202.09368
    """

    factor: float = 1.0

    causal: ClassVar[bool] = False
    uses_bias: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_positive("factor", self.factor)

    def check(self, gate: Gate, k: int) -> None:
        """Refuse normalised weights: those of a token with one expert would be constant."""
        if getattr(gate, "normalise", False):
            raise ValueError(
                "gate must have normalise = False under expert choice: a token that one expert takes would have "
                f"the constant weight 1, got {gate}"
            )

    def __call__(
        self,
        scores: Tensor,
        marginals: Tensor,
        k: int,
        *,
        mask: Tensor,
        training: bool,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Let every expert take its tokens."""
        return padded(self._taken(rows_of(marginals), mask.flatten(), k).view(marginals.shape))

    def _taken(self, marginals: Tensor, mask: Tensor, k: int) -> Tensor:
        """(T, E) bool: which expert takes which token."""
        tokens = int(mask.sum())
        capacity = min(math.ceil(self.factor * tokens * k / marginals.shape[-1] - 1e-9), tokens)
        by_expert = marginals.masked_fill(~mask[:, None], -1).T.contiguous()
        best = by_expert.sort(dim=-1, descending=True, stable=True).indices[:, :capacity]
        return torch.zeros_like(by_expert, dtype=torch.bool).scatter_(-1, best, True).T
