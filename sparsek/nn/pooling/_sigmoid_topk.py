"""Attention in which no token takes more than 1/k."""

from __future__ import annotations

from torch import Tensor

from sparsek._validation import check_positive
from sparsek.functional.pooling import sigmoid_topk_weights

from ._attention import AttentionPool
from ._empty import EmptyPolicy
from ._pooling import _ZERO
from ._topk_mean import Size


class SigmoidTopKPool(AttentionPool):
    r"""Attention of one learnt query with sigmoid top-k in place of softmax.

    $$w = σ_k\big(⟨q, x_t⟩/(T \sqrt D)\big)/k,$$

    so that no token takes more than 1/k. k = n is the mean. See :func:`~sparsek.functional.pooling.sigmoid_topk_weights`.

    Args:
        dim: D, dimension of a token.
        k: How many tokens share the weight, at least 1; may be real. Above the number of kept tokens it is that number.
        fraction: In place of k: a fraction of the kept tokens, in (0, 1].
        learnable: Whether k, or the fraction, is a parameter.
        temperature: T > 0.
        empty: What to return for a row without a token, see :class:`Pooling`.

    Raises:
        ValueError: If an argument is out of range, or not exactly one of k and fraction is given.

    Example:
        >>> import torch
        >>> from sparsek.nn import SigmoidTopKPool
        >>> pool = SigmoidTopKPool(1, k=2)
        >>> _ = pool.query.data.fill_(2.0)
        >>> pool(torch.tensor([[[9.0], [1.0], [-1.0], [-2.0]]]), return_weights=True).weights.detach()
        tensor([[0.5000, 0.4361, 0.0556, 0.0083]])
    """

    def __init__(
        self,
        dim: int,
        k: float | None = None,
        *,
        fraction: float | None = None,
        learnable: bool = False,
        temperature: float = 1.0,
        empty: EmptyPolicy = _ZERO,
    ) -> None:
        super().__init__(dim, empty=empty)
        check_positive("temperature", temperature)
        self.size = Size(k, fraction, learnable)
        self.temperature = temperature

    def weights(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Probabilities over k, (B, T)."""
        size: float | Tensor = self.size(x, mask)
        return sigmoid_topk_weights(self.scores(x), size, mask, temperature=self.temperature)

    def extra_repr(self) -> str:
        """Return the arguments."""
        return f"temperature={self.temperature:g}"
