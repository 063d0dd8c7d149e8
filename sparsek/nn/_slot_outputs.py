"""What a router may see of the experts of one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class SlotOutputs(NamedTuple):
    """The outputs of one call in the order of experts, and the experts themselves: an :class:`ExpertOutputs`."""

    experts: Callable[[Tensor, Tensor], Tensor]
    """Rows sorted by expert (N, d_model) and rows per expert (experts,) to outputs (N, d_model)."""
    tokens: Tensor
    """(T, d_model)."""
    outputs: Tensor
    """(N, d_model): the unweighted outputs of all slots that ran, sorted by expert."""
    counts: Tensor
    """(experts,) int64: how many rows of `outputs` each expert has."""

    @torch.no_grad()
    def sums(self) -> tuple[Tensor, Tensor]:
        """The sum of the outputs of each expert over its slots, (experts, d_model), float32 at least, and their numbers."""
        outputs = self.outputs.to(torch.promote_types(self.outputs.dtype, torch.float32))
        expert = torch.arange(len(self.counts), device=outputs.device).repeat_interleave(self.counts)
        return outputs.new_zeros(len(self.counts), outputs.shape[-1]).index_add(0, expert, outputs), self.counts

    @torch.no_grad()
    def scores(self, direction: Tensor) -> Tensor:
        """Scores of every token with every expert, (T, experts): one expert after the other on all tokens."""
        columns = []
        for expert in range(len(self.counts)):
            counts = torch.zeros_like(self.counts)
            counts[expert] = len(self.tokens)
            outputs = self.experts(self.tokens, counts)
            columns.append((outputs.to(direction.dtype) * direction).sum(-1))
        return torch.stack(columns, -1)
