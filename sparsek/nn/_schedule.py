"""Schedules: a number that moves from a start to an end as training goes on."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from numbers import Real
from typing import Self, TypeVar

import torch
from torch import Tensor

from sparsek._validation import check_positive

Progress = TypeVar("Progress", float, Tensor)


@dataclass(frozen=True)
class Schedule(ABC):
    """A number above 0 as a function of the share of training that is done.

    It is `start` up to `begin`, `end` from `until` on, exactly, and moves monotonically between. A subclass writes
    :meth:`between`.

    Args:
        start: First value, finite and above 0.
        end: Last value, finite and above 0.
        begin: Progress up to which it stays at `start`, in [0, 1).
        until: Progress from which it stays at `end`, above `begin` and at most 1.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> class Cosine(Schedule):
        ...     def between(self, share):
        ...         return self.end + (self.start - self.end) * (1 + math.cos(math.pi * share)) / 2
        >>> [round(Cosine(10, 2)(progress), 1) for progress in (0.0, 0.25, 0.5, 1.0)]
        [10.0, 8.8, 6.0, 2.0]
    """

    start: float
    end: float
    begin: float = 0.0
    until: float = 1.0

    def __post_init__(self) -> None:
        check_positive("start", self.start)
        check_positive("end", self.end)
        for name in ("begin", "until"):
            if not isinstance(getattr(self, name), Real):
                raise ValueError(f"{name} must be a number, got {getattr(self, name)!r}")
        if not 0 <= self.begin < self.until <= 1:
            raise ValueError(f"begin and until must satisfy 0 <= begin < until <= 1, got {self.begin} and {self.until}")

    def __call__(self, progress: Progress) -> Progress:
        """Return the value at a progress in [0, 1]: a number for a number, a tensor for a tensor."""
        share = (progress - self.begin) / (self.until - self.begin)
        if isinstance(share, Tensor):
            share = share.clamp(0, 1)
            value = torch.where(share < 1, self.between(share), self.end)
            return torch.where(share > 0, value, self.start)
        if share <= 0 or share >= 1:
            return float(self.start if share <= 0 else self.end)
        return self.between(share)

    @abstractmethod
    def between(self, share: Progress) -> Progress:
        """Return the value at a share in (0, 1) of the way from `begin` to `until`."""

    def counted(self, units: int) -> Self:
        """Return the schedule with `start` and `end` as counts of `units`: see :func:`unit_count`."""
        return replace(self, start=unit_count(self.start, units), end=unit_count(self.end, units))


@dataclass(frozen=True)
class GeometricSchedule(Schedule):
    r"""Equal ratios in equal times: $\text{start}^{1-t}\,\text{end}^{t}$.

    The schedule for k: from half of the features down to k, every halving takes as long as the one before.

    Example:
        >>> k = GeometricSchedule(start=64, end=4, until=0.8)
        >>> [round(k(progress), 1) for progress in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)]
        [64.0, 32.0, 16.0, 8.0, 4.0, 4.0]
    """

    def between(self, share: Progress) -> Progress:
        """A power of the ratio."""
        value: Progress = (self.start / self.end) ** (1 - share) * self.end
        return value


@dataclass(frozen=True)
class LinearSchedule(Schedule):
    r"""Equal differences in equal times: $(1-t)\,\text{start} + t\,\text{end}$.

    Example:
        >>> LinearSchedule(start=2.0, end=0.5)(0.5)
        1.25
    """

    def between(self, share: Progress) -> Progress:
        """A weighted mean."""
        return (self.end - self.start) * share + self.start


@dataclass(frozen=True)
class CubicSchedule(Schedule):
    r"""Fast at first, slow at the end: $\text{end} + (\text{start} - \text{end})(1-t)^3$.

    The schedule of gradual pruning: most weights go while most are superfluous.

    Example:
        >>> CubicSchedule(start=100, end=20)(0.5)
        30.0

    References:
        Zhu, Gupta, *To Prune, or Not to Prune: Exploring the Efficacy of Pruning for Model Compression*, 2017,
        https://arxiv.org/abs/1710.01878
    """

    def between(self, share: Progress) -> Progress:
        """The cube of what is left."""
        value: Progress = (self.start - self.end) * (1 - share) ** 3 + self.end
        return value


def unit_count(k: float, units: int) -> float:
    """Return k as a number of `units`: a float below 1 is the share of them, rounded and at least 1; others are counts.

    Example:
        >>> unit_count(0.1, 64), unit_count(3, 64), unit_count(2.5, 64)
        (6, 3, 2.5)
    """
    if isinstance(k, bool) or not isinstance(k, int | float) or not 0 < k < math.inf:
        raise ValueError(f"k must be a count of at least 1 or a share in (0, 1), got {k!r}")
    count = max(1, round(k * units)) if k < 1 else k
    if count > units:
        raise ValueError(f"k must be at most the number of units, {units}, got {k}")
    return int(count) if count == int(count) else count
