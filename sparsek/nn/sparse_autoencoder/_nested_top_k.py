"""Selections that train at several k at once: the sorted winners are shared, and each k is a prefix of them."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

from sparsek.functional import SparseCode
from sparsek.functional._sparse_decode import check_levels

from ._latents import Latents, PreActivations, no_penalty
from ._selection import LatentSelection, SelectionContext, check_not_negative, check_whole, check_width


class LevelledTopK(LatentSelection):
    """Every token is reconstructed from its $l_1 < l_2 < …$ largest latents while training, from its k largest otherwise."""

    k: int

    @abstractmethod
    def at(self, num_latents: int) -> tuple[int, ...]:
        """The levels for a dictionary of this size, k among them."""

    @abstractmethod
    def weights_at(self, num_latents: int) -> tuple[float, ...]:
        """What the squared error at each level counts in the loss."""

    def check(self, num_latents: int) -> None:
        """Refuse fewer latents than the largest level."""
        check_width("k", self.k, num_latents)
        check_width("levels", self.at(num_latents)[-1], num_latents)

    def __call__(self, scores: PreActivations, context: SelectionContext) -> Latents:
        """Activate the largest of the last level while training, k otherwise."""
        if not context.training:
            values, indices = scores.top(self.k)
            return Latents(SparseCode(values.relu(), indices), no_penalty(values))
        levels = self.at(scores.num_latents)
        values, indices = scores.top(levels[-1])
        code = SparseCode(values.relu(), indices)
        weights = self.weights_at(scores.num_latents)
        return Latents(code, no_penalty(values), levels, levels.index(self.k), weights=weights)


@dataclass(frozen=True)
class NestedTopK(LevelledTopK):
    r"""Several k at once: every token is reconstructed from its $l_1 < l_2 < \dots$ largest latents.

    The latents are sorted, so a smaller level is a prefix of a larger one, and each adds its increment to the running
    reconstruction: all levels cost one decode. The dictionary is then good at every k, not at one.

    Args:
        k: Latents of a token outside of training, at least 1.
        levels: Rising numbers of latents to train at, k among them. Default: (k/8, k/2, k, 2k, 4k), rounded up and cut to the
            dictionary: in short trainings at k = 32 better at every k up to k, and 15 % better at k/8, than (k/4, k, 4k), at the same cost.
        weights: What each level counts in the loss, at least 0 and not all 0; used as given. Default: equal, with sum 1.

    Example:
        >>> NestedTopK(32).at(3072)
        (4, 16, 32, 64, 128)

    References:
        Gao et al., 2024, "Scaling and evaluating sparse autoencoders", https://arxiv.org/abs/2406.04093
        Balagansky et al., 2025, "Train One Sparse Autoencoder Across Multiple Sparsity Budgets", https://arxiv.org/abs/2505.24473
    """

    k: int
    levels: tuple[int, ...] | None = None
    weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        check_whole("k", self.k)
        if self.levels is not None:
            check_levels(self.levels)
            if self.levels[0] < 1 or self.k not in self.levels:
                raise ValueError(f"levels must begin at 1 or more and hold k = {self.k}, got {self.levels}")
        if self.weights is not None:
            _check_weights(self.weights, self.levels)

    def at(self, num_latents: int) -> tuple[int, ...]:
        """The levels for a dictionary of this size."""
        if self.levels is not None:
            return self.levels
        k = self.k
        return tuple(sorted({math.ceil(k / 8), math.ceil(k / 2), k, min(2 * k, num_latents), min(4 * k, num_latents)}))

    def weights_at(self, num_latents: int) -> tuple[float, ...]:
        """What each level counts."""
        return equal_weights(self.at(num_latents)) if self.weights is None else self.weights


@dataclass(frozen=True)
class MultiTopK(LevelledTopK):
    r"""Multi-TopK: the loss at k, plus `weight` times the loss at `factor` · k, $L(k) + L(4k)/8$ as published.

    Args:
        k: Latents of a token outside of training, at least 1.
        factor: How many times more the second level has, at least 2. It is cut to the dictionary.
        weight: Of the second level, at least 0.

    Example:
        >>> MultiTopK(32).at(3072), MultiTopK(32).weights_at(3072)
        ((32, 128), (1.0, 0.125))

    References:
        Gao et al., 2024, "Scaling and evaluating sparse autoencoders", https://arxiv.org/abs/2406.04093
    """

    k: int
    factor: int = 4
    weight: float = 1 / 8

    def __post_init__(self) -> None:
        check_whole("k", self.k)
        check_whole("factor", self.factor)
        if self.factor == 1:
            raise ValueError("factor must be at least 2, got 1")
        check_not_negative("weight", self.weight)

    def at(self, num_latents: int) -> tuple[int, ...]:
        """The levels for a dictionary of this size: k alone where it has no more."""
        return tuple(sorted({self.k, min(self.factor * self.k, num_latents)}))

    def weights_at(self, num_latents: int) -> tuple[float, ...]:
        """1 and `weight`."""
        return (1.0, self.weight)[: len(self.at(num_latents))]


@dataclass(frozen=True)
class HierarchicalTopK(LevelledTopK):
    r"""HierarchicalTopK: the mean loss over every number of latents, $\frac1m \sum_{j=1}^{m} L(j)$.

    The reconstructions of all levels are held at once, (tokens, levels, d_out); `stride` takes every so many.

    Args:
        k: Latents of a token outside of training, at least 1.
        most: The largest level m, at least k. Default: k.
        stride: Distance of the levels, at least 1. They are k, and all m, m − stride, … above 0.

    Example:
        >>> HierarchicalTopK(4).at(3072), HierarchicalTopK(4, most=16, stride=4).at(3072)
        ((1, 2, 3, 4), (4, 8, 12, 16))

    References:
        Balagansky et al., 2025, "Train One Sparse Autoencoder Across Multiple Sparsity Budgets to Preserve Interpretability and
        Accuracy", https://arxiv.org/abs/2505.24473
    """

    k: int
    most: int | None = None
    stride: int = 1

    def __post_init__(self) -> None:
        check_whole("k", self.k)
        check_whole("stride", self.stride)
        if self.most is not None:
            check_whole("most", self.most)
            if self.most < self.k:
                raise ValueError(f"most must be at least k = {self.k}, got {self.most}")

    def at(self, num_latents: int) -> tuple[int, ...]:
        """The levels: the same for a dictionary of any size that holds them."""
        most = self.k if self.most is None else self.most
        return tuple(sorted({self.k, *range(most, 0, -self.stride)}))

    def weights_at(self, num_latents: int) -> tuple[float, ...]:
        """Equal."""
        return equal_weights(self.at(num_latents))


def equal_weights(levels: tuple[int, ...]) -> tuple[float, ...]:
    """With sum 1."""
    return (1 / len(levels),) * len(levels)


def _check_weights(weights: tuple[float, ...], levels: tuple[int, ...] | None) -> None:
    if levels is None:
        raise ValueError(f"levels must be given with weights, got weights={weights} alone")
    if len(weights) != len(levels) or not all(0 <= weight < math.inf for weight in weights) or not any(weights):
        raise ValueError(
            f"weights must be a number of at least 0 for each of levels={levels}, not all 0, got {weights}"
        )
