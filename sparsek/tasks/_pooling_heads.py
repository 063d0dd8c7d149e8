"""Heads on pooled vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize

from sparsek._validation import check_positive

from ._batch_standardisation import BatchStandardisation


class StandardisedHead(nn.Sequential):
    """A linear head on vectors of which every dimension is standardised: poolings of different scale train alike.

    Batch normalisation without parameters, by the statistics of the batches of all processes, then D·C + C parameters.

    Args:
        dim: D, dimension of the pooled vector.
        classes: C, number of classes.

    Example:
        >>> import torch
        >>> StandardisedHead(8, 3)(torch.randn(5, 8)).shape
        torch.Size([5, 3])
    """

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__(BatchStandardisation(dim, affine=False), nn.Linear(dim, classes))


class CosineHead(nn.Module):
    r"""Logits $s \cos(z, w_c)$: a classifier that sees directions only, so that what it trains is compared by cosine later.

    Args:
        dim: D, dimension of the pooled vector.
        classes: C, number of classes.
        scale: s > 0.

    Raises:
        ValueError: If `scale` is not above 0.

    Example:
        >>> import torch
        >>> head = CosineHead(2, 2)
        >>> _ = head.weight.data.copy_(torch.eye(2))
        >>> head(torch.tensor([[5.0, 0.0]])).detach()
        tensor([[16.,  0.]])

    References:
        Wang et al. (2017), "NormFace: L2 Hypersphere Embedding for Face Verification", https://arxiv.org/abs/1704.06369.
    """

    def __init__(self, dim: int, classes: int, scale: float = 16.0) -> None:
        super().__init__()
        check_positive("scale", scale)
        self.scale = scale
        self.weight = nn.Parameter(torch.randn(classes, dim) / dim**0.5)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Return the logits, (B, C)."""
        return self.scale * linear(normalize(embeddings, dim=-1), normalize(self.weight, dim=-1))
