"""The global threshold that gives a wanted mean number of active latents."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real

import torch
from torch import Tensor
from torchmetrics import Metric

from sparsek._validation import check_dim, check_floating, check_token_mask
from sparsek.functional import SparseCode
from sparsek.functional._latent_measures import num_tokens

_SHIFT = 11
"""Low bits of a float32 that are dropped: 12 bits of the mantissa stay, thresholds are exact to 1 part in 4,096."""
_BINS = 1 << (31 - _SHIFT)


class L0Threshold(Metric):
    r"""Thresholds θ at which $[a > θ]$ has the wanted mean L0, from the distribution of all activations of all batches.

    Positive activations are counted by the leading bits of their float32 form: bins of equal relative width, so the result is
    the quantile itself to 1 part in 4,096, however many tokens there are and however they are split. The next larger edge is
    taken, so the L0 on these tokens is at most the wanted one, and less by the activations of one bin.

    Args:
        l0s: Wanted mean numbers of active latents, each above 0.

    Raises:
        ValueError: If a wanted L0 is not above 0.

    Example:
        >>> metric = L0Threshold(l0s=(1, 2))
        >>> metric.update(torch.tensor([[1.0, 2.0, 3.0, 0.0], [4.0, 0.5, 0.25, 0.0]]))
        >>> metric.compute()
        tensor([2.0005, 0.5001])

    References:
        Bussmann, Leask & Nanda, 2024, "BatchTopK Sparse Autoencoders", https://arxiv.org/abs/2412.06410
    """

    full_state_update = False
    higher_is_better = None
    is_differentiable = False

    counts: Tensor
    tokens: Tensor

    def __init__(self, l0s: Sequence[float]) -> None:
        super().__init__()
        if not l0s or not all(isinstance(l0, Real) and l0 > 0 for l0 in l0s):
            raise ValueError(f"l0s must be numbers above 0, at least one, got {tuple(l0s)}")
        self.l0s = tuple(l0s)
        self.add_state("counts", torch.zeros(_BINS, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("tokens", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, latents: SparseCode | Tensor, mask: Tensor | None = None) -> None:
        """Add a batch: dense latents (..., n), or a code wide enough to hold all that will be above the threshold."""
        if not isinstance(latents, Tensor | SparseCode):
            raise ValueError(f"latents must be a tensor or a SparseCode, got {type(latents).__name__}")
        values = latents if isinstance(latents, Tensor) else latents.values
        check_floating("latents", values)
        check_dim("latents", values, -1)
        check_token_mask("mask", mask, values.shape[:-1])
        kept = values.detach() if mask is None else values.detach()[mask]
        bits = kept[kept > 0].float().view(torch.int32) >> _SHIFT
        self.counts += torch.bincount(bits, minlength=_BINS)
        self.tokens += num_tokens(latents, mask)

    def compute(self) -> Tensor:
        """(l0s,), float32; 0 where fewer latents are positive than wanted."""
        above = self.counts.flip(0).cumsum(0).flip(0)  # activations in this bin or a higher one
        wanted = torch.tensor(self.l0s, dtype=torch.float64, device=above.device) * self.tokens
        first = (above.double().unsqueeze(0) > wanted.unsqueeze(1)).sum(-1)  # the lowest edge with few enough above it
        edges = (first << _SHIFT).to(torch.int32).view(torch.float32)
        return edges.nextafter(torch.zeros_like(edges))
