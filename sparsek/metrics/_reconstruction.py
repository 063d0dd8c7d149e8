"""Reconstruction of tokens over many batches. The mathematics is in :mod:`sparsek.functional`."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torchmetrics import Metric

from sparsek._validation import check_dim, check_floating
from sparsek.functional._reconstruction import (
    Moments,
    cosine_of,
    explained_variance_of,
    fvu_of,
    moments,
    no_moments,
)
from sparsek.functional._sparse_decode import check_levels

from ._expert_load import check_sizes


class _Reconstruction(Metric):
    """Sums over tokens, of one reconstruction or of several levels."""

    full_state_update = False
    is_differentiable = False

    def __init__(self, d: int, levels: int = 1) -> None:
        super().__init__()
        check_sizes(d=d)
        self.d = d
        for name, zero in no_moments(d, levels)._asdict().items():
            self.add_state(f"sum_{name}", zero, dist_reduce_fx="sum")

    def _add(self, reconstructions: Tensor, target: Tensor, mask: Tensor | None) -> None:
        if target.shape[-1] != self.d:
            raise ValueError(f"target must have shape (..., {self.d}), got {tuple(target.shape)}")
        for name, value in moments(reconstructions, target, mask)._asdict().items():
            setattr(self, f"sum_{name}", getattr(self, f"sum_{name}") + value)

    @property
    def sums(self) -> Moments:
        """What was added up so far."""
        return Moments(*(getattr(self, f"sum_{name}") for name in Moments._fields))


class _OneLevel(_Reconstruction):
    def update(self, reconstruction: Tensor, target: Tensor, mask: Tensor | None = None) -> None:
        """Add a batch: reconstruction and target (..., d), mask (...) of real tokens."""
        check_floating("reconstruction", reconstruction)
        check_dim("reconstruction", reconstruction, -1)
        self._add(reconstruction.unsqueeze(-2), target, mask)


class FVU(_OneLevel):
    """Fraction of variance unexplained about the mean of all tokens of all batches. See :func:`sparsek.functional.fvu`.

    The mean over batches of a batch's FVU is another number: each is about its own mean. Here sums are kept, so that any split
    into batches and processes gives the same.

    Args:
        d: Size of a token.

    Example:
        >>> import torch
        >>> metric = FVU(d=1)
        >>> metric.update(torch.tensor([[2.0]]), torch.tensor([[1.0]]))
        >>> metric.update(torch.tensor([[2.0]]), torch.tensor([[3.0]]))
        >>> metric.compute()
        tensor(1., dtype=torch.float64)
    """

    higher_is_better = False

    def compute(self) -> Tensor:
        """Over all tokens; NaN before any."""
        return fvu_of(self.sums)[0]


class ExplainedVariance(_OneLevel):
    """Explained variance over all tokens of all batches. See :func:`sparsek.functional.explained_variance`.

    Args:
        d: Size of a token.

    Example:
        >>> import torch
        >>> metric = ExplainedVariance(d=1)
        >>> metric.update(torch.tensor([[2.0], [4.0]]), torch.tensor([[1.0], [3.0]]))
        >>> metric.compute()
        tensor(1., dtype=torch.float64)
    """

    higher_is_better = True

    def compute(self) -> Tensor:
        """Over all tokens; NaN before any."""
        return explained_variance_of(self.sums)[0]


class ReconstructionCosine(_OneLevel):
    """Cosine of a token with its reconstruction, mean over tokens; 0 where either is 0.

    Args:
        d: Size of a token.

    Example:
        >>> import torch
        >>> metric = ReconstructionCosine(d=2)
        >>> metric.update(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
        >>> metric.compute()
        tensor(0.5000, dtype=torch.float64)
    """

    higher_is_better = True

    def compute(self) -> Tensor:
        """Mean over tokens; NaN before any."""
        return cosine_of(self.sums)[0]


class FVUByK(_Reconstruction):
    """FVU of a dictionary read at several k, in one pass over the tokens.

    A code sorted by value holds the codes for all smaller k, and each level of the decoder adds to the one before.

    Args:
        d: Size of a token.
        levels: Rising numbers of latents.

    Example:
        >>> import torch
        >>> from sparsek.nn import SparseAutoencoder, TopK
        >>> sae, metric = SparseAutoencoder(8, 64, TopK(4)), FVUByK(d=8, levels=(4, 8, 16))
        >>> x = torch.randn(100, 8)
        >>> metric.update(sae.decode(sae.encode(x, k=16), levels=metric.levels), x)
        >>> metric.compute().shape
        torch.Size([3])
    """

    higher_is_better = False

    def __init__(self, d: int, levels: Sequence[int]) -> None:
        check_levels(levels)
        super().__init__(d, len(levels))
        self.levels = tuple(levels)

    def update(self, reconstructions: Tensor, target: Tensor, mask: Tensor | None = None) -> None:
        """Add a batch: reconstructions (..., levels, d), target (..., d), mask (...) of real tokens."""
        check_floating("reconstructions", reconstructions)
        if reconstructions.dim() < 2 or reconstructions.shape[-2] != len(self.levels):
            raise ValueError(
                f"reconstructions must have shape (..., {len(self.levels)}, {self.d}), got {tuple(reconstructions.shape)}"
            )
        self._add(reconstructions, target, mask)

    def compute(self) -> Tensor:
        """(levels,); NaN before any token."""
        return fvu_of(self.sums)
