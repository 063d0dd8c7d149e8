"""An embedding of a symbol together with the few before it."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ContextEmbedding(nn.Module):
    r"""$e_t = \sum_{j=0}^{w-1} E_j[x_{t-j}]$: one table for the symbol and one for each of the $w - 1$ before it.

    A causal convolution over one-hot symbols, computed by lookups. It hands a small model the short n-grams that its
    first attention layer would have to find. Positions before the start of the row count as symbol 0.

    Shape:
        - tokens: (batch, length), int64 in [0, vocabulary − 1]; or (batch, length, vocabulary), laws over symbols, whose
          embedding is the mean.
        - output: (batch, length, d_model).

    Args:
        vocabulary: Number of symbols.
        d_model: Width.
        width: Number of symbols w that one embedding sees, at least 1; 1 is an ordinary embedding.

    Raises:
        ValueError: If `width` is below 1.

    Example:
        >>> ContextEmbedding(256, 16, width=4)(torch.zeros(2, 5, dtype=torch.long)).shape
        torch.Size([2, 5, 16])
    """

    def __init__(self, vocabulary: int, d_model: int, width: int = 4) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"width must be at least 1, got {width}")
        self.tables = nn.ModuleList(nn.Embedding(vocabulary, d_model) for _ in range(width))
        for weight in self.tables.parameters():
            nn.init.normal_(weight, std=width**-0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        """Embed."""
        if tokens.is_floating_point():
            return self._mean(tokens)
        length = tokens.shape[-1]
        shifted = [table(nn.functional.pad(tokens, (j, 0))[..., :length]) for j, table in enumerate(self.tables)]
        return torch.stack(shifted).sum(0)

    def _mean(self, laws: Tensor) -> Tensor:
        length, vocabulary = laws.shape[-2:]
        start = nn.functional.one_hot(laws.new_zeros(len(self.tables) - 1, dtype=torch.long), vocabulary).to(laws.dtype)
        laws = torch.cat((start.expand(*laws.shape[:-2], -1, -1), laws), -2)
        weights = [weight.to(laws.dtype) for weight in reversed([*self.parameters()])]
        return torch.stack([laws[..., j : j + length, :] @ weight for j, weight in enumerate(weights)]).sum(0)
