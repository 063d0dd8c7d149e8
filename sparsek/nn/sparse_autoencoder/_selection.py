"""The contract of a selection of latents."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ._latents import Latents, PreActivations


@dataclass(frozen=True, eq=False)
class SelectionContext:
    """What a selection may ask for besides the scores; each reads what it needs.

    Args:
        decoder: (d_sae, d_out), for what weighs latents by the norm of their row.
        training: Whether the model trains; every selection is deterministic otherwise.
        progress: Part of the training that is over, in [0, 1], for what anneals.
        generator: Source of randomness, for what draws.
        parameters: What :meth:`LatentSelection.parameters` named, as it is now.
    """

    decoder: Tensor
    training: bool = False
    progress: float = 1.0
    generator: torch.Generator | None = None
    parameters: Mapping[str, Tensor] = field(default_factory=dict)


class LatentSelection(ABC):
    """Which latents of a token are active: a small immutable object. What it learns lives in the autoencoder.

    Example:
        >>> from sparsek.nn import SparseAutoencoder
        >>> class Positive(LatentSelection):
        ...     def __call__(self, scores, context):
        ...         active = scores.dense().relu()
        ...         return Latents(active, penalty=active.new_zeros(()))
        >>> SparseAutoencoder(4, 16, Positive())(torch.ones(2, 4)).latents.shape
        torch.Size([2, 16])
    """

    def check(self, num_latents: int) -> None:
        """Refuse a dictionary that is too small; by default none."""
        return

    def parameters(self, num_latents: int) -> dict[str, Tensor]:
        """Initial values of what this selection learns, by name; by default nothing."""
        return {}

    @abstractmethod
    def __call__(self, scores: PreActivations, context: SelectionContext) -> Latents:
        """Activate latents of a batch of tokens."""


def check_width(name: str, k: float, num_latents: int) -> None:
    """Refuse a k beyond the dictionary."""
    if k > num_latents:
        raise ValueError(f"{name} must be at most the number of latents, {num_latents}, got {k}")


def check_not_negative(name: str, value: float) -> None:
    """Refuse a number that is not finite and at least 0."""
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be a finite number >= 0, got {value!r}")


def check_whole(name: str, k: int) -> None:
    """Refuse what is not a whole number of at least 1."""
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {k!r}")
