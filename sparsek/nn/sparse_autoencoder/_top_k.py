"""Selections that activate the k largest of each token: sparse forward and backward."""

from __future__ import annotations

from dataclasses import dataclass

from sparsek.functional import SparseCode

from ._latents import Latents, PreActivations, no_penalty
from ._selection import LatentSelection, SelectionContext, check_whole, check_width


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

    def __call__(self, scores: PreActivations, context: SelectionContext) -> Latents:
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

    def __call__(self, scores: PreActivations, context: SelectionContext) -> Latents:
        """Activate the k of largest magnitude."""
        code = scores.top(self.k, magnitude=True)
        return Latents(code, no_penalty(code.values))
