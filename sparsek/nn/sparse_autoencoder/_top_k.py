"""Selections with sorted winners: sparse forward and backward."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparsek.functional import SparseCode
from sparsek.functional._sparse_decode import check_levels

from ._latents import Latents, PreActivations, no_penalty
from ._selection import LatentSelection, check_whole, check_width


@dataclass(frozen=True)
class TopK(LatentSelection):
    """The k largest pre-activations of each token, through a ReLU.

    Args:
        k: Latents of each token, at least 1.

    Example:
        >>> import torch
        >>> from sparsek.nn import SparseAutoencoder
        >>> sae = SparseAutoencoder(8, 64, TopK(4))
        >>> sae(torch.randn(5, 8)).latents.indices.shape
        torch.Size([5, 4])

    References:
        Gao et al., 2024, "Scaling and evaluating sparse autoencoders", https://arxiv.org/abs/2406.04093
    """

    k: int

    def __post_init__(self) -> None:
        check_whole("k", self.k)

    def check(self, num_latents: int) -> None:
        """Refuse fewer latents than k."""
        check_width("k", self.k, num_latents)

    def __call__(
        self,
        scores: PreActivations,
        parameters: nn.ParameterDict,
        *,
        decoder: Tensor,
        training: bool,
        progress: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Latents:
        """Activate the k largest."""
        values, indices = scores.top(self.k)
        return Latents(SparseCode(values.relu(), indices), no_penalty(values))


@dataclass(frozen=True)
class AbsTopK(LatentSelection):
    """The k pre-activations of largest magnitude, sign kept, no ReLU: one direction serves both of its ends.

    Args:
        k: Latents of each token, at least 1.

    References:
        Zhu et al., 2025, "AbsTopK: Rethinking Sparse Autoencoders For Bidirectional Features", https://arxiv.org/abs/2510.00404
    """

    k: int

    def __post_init__(self) -> None:
        check_whole("k", self.k)

    def check(self, num_latents: int) -> None:
        """Refuse fewer latents than k."""
        check_width("k", self.k, num_latents)

    def __call__(
        self,
        scores: PreActivations,
        parameters: nn.ParameterDict,
        *,
        decoder: Tensor,
        training: bool,
        progress: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Latents:
        """Activate the k of largest magnitude."""
        code = scores.top(self.k, magnitude=True)
        return Latents(code, no_penalty(code.values))


@dataclass(frozen=True)
class NestedTopK(LatentSelection):
    r"""Several k at once: every token is reconstructed from its $l_1 < l_2 < \dots$ largest latents.

    The latents are sorted, so a smaller level is a prefix of a larger one, and each adds its increment to the running
    reconstruction: all levels cost one decode. The dictionary is then good at every k, not at one. `levels=(k, 4k)` with the
    weights (1, 1/8) is the Multi-TopK loss.

    Args:
        k: Latents of a token outside of training, at least 1.
        levels: Rising numbers of latents to train at, k among them. Default: (k/4, k, 4k), rounded up and cut to the dictionary.

    Example:
        >>> NestedTopK(32).at(3072)
        (8, 32, 128)

    References:
        Gao et al., 2024, "Scaling and evaluating sparse autoencoders", https://arxiv.org/abs/2406.04093
        Balagansky et al., 2025, "Train One Sparse Autoencoder Across Multiple Sparsity Budgets", https://arxiv.org/abs/2505.24473
    """

    k: int
    levels: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        check_whole("k", self.k)
        if self.levels is not None:
            check_levels(self.levels)
            if self.levels[0] < 1 or self.k not in self.levels:
                raise ValueError(f"levels must begin at 1 or more and hold k = {self.k}, got {self.levels}")

    def at(self, num_latents: int) -> tuple[int, ...]:
        """The levels for a dictionary of this size."""
        if self.levels is not None:
            return self.levels
        return tuple(sorted({math.ceil(self.k / 4), self.k, min(4 * self.k, num_latents)}))

    def check(self, num_latents: int) -> None:
        """Refuse fewer latents than the largest level."""
        check_width("k", self.k, num_latents)
        check_width("levels", self.at(num_latents)[-1], num_latents)

    def __call__(
        self,
        scores: PreActivations,
        parameters: nn.ParameterDict,
        *,
        decoder: Tensor,
        training: bool,
        progress: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Latents:
        """Activate the largest of the last level while training, k otherwise."""
        levels = self.at(scores.num_latents) if training else ()
        values, indices = scores.top(levels[-1] if training else self.k)
        main = levels.index(self.k) if training else 0
        return Latents(SparseCode(values.relu(), indices), no_penalty(values), levels, main)


@dataclass(frozen=True)
class RandomK(LatentSelection):
    r"""A k of its own for every token while training, drawn log-uniformly from [low, high].

    Unbiased for the mean loss over that law of k at the cost of one decode, where :class:`NestedTopK` has fixed levels.

    Args:
        k: Latents of a token outside of training, at least 1.
        low: Least k, at least 1. Default: k/4, rounded up.
        high: Largest k. Default: 4k, cut to the dictionary.

    References:
        Kusupati et al., 2022, "Matryoshka Representation Learning", https://arxiv.org/abs/2205.13147
    """

    k: int
    low: int | None = None
    high: int | None = None

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
        return math.ceil(self.k / 4) if self.low is None else self.low, high

    def check(self, num_latents: int) -> None:
        """Refuse fewer latents than the largest k."""
        low, high = self.range(num_latents)
        check_width("k", self.k, num_latents)
        check_width("high", high, num_latents)
        check_width("low", low, high)

    def __call__(
        self,
        scores: PreActivations,
        parameters: nn.ParameterDict,
        *,
        decoder: Tensor,
        training: bool,
        progress: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Latents:
        """Activate a random number of the largest while training, k otherwise."""
        if not training:
            return TopK(self.k)(scores, parameters, decoder=decoder, training=False)
        low, high = self.range(scores.num_latents)
        values, indices = scores.top(high)
        uniform = torch.rand(values.shape[0], 1, device=values.device, generator=generator)
        k = (
            (low * ((high + 1) / low) ** uniform).floor().clamp(low, high)
        )  # log-uniform on [low, high + 1), rounded down
        kept = torch.arange(high, device=values.device) < k
        return Latents(SparseCode(values.relu() * kept, indices), no_penalty(values), ragged=True)
