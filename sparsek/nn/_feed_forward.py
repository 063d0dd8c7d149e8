"""The dense two-layer network."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FeedForward(nn.Module):
    r"""$f(x) = \phi(x U) D$: one expert that every token takes, as the `shared` part of a :class:`MixtureOfExperts`.

    n shared experts of hidden width h are one of width n·h, since their outputs are added.

    Shape:
        - input, output: (..., d_model).

    Args:
        d_model: Width of a token.
        d_hidden: Hidden width.
        activation: φ; by default `GELU`.

    Raises:
        ValueError: If a size is below 1.

    Example:
        >>> from sparsek.nn import FeedForward
        >>> FeedForward(4, 8)(torch.zeros(2, 3, 4)).shape
        torch.Size([2, 3, 4])

    References:
        Dai et al., 2024, "DeepSeekMoE", https://arxiv.org/abs/2401.06066
    """

    def __init__(self, d_model: int, d_hidden: int, activation: nn.Module | None = None) -> None:
        super().__init__()
        for name, size in (("d_model", d_model), ("d_hidden", d_hidden)):
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        self.up = nn.Parameter(torch.randn(d_model, d_hidden) * d_model**-0.5)
        self.down = nn.Parameter(torch.randn(d_hidden, d_model) * d_hidden**-0.5)
        self.activation = nn.GELU() if activation is None else activation

    def forward(self, input: Tensor) -> Tensor:
        """Apply."""
        hidden: Tensor = self.activation(input @ self.up)
        return hidden @ self.down
