"""The contract of a selection of latents."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from ._latents import Latents, PreActivations


class LatentSelection(ABC):
    """Which latents of a token are active: a small immutable object. What it learns lives in the autoencoder."""

    def check(self, num_latents: int) -> None:
        """Refuse a dictionary that is too small; by default none."""
        return

    def parameters(self, num_latents: int) -> dict[str, Tensor]:
        """Initial values of what this selection learns, by name; by default nothing."""
        return {}

    @abstractmethod
    def __call__(
        self,
        scores: PreActivations,
        parameters: nn.ParameterDict,
        *,
        decoder: Tensor,
        training: bool,
        progress: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Latents:
        """Activate.

        Args:
            scores: Pre-activations of a batch of tokens.
            parameters: What :meth:`parameters` named, as it is now.
            decoder: (d_sae, d_out), for penalties that weigh latents by it.
            training: Whether the model trains; every selection is deterministic otherwise.
            progress: Part of the training that is over, in [0, 1].
            generator: Source of randomness; only stochastic selections read it.
        """


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
