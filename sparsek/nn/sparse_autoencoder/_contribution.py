"""Selection by what a latent contributes, where decoder rows have norms of their own."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sparsek.functional import SparseCode, sparse_topk

from ._batch_top_k import largest_of_batch, with_gradient
from ._latents import Latents, PreActivations, no_penalty
from ._selection import LatentSelection, SelectionContext, check_whole, check_width


@dataclass(frozen=True)
class ContributionTopK(LatentSelection):
    r"""The k latents that contribute most, $a_i \lVert w^\text{dec}_i \rVert$, through a ReLU; :class:`TopK` where all norms are 1.

    With it decoder rows need no norm of 1: scaling a row up and its latent down changes nothing. What SAELens trains.

    Args:
        k: Latents of each token, at least 1.
        per_batch: Whether the largest contributions are those of the whole batch, k a token on average, as :class:`BatchTopK` has it.

    Example:
        >>> from sparsek.nn import SparseAutoencoder
        >>> sae = SparseAutoencoder(8, 64, ContributionTopK(4))
        >>> sae(torch.randn(5, 8)).latents.indices.shape
        torch.Size([5, 4])

    References:
        Bloom, Tigges, Duong & Chanin, 2024, "SAELens", https://github.com/decoderesearch/SAELens
    """

    k: int
    per_batch: bool = False

    def __post_init__(self) -> None:
        check_whole("k", self.k)

    def check(self, num_latents: int) -> None:
        """Refuse fewer latents than k."""
        check_width("k", self.k, num_latents)

    def __call__(self, scores: PreActivations, context: SelectionContext) -> Latents:
        """Activate the k that contribute most."""
        with torch.no_grad():
            dense = scores.dense()
            contribution = dense * context.decoder.norm(dim=-1)
            if self.per_batch:
                known = largest_of_batch(contribution, dense, self.k, together=context.training)
            else:
                indices = sparse_topk(contribution, self.k).indices
                known = SparseCode(dense.gather(-1, indices), indices)
        return Latents(with_gradient(scores, known), no_penalty(dense), ragged=self.per_batch)
