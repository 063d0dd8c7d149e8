"""Mean of the k largest."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from sparsek.functional.pooling import share_of_length, topk_mean_pool, topk_mean_weights

from ._empty import EmptyPolicy
from ._pooling import _ZERO, Pooling


class Size(nn.Module):
    """How many tokens of a row are taken: k, or a fraction of its kept tokens; fixed or learnt.

    A k outside [1, n] is taken as the nearer limit by the poolings, with the one-sided derivative there, so a learnt one comes back.

    Args:
        k: At least 1; may be real.
        fraction: In (0, 1]: k is the fraction of the kept tokens, but at least 1.
        learnable: Whether k, or the fraction, is a parameter.

    Raises:
        ValueError: If not exactly one of k and fraction is given, or it is out of range.
    """

    value: float | Tensor

    def __init__(self, k: float | None, fraction: float | None, learnable: bool) -> None:
        super().__init__()
        if (k is None) == (fraction is None):
            raise ValueError(f"exactly one of k and fraction must be given, got k={k!r} and fraction={fraction!r}")
        if k is not None and (isinstance(k, bool) or not isinstance(k, int | float) or not 1 <= k < math.inf):
            raise ValueError(f"k must be a finite number >= 1, got {k!r}")
        if fraction is not None and not 0 < fraction <= 1:
            raise ValueError(f"fraction must lie in (0, 1], got {fraction!r}")
        value = k if k is not None else fraction
        assert value is not None, "one of them is given"
        self.relative = fraction is not None
        self.value = nn.Parameter(torch.tensor(float(value))) if learnable else value

    def forward(self, x: Tensor, mask: Tensor | None) -> float | Tensor:
        """Return k of each row of the tokens (B, T, D)."""
        return share_of_length(self.value, x, mask) if self.relative else self.value

    def extra_repr(self) -> str:
        """Return the arguments."""
        value = self.value.item() if isinstance(self.value, Tensor) else self.value
        return f"{'fraction' if self.relative else 'k'}={value:g}, learnable={isinstance(self.value, Tensor)}"


class TopKMeanPool(Pooling):
    """Mean of the k largest values of every dimension, or of the k longest tokens. See :func:`~sparsek.functional.pooling.topk_mean_pool`.

    Between the maximum (k = 1) and the mean (k = n), and exactly these at the ends. k may be real and may be learnt: the output is
    continuous in it and has an exact derivative. A k above the number of kept tokens is taken as that number. Weights: 1/k at what
    is selected.

    Args:
        k: How many, at least 1.
        fraction: In place of k: a fraction of the kept tokens, in (0, 1].
        learnable: Whether k, or the fraction, is a parameter.
        per: "dim": every dimension chooses its own; "token": tokens with the largest Euclidean norm are taken whole.
        empty: What to return for a row without a token, see :class:`Pooling`.

    Raises:
        ValueError: If an argument is out of range, or not exactly one of k and fraction is given.

    Example:
        >>> import torch
        >>> from sparsek.nn import TopKMeanPool
        >>> x = torch.tensor([[[1.0, 0.0], [4.0, 1.0], [2.0, 6.0], [0.0, 1.0]]])
        >>> TopKMeanPool(2)(x), TopKMeanPool(2, per="token")(x)
        (tensor([[3.0000, 3.5000]]), tensor([[3.0000, 3.5000]]))
        >>> TopKMeanPool(fraction=0.75)(x)
        tensor([[2.3333, 2.6667]])
    """

    def __init__(
        self,
        k: float | None = None,
        *,
        fraction: float | None = None,
        learnable: bool = False,
        per: Literal["dim", "token"] = "dim",
        empty: EmptyPolicy = _ZERO,
    ) -> None:
        super().__init__(empty=empty)
        if per not in ("dim", "token"):
            raise ValueError(f'per must be "dim" or "token", got {per!r}')
        self.size = Size(k, fraction, learnable)
        self.per = per

    def pool(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Pool (B, T, D) to (B, D)."""
        return topk_mean_pool(x, self._k(x, mask), mask, scores=self._scores(x))

    def weights(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """1/k at the selected values, (B, T, D), or tokens, (B, T)."""
        return topk_mean_weights(x, self._k(x, mask), mask, scores=self._scores(x))

    def _k(self, x: Tensor, mask: Tensor | None) -> float | Tensor:
        size: float | Tensor = self.size(x, mask)
        return size

    def _scores(self, x: Tensor) -> Tensor | None:
        return x.detach().norm(dim=-1) if self.per == "token" else None

    def extra_repr(self) -> str:
        """Return the arguments."""
        return f"per={self.per!r}"
