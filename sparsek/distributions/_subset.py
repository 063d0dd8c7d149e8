"""A distribution on subsets, and what enumeration gives it where no formula does."""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import chain, combinations
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.distributions import Distribution

from sparsek.constraints import k_hot

MAX_ENTRIES = 2**20
"""Largest number of entries, subsets times n, that is enumerated: every n ≤ 16, and C(64, 2) but not C(64, 3)."""


class SubsetDistribution(Distribution):
    r"""A distribution on subsets of n units, coded as vectors in $\{0, 1\}^n$.

    A subclass names its parameter of shape batch_shape + (n,) in `_name` and writes `support`, `k`, `_log_prob`,
    `sample`, and whatever else it has a formula for. The rest comes by enumeration, which is exact and
    differentiable, while subsets times n stay within 2^20 entries; this covers every n ≤ 16. Beyond,
    `NotImplementedError` says so.
    """

    has_enumerate_support = True
    _name: ClassVar[str]
    _k: float | Tensor | None

    @property
    def _param(self) -> Tensor:
        parameter: Tensor = self.__dict__[self._name]
        return parameter

    def sample(self, sample_shape: Any = (), generator: torch.Generator | None = None) -> Tensor:
        """Draw vectors of shape sample_shape + batch_shape + (n,), without gradient."""
        raise NotImplementedError(f"{type(self).__name__} must write sample")

    def _log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of zeros and ones, −inf outside the support of a row."""
        raise NotImplementedError(f"{type(self).__name__} must write _log_prob")

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability of `value`, whose leading dimensions broadcast with batch_shape."""
        if self._validate_args:
            self._validate_sample(value)
        return self._log_prob(value).to(self._param.dtype)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Self:
        """Return the distribution with parameters expanded to `batch_shape`, not copied."""
        new: Self = self._get_checked_instance(type(self), _instance)
        shape = torch.Size(batch_shape)
        new.__dict__.update({name: value for name, value in self.__dict__.items() if name not in new.__dict__})
        new.__dict__[self._name] = self._param.expand(shape + self.event_shape)
        new._k = self._k.expand(shape) if isinstance(self._k, Tensor) else self._k
        Distribution.__init__(new, shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """Return all vectors of the support, by size, then in lexicographic order: (subsets,) + batch_shape + (n,).

        Raises:
            NotImplementedError: If the support has more than 2^20 entries, or differs between rows.
        """
        support = self.support
        if isinstance(support, k_hot) and any(
            s.numel() and bool((s != s.ravel()[0]).any()) for s in support.sizes(self._param)
        ):
            raise NotImplementedError("rows of different k have different supports: enumerate each row on its own")
        values = self._subsets(len(self.batch_shape))
        return values.expand(-1, *self.batch_shape, -1) if expand else values

    @property
    def mean(self) -> Tensor:
        """Inclusion probabilities, by enumeration."""
        values, log_probs = self._table()
        values = values.to(log_probs.dtype).expand(*log_probs.shape, -1)
        return torch.einsum("m...,m...i->...i", log_probs.exp(), values).to(self._param.dtype)

    @property
    def mode(self) -> Tensor:
        """The most probable vector, by enumeration; among equals the first that :meth:`enumerate_support` gives."""
        values, log_probs = self._table()
        if log_probs.numel() == 0:
            return torch.zeros_like(self._param)
        best = log_probs.detach().argmax(0)
        return values.reshape(len(values), -1)[best].to(self._param.dtype)

    @property
    def variance(self) -> Tensor:
        """Variance of each entry, π(1 − π)."""
        return self.mean * (1 - self.mean)

    @property
    def covariance(self) -> Tensor:
        """Covariance matrix, batch_shape + (n, n), by enumeration."""
        values, log_probs = self._table()
        centred = (values - self.mean).to(log_probs.dtype)
        return torch.einsum("m...,m...i,m...j->...ij", log_probs.exp(), centred, centred).to(self._param.dtype)

    def entropy(self) -> Tensor:
        """Return the entropy in nats, by enumeration."""
        log_probs = self._table()[1]
        return -expectation(log_probs, log_probs).to(self._param.dtype)

    def _table(self, batch_dims: int | None = None) -> tuple[Tensor, Tensor]:
        """Return the subsets of all sizes that occur, (m, 1, …, 1, n), and log-probabilities, (m,) + batch_shape."""
        values = self._subsets(len(self.batch_shape) if batch_dims is None else batch_dims)
        log_probs = self._log_prob(values)
        return values, log_probs.to(torch.promote_types(log_probs.dtype, torch.float32))

    def _subsets(self, batch_dims: int) -> Tensor:
        n = self.event_shape[0]
        sizes = self._sizes()
        entries = n * sum(math.comb(n, size) for size in sizes)
        if entries > MAX_ENTRIES:
            raise NotImplementedError(
                f"{type(self).__name__} has no formula for this, and its support, n = {n} and sizes {sizes[0]} to "
                f"{sizes[-1]}, is too large to enumerate: {entries} entries, more than {MAX_ENTRIES}"
            )
        values = subsets(n, sizes).to(dtype=self._param.dtype, device=self._param.device)
        return values.reshape(len(values), *[1] * batch_dims, n)

    def _sizes(self) -> tuple[int, ...]:
        """All sizes that occur in some row."""
        support = self.support
        if not isinstance(support, k_hot):
            return tuple(range(self.event_shape[0] + 1))
        low, high = support.sizes(self._param)
        return tuple(sorted({int(size) for size in torch.cat((low.ravel(), high.ravel())).unique().tolist()}))


@lru_cache(maxsize=4)
def subsets(n: int, sizes: tuple[int, ...]) -> Tensor:
    """Return the subsets of n units with the given sizes as a bool matrix, on the CPU; never changed in place."""
    chosen = list(chain.from_iterable(combinations(range(n), size) for size in sizes))
    counts = torch.tensor([size for size in sizes for _ in range(math.comb(n, size))], dtype=torch.long)
    rows = torch.arange(len(counts)).repeat_interleave(counts)
    values = torch.zeros(len(counts), n, dtype=torch.bool)
    values[rows, torch.tensor(list(chain.from_iterable(chosen)), dtype=torch.long)] = True
    return values


def expectation(log_probs: Tensor, function: Tensor) -> Tensor:
    """Return the sum over the first dimension of P·function, where P = 0 counts as 0 whatever the function is."""
    possible = log_probs > -torch.inf
    terms = log_probs.exp() * torch.where(possible | log_probs.isnan(), function, 0.0)
    return terms.sum(0)
