"""Selections by one threshold for all tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsek.functional import SparseCode, sparse_topk
from sparsek.functional._precision import precision
from sparsek.functional._sparse_products import sparse_dots

from ._latents import Latents, PreActivations, code_at, compact, no_penalty
from ._processes import processes, total
from ._selection import LatentSelection, SelectionContext, check_not_negative, check_whole, check_width


@dataclass(frozen=True)
class BatchTopK(LatentSelection):
    """The B·k largest pre-activations of the whole batch, through a ReLU: k latents a token on average, more for hard tokens.

    So in eval mode too, unless the autoencoder is given a threshold (:meth:`SparseAutoencoder.encode`), which makes a token
    independent of its batch. While training with several processes, the batch is that of all of them together. The relaxation of
    this selection is `RelaxedTopK(k, per_batch=True)`.

    Args:
        k: Latents of a token on average, at least 1.

    References:
        Bussmann, Leask & Nanda, 2024, "BatchTopK Sparse Autoencoders", https://arxiv.org/abs/2412.06410
    """

    k: int

    def __post_init__(self) -> None:
        check_whole("k", self.k)

    def check(self, num_latents: int) -> None:
        """Refuse fewer latents than k."""
        check_width("k", self.k, num_latents)

    def __call__(self, scores: PreActivations, context: SelectionContext) -> Latents:
        """Activate the B·k largest."""
        with torch.no_grad():
            dense = scores.dense()
            known = largest_of_batch(dense, dense, self.k, together=context.training)
        return Latents(with_gradient(scores, known), no_penalty(dense), ragged=True)


@dataclass(frozen=True)
class Threshold(LatentSelection):
    """Latents above one fixed threshold: how a calibrated autoencoder runs, each token by itself.

    Args:
        threshold: At least 0.
    """

    threshold: float

    def __post_init__(self) -> None:
        check_not_negative("threshold", self.threshold)

    def __call__(self, scores: PreActivations, context: SelectionContext) -> Latents:
        """Activate what is above the threshold."""
        with torch.no_grad():
            dense = scores.dense()
            known = compact(dense > self.threshold, dense)
        return Latents(with_gradient(scores, known), no_penalty(dense), ragged=True)


def largest_of_batch(scores: Tensor, values: Tensor, k: int, *, together: bool) -> SparseCode:
    """The positive values (rows, n) at the rows·k largest scores.

    Args:
        scores: What ranks.
        values: What the code holds.
        k: Of each row, on average.
        together: Whether the rows of all processes are one batch.
    """
    if together and processes() > 1:
        places = _largest_of_all(scores, k).flatten().nonzero().squeeze(-1)
    else:
        places = sparse_topk(scores.flatten(), scores.shape[0] * k).indices.sort().values
    return code_at(places[values.flatten()[places] > 0], values)


def _largest_of_all(scores: Tensor, k: int) -> Tensor:
    from sparsek.distributed import batch_sigmoid_topk  # noqa: PLC0415 - `import sparsek` loads no distributed code

    rows = int(total(torch.tensor(scores.shape[0], device=scores.device)))
    return batch_sigmoid_topk(scores, k * rows, hard=True) > 0


def with_gradient(scores: PreActivations, known: SparseCode) -> SparseCode:
    """The code with the gradient of its positive entries; filling, at value 0, has none and costs nothing."""
    kept = known.values > 0
    counts = kept.sum(-1)
    offsets = torch.cat((counts.new_zeros(1), counts.cumsum(0)))
    dtype, exact = precision(scores.input, scores.weight, scores.bias)
    input, weight, bias = (tensor.to(exact) for tensor in (scores.input, scores.weight, scores.bias))
    values = sparse_dots(input, weight, known.indices[kept], offsets, bias, known.values[kept].to(exact))
    return SparseCode(
        known.values.new_zeros(kept.shape, dtype=dtype).masked_scatter(kept, values.to(dtype)), known.indices
    )
