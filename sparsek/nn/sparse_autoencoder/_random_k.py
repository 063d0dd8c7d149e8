"""A random number of latents for every token."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from sparsek.functional import SparseCode

from ._latents import Latents, PreActivations, no_penalty
from ._selection import LatentSelection, SelectionContext, check_whole, check_width
from ._top_k import TopK


@dataclass(frozen=True)
class RandomK(LatentSelection):
    r"""A k for every token while training, drawn log-uniformly from [low, high]: the random-k baseline of :class:`NestedTopK`.

    Unbiased for the mean loss over that law of k at the cost of one decode, where :class:`NestedTopK` has fixed levels.

    Args:
        k: Latents of a token outside of training, at least 1.
        low: Least k, at least 1. Default: k/8, rounded up.
        high: Largest k. Default: 4k, cut to the dictionary.
        per_batch: Whether all tokens of a batch share one draw.

    References:
        Kusupati et al., 2022, "Matryoshka Representation Learning", https://arxiv.org/abs/2205.13147
    """

    k: int
    low: int | None = None
    high: int | None = None
    per_batch: bool = False

    def __post_init__(self) -> None:
        check_whole("k", self.k)
        for name, value in (("low", self.low), ("high", self.high)):
            if value is not None:
                check_whole(name, value)
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"low must be at most high, {self.high}, got {self.low}")

    def range(self, num_latents: int) -> tuple[int, int]:
        """Least and largest k for a dictionary of this size."""
        high = min(4 * self.k, num_latents) if self.high is None else self.high
        return math.ceil(self.k / 8) if self.low is None else self.low, high

    def check(self, num_latents: int) -> None:
        """Refuse fewer latents than the largest k."""
        low, high = self.range(num_latents)
        check_width("k", self.k, num_latents)
        check_width("high", high, num_latents)
        check_width("low", low, high)

    def __call__(self, scores: PreActivations, context: SelectionContext) -> Latents:
        """Activate a random number of the largest while training, k otherwise."""
        if not context.training:
            return TopK(self.k)(scores, context)
        low, high = self.range(scores.num_latents)
        values, indices = scores.top(high)
        draws = 1 if self.per_batch else values.shape[0]
        uniform = torch.rand(draws, 1, device=values.device, generator=context.generator)
        drawn = low * ((high + 1) / low) ** uniform  # log-uniform on [low, high + 1), to be rounded down
        k = drawn.floor().clamp(low, high)
        kept = torch.arange(high, device=values.device) < k
        return Latents(SparseCode(values.relu() * kept, indices), no_penalty(values), ragged=True)
