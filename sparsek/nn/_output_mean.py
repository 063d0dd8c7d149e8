"""The running mean output of every expert."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class OutputMean(nn.Module):
    r"""An exponential mean over optimizer steps of each expert's output, unbiased from the first step on.

    $v \leftarrow \beta v + (1 - \beta)$, $m \leftarrow m + \tfrac{1 - \beta}{v} (\bar f - m)$ for the experts that ran
    in this step; the others stay. Zero before an expert's first step.

    Args:
        num_experts: Number of experts.
        d_model: Width of an output.
        decay: β, in [0, 1).

    Attributes:
        mean: (num_experts, d_model) buffer, saved.
        mass: (num_experts,) buffer, saved: v.
    """

    mean: Tensor
    mass: Tensor

    def __init__(self, num_experts: int, d_model: int, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("mean", torch.zeros(num_experts, d_model))
        self.register_buffer("mass", torch.zeros(num_experts))

    def forward(self, weights: Tensor) -> Tensor:
        """Add up the means with weights (..., num_experts)."""
        return weights @ self.mean.to(weights.dtype)

    @torch.no_grad()
    def update(self, total: Tensor, count: Tensor) -> None:
        """Move by the sums (num_experts, d_model) of the outputs of one step and their numbers (num_experts,)."""
        ran = count > 0
        mass = torch.where(ran, self.decay * self.mass + (1 - self.decay), self.mass)
        step = ((1 - self.decay) / mass.masked_fill(~ran, 1) * ran)[:, None]
        recent = (total / count.clamp_min(1)[:, None]).to(self.mean.dtype)
        self.mean += step * (recent - self.mean)
        self.mass.copy_(mass)
