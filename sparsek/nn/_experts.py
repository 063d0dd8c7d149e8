"""The experts of a mixture, as stacked weights, applied to tokens that are sorted by expert."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def grouped_linear(input: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    """Multiply each expert's rows with its matrix by a matmul per expert, in any dtype on any device.

    Over `weight.unbind(0)`, whose backward stacks the gradients once; the backward of indexing would make a zero tensor
    of the full size per expert, quadratic in their number.
    """
    groups = input.split(counts.tolist())
    return torch.cat([rows @ matrix for rows, matrix in zip(groups, weight.unbind(0), strict=True)])


def grouped_linear_fused(input: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    """The same by one `torch.nn.functional.grouped_mm`, which never copies the counts to the host."""
    offsets = counts.cumsum(0).to(torch.int32)
    return nn.functional.grouped_mm(input, weight, offs=offsets)


def fused_applies(input: Tensor, weight: Tensor) -> bool:
    """Whether the fused product is there and takes these: bfloat16 on CUDA, rows a multiple of 16 bytes.

    On a CPU it exists but is slower than the loop.
    """
    return (
        hasattr(nn.functional, "grouped_mm")
        and input.is_cuda
        and input.dtype == weight.dtype == torch.bfloat16
        and all(size * input.element_size() % 16 == 0 for size in weight.shape[1:])
    )


class Experts(nn.Module):
    r"""E two-layer networks $f_e(x) = \phi(x U_e) D_e$ with stacked weights.

    Shape:
        - input: (N, d_model), rows sorted by expert.
        - counts: (E,) int64, rows of each expert, summing to N.
        - output: (N, d_model).

    Args:
        d_model: Width of a token.
        d_hidden: Hidden width of one expert.
        num_experts: Number of experts.
        activation: φ; by default `GELU`.
    """

    def __init__(self, d_model: int, d_hidden: int, num_experts: int, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.randn(num_experts, d_model, d_hidden) * d_model**-0.5)
        self.down = nn.Parameter(torch.randn(num_experts, d_hidden, d_model) * d_hidden**-0.5)
        self.activation = nn.GELU() if activation is None else activation

    def forward(self, input: Tensor, counts: Tensor) -> Tensor:
        """Apply every expert to its rows."""
        up, down = self._weights(input)
        linear = grouped_linear_fused if fused_applies(input, up) else grouped_linear
        hidden: Tensor = self.activation(linear(input, up, counts))
        return linear(hidden, down, counts)

    def _weights(self, input: Tensor) -> tuple[Tensor, Tensor]:
        return self.up.to(input.dtype), self.down.to(input.dtype)
