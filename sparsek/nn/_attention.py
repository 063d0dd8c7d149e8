"""Causal self-attention with rotary positions."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def rotate(input: Tensor, base: float = 10_000.0) -> Tensor:
    r"""Turn each pair of channels $(i, i + d/2)$ at position t by the angle $t \cdot \text{base}^{-2i/d}$.

    Scores of queries and keys turned so depend on the difference of their positions only.

    Shape:
        - input: (..., length, d), d even.
        - output: the shape of `input`.

    References:
        Su et al., 2021, "RoFormer: Enhanced Transformer with Rotary Position Embedding",
        https://arxiv.org/abs/2104.09864
    """
    length, width = input.shape[-2:]
    exponents = torch.arange(0, width, 2, device=input.device, dtype=torch.float32) / width
    angles = torch.arange(length, device=input.device, dtype=torch.float32)[:, None] * base**-exponents
    cos, sin = angles.cos().to(input.dtype), angles.sin().to(input.dtype)
    left, right = input.chunk(2, dim=-1)
    return torch.cat([left * cos - right * sin, left * sin + right * cos], dim=-1)


class CausalSelfAttention(nn.Module):
    """Multi-head attention of each position to itself and earlier ones, by `scaled_dot_product_attention`.

    Shape:
        - input, output: (batch, length, d_model).

    Args:
        d_model: Width; a multiple of `2 * num_heads`.
        num_heads: Number of heads.

    Raises:
        ValueError: If the width does not divide.
    """

    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        if num_heads < 1 or d_model % (2 * num_heads):
            raise ValueError(f"d_model must be a multiple of 2 * num_heads = {2 * num_heads}, got {d_model}")
        self.num_heads = num_heads
        self.project_in = nn.Linear(d_model, 3 * d_model, bias=False)
        self.project_out = nn.Linear(d_model, d_model, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        """Attend."""
        split = self.project_in(input).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = split.transpose(1, 3).unbind(2)  # (batch, heads, length, channels) each
        mixed = nn.functional.scaled_dot_product_attention(rotate(query), rotate(key), value, is_causal=True)
        output: Tensor = self.project_out(mixed.transpose(1, 2).flatten(-2))
        return output
