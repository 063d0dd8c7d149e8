"""Poolings without parameters: mean, maximum, first and last token, log-sum-exp."""

from __future__ import annotations

from torch import Tensor

from sparsek._validation import check_positive
from sparsek.functional.pooling import (
    first_pool,
    last_pool,
    log_sum_exp_pool,
    log_sum_exp_weights,
    max_pool,
    max_weights,
    mean_pool,
    mean_sqrt_len_pool,
    mean_weights,
    position_weights,
)
from sparsek.functional.pooling._tokens import count

from ._empty import EmptyPolicy
from ._pooling import _ZERO, Pooling


class MeanPool(Pooling):
    """Mean of the kept tokens; on a feature map, global average pooling. See :func:`~sparsek.functional.pooling.mean_pool`.

    Weights: 1/n at each of the n kept tokens.

    Args:
        empty: What to return for a row without a token, see :class:`Pooling`.

    Example:
        >>> import torch
        >>> from sparsek.nn import MeanPool
        >>> tokens = torch.tensor([[[0.6, 0.4], [0.8, 0.2], [0.3, 0.7], [0.1, 0.05]]])
        >>> MeanPool()(tokens, mask=torch.tensor([[True, True, True, False]]))
        tensor([[0.5667, 0.4333]])
    """

    def pool(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Pool (B, T, D) to (B, D)."""
        return mean_pool(x, mask)

    def weights(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """1/n, (B, T)."""
        return mean_weights(x, mask)


class MeanSqrtLenPool(Pooling):
    """Sum of the kept tokens over the root of their number. See :func:`~sparsek.functional.pooling.mean_sqrt_len_pool`.

    Weights: 1/√n at each of the n kept tokens.

    Args:
        empty: What to return for a row without a token, see :class:`Pooling`.

    Example:
        >>> import torch
        >>> from sparsek.nn import MeanSqrtLenPool
        >>> MeanSqrtLenPool()(torch.ones(1, 4, 2))
        tensor([[2., 2.]])
    """

    def pool(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Pool (B, T, D) to (B, D)."""
        return mean_sqrt_len_pool(x, mask)

    def weights(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """1/√n, (B, T)."""
        return mean_weights(x, mask) * count(x, mask) ** 0.5


class MaxPool(Pooling):
    """Largest kept value of every dimension. See :func:`~sparsek.functional.pooling.max_pool`.

    Weights: 1 at the winner of each dimension, the first of equal ones.

    Args:
        empty: What to return for a row without a token, see :class:`Pooling`.

    Example:
        >>> import torch
        >>> from sparsek.nn import MaxPool
        >>> MaxPool()(torch.tensor([[[1.0, 6.0], [3.0, 2.0]]]), return_weights=True)
        Pooled(output=tensor([[3., 6.]]), weights=tensor([[[0., 1.],
                 [1., 0.]]]))
    """

    def pool(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Pool (B, T, D) to (B, D)."""
        return max_pool(x, mask)

    def weights(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """1 at the winners, (B, T, D)."""
        return max_weights(x, mask)


class ClsPool(Pooling):
    """The first kept token, whichever side is padded. See :func:`~sparsek.functional.pooling.first_pool`.

    For encoders that train a [CLS] token; of any other it is the view of one token.

    Args:
        empty: What to return for a row without a token, see :class:`Pooling`.

    Example:
        >>> import torch
        >>> from sparsek.nn import ClsPool
        >>> ClsPool()(torch.tensor([[[1.0], [2.0], [3.0]]]), mask=torch.tensor([[False, True, True]]))
        tensor([[2.]])
    """

    def pool(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Pool (B, T, D) to (B, D)."""
        return first_pool(x, mask)

    def weights(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """1 at the first kept token, (B, T)."""
        return position_weights(x, mask, first=True)


class LastTokenPool(Pooling):
    """The last kept token, whichever side is padded. See :func:`~sparsek.functional.pooling.last_pool`.

    For causal models, where only the last token has seen all others.

    Args:
        empty: What to return for a row without a token, see :class:`Pooling`.

    Example:
        >>> import torch
        >>> from sparsek.nn import LastTokenPool
        >>> LastTokenPool()(torch.tensor([[[1.0], [2.0], [3.0]]]), mask=torch.tensor([[True, True, False]]))
        tensor([[2.]])
    """

    def pool(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Pool (B, T, D) to (B, D)."""
        return last_pool(x, mask)

    def weights(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """1 at the last kept token, (B, T)."""
        return position_weights(x, mask, first=False)


class LogSumExpPool(Pooling):
    """Smooth maximum of every dimension. See :func:`~sparsek.functional.pooling.log_sum_exp_pool`.

    Weights: the share of each token in the sum of exponentials, which is its share of the gradient.

    Args:
        temperature: τ > 0.
        normalised: Whether to divide the sum by the number of tokens: between mean and maximum, whatever the length.
        empty: What to return for a row without a token, see :class:`Pooling`.

    Raises:
        ValueError: If the temperature is not above 0.

    Example:
        >>> import torch
        >>> from sparsek.nn import LogSumExpPool
        >>> LogSumExpPool()(torch.zeros(1, 2, 1))
        tensor([[0.6931]])
    """

    def __init__(self, temperature: float = 1.0, *, normalised: bool = False, empty: EmptyPolicy = _ZERO) -> None:
        super().__init__(empty=empty)
        check_positive("temperature", temperature)
        self.temperature = temperature
        self.normalised = normalised

    def pool(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Pool (B, T, D) to (B, D)."""
        return log_sum_exp_pool(x, mask, temperature=self.temperature, normalised=self.normalised)

    def weights(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Softmax along the tokens, (B, T, D)."""
        return log_sum_exp_weights(x, mask, temperature=self.temperature)

    def extra_repr(self) -> str:
        """Return the arguments."""
        return f"temperature={self.temperature:g}, normalised={self.normalised}"
