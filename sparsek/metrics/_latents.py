"""How often latents are active, over many batches. The mathematics is in :mod:`sparsek.functional`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from sparsek.functional import SparseCode, density_histogram, latent_counts
from sparsek.functional._latent_measures import num_tokens

from ._expert_load import check_sizes

DECADES = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Frequencies that part the bars of a density histogram."""


class LatentFrequency(Metric):
    """Share of tokens in which each latent is active; the base of the measures below.

    `update` takes a code (values and indices) or dense latents; entries with value 0 are not active.

    Args:
        num_latents: Latents in the dictionary, at least 1.

    Example:
        >>> metric = LatentFrequency(num_latents=3)
        >>> metric.update(torch.tensor([[1.0, 0.0, 0.0], [2.0, 0.5, 0.0]]))
        >>> metric.compute()
        tensor([1.0000, 0.5000, 0.0000], dtype=torch.float64)
    """

    full_state_update = False
    higher_is_better: bool | None = None
    is_differentiable = False

    counts: Tensor
    tokens: Tensor

    def __init__(self, num_latents: int) -> None:
        super().__init__()
        check_sizes(num_latents=num_latents)
        self.num_latents = num_latents
        self.add_state("counts", torch.zeros(num_latents, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("tokens", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, latents: SparseCode | Tensor, mask: Tensor | None = None) -> None:
        """Add a batch: latents of tokens (...), mask (...) of real tokens."""
        self.counts += latent_counts(latents, self.num_latents, mask)
        self.tokens += num_tokens(latents, mask)

    @property
    def frequency(self) -> Tensor:
        """(num_latents,), in [0, 1]; NaN before any token."""
        return self.counts.double() / self.tokens

    def compute(self) -> Tensor:
        """(num_latents,); NaN before any token."""
        return self.frequency


class L0(LatentFrequency):
    """Active latents of a token, mean over tokens.

    Example:
        >>> metric = L0(num_latents=3)
        >>> metric.update(torch.tensor([[1.0, 0.0, 0.0], [2.0, 0.5, 0.0]]))
        >>> metric.compute()
        tensor(1.5000, dtype=torch.float64)
    """

    def compute(self) -> Tensor:
        """Mean over tokens; NaN before any."""
        return self.counts.sum().double() / self.tokens


class DeadLatents(LatentFrequency):
    """Share of latents that were active in no token.

    Example:
        >>> metric = DeadLatents(num_latents=4)
        >>> metric.update(torch.tensor([[1.0, 0.0, 0.0, 2.0]]))
        >>> metric.compute()
        tensor(0.5000, dtype=torch.float64)
    """

    higher_is_better = False

    def compute(self) -> Tensor:
        """In [0, 1]; NaN before any token."""
        return _share(self.frequency, self.counts == 0)


class AlmostDeadLatents(LatentFrequency):
    """Share of latents that were active, but in fewer than one token in `1 / below`.

    Args:
        num_latents: Latents in the dictionary, at least 1.
        below: Frequency, in (0, 1]. Meaningful only after many more than `1 / below` tokens.

    Example:
        >>> metric = AlmostDeadLatents(num_latents=4, below=0.3)
        >>> metric.update(torch.tensor([[1.0, 0.0, 1.0, 2.0]] * 3 + [[0.0, 0.0, 0.0, 1.0]] * 6 + [[0.0, 1.0, 1.0, 1.0]]))
        >>> metric.compute()
        tensor(0.2500, dtype=torch.float64)
    """

    higher_is_better = False

    def __init__(self, num_latents: int, below: float = 1e-5) -> None:
        super().__init__(num_latents)
        self.below = _in_unit("below", below)

    def compute(self) -> Tensor:
        """In [0, 1]; NaN before any token."""
        return _share(self.frequency, (self.frequency < self.below) & (self.counts > 0))


class DenseLatents(LatentFrequency):
    """Share of latents that are active in more than the share `above` of all tokens: no features of anything in particular.

    Args:
        num_latents: Latents in the dictionary, at least 1.
        above: Frequency, in (0, 1].

    Example:
        >>> metric = DenseLatents(num_latents=4)
        >>> metric.update(torch.tensor([[1.0, 0.0, 0.0, 0.0]] * 5))
        >>> metric.compute()
        tensor(0.2500, dtype=torch.float64)
    """

    higher_is_better = False

    def __init__(self, num_latents: int, above: float = 0.1) -> None:
        super().__init__(num_latents)
        self.above = _in_unit("above", above)

    def compute(self) -> Tensor:
        """In [0, 1]; NaN before any token."""
        return _share(self.frequency, self.frequency > self.above)


class DensityHistogram(LatentFrequency):
    """Numbers of latents by their frequency, dead ones first. See :func:`sparsek.functional.density_histogram`.

    Args:
        num_latents: Latents in the dictionary, at least 1.
        edges: Rising frequencies. Default: powers of ten from 1e-7 to 1.

    Example:
        >>> metric = DensityHistogram(num_latents=3, edges=(0.1, 0.6, 1.0))
        >>> metric.update(torch.tensor([[1.0, 0.0, 0.0], [2.0, 0.5, 0.0]]))
        >>> metric.compute()
        tensor([1, 1, 1])
    """

    def __init__(self, num_latents: int, edges: Sequence[float] = DECADES) -> None:
        super().__init__(num_latents)
        self.edges = tuple(edges)

    def compute(self) -> Tensor:
        """(edges,), int64: dead latents, then one count for each interval."""
        return density_histogram(self.frequency, torch.tensor(self.edges, dtype=torch.float64))


def _share(frequency: Tensor, chosen: Tensor) -> Tensor:
    return torch.where(frequency.isnan().any(), torch.nan, chosen.double().mean())


def _in_unit(name: str, value: float) -> float:
    if not 0 < value <= 1:
        raise ValueError(f"{name} must lie in (0, 1], got {value!r}")
    return value
