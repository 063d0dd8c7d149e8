"""Designs whose law depends on the order of the units, with a random order as an option."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsek._validation import check_dim, check_floating, checked_shape

from ._design import Design, Draw
from ._rows import as_rows, working_dtype


@dataclass(frozen=True)
class Shuffled(Design):
    """A design that can put the units of every draw and row in a random order first. The phantom unit stays last."""

    shuffle: bool = False

    def draw(
        self,
        probs: Tensor,
        sample_shape: Sequence[int] = (),
        *,
        k: float | Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Draw:
        """Draw as :meth:`sample` does, and keep the order of the units where they are shuffled."""
        if not self.shuffle:
            return super().draw(probs, sample_shape, k=k, generator=generator)
        check_floating("probs", probs)
        check_dim("probs", probs, -1)
        shape = checked_shape(sample_shape)
        if shape.numel() == 0:  # nothing to draw, but all to check
            as_rows(probs, k, self.fixed_size)
        order = _random_order(shape + probs.shape, probs.device, generator)
        placed = _place(probs.detach(), order)
        sample = super().draw(placed, k=k, generator=generator).sample
        return Draw(torch.zeros_like(sample).scatter(-1, order, sample), order)

    def log_prob(self, probs: Tensor, sample: Tensor | Draw, *, k: float | Tensor | None = None) -> Tensor:
        """Return the log-probability of `sample`; where units are shuffled, given the order in the :class:`Draw`.

        See :meth:`Design.log_prob`. A design that does not shuffle scores the sample of a :class:`Draw` in the order of
        the row. Where the units are shuffled, the output has the leading dimensions of the draw.
        """
        if not self.shuffle:
            return super().log_prob(probs, sample, k=k)
        if not isinstance(sample, Draw) or sample.order is None:
            raise ValueError(
                f"sample must be the Draw that {self}.draw returned, whose order the probability is conditional on, "
                f"got {type(sample).__name__}; or use {type(self).__name__}(shuffle=False) to draw and score"
            )
        check_floating("probs", probs)
        check_dim("probs", probs, -1)
        return super().log_prob(_place(probs, sample.order), sample.sample.gather(-1, sample.order), k=k)

    def joint(self, probs: Tensor, *, k: float | Tensor | None = None) -> Tensor:
        """Return the joint inclusion probabilities; see :meth:`Design.joint`. Not available where shuffled."""
        if self.shuffle:
            raise NotImplementedError(
                f"{self} has no tractable joint inclusion probabilities (an average over all orders); "
                f"use {type(self).__name__}(shuffle=False) or ConditionalPoisson(), whose joint is exact"
            )
        return super().joint(probs, k=k)


def _random_order(shape: torch.Size, device: torch.device, generator: torch.Generator | None) -> Tensor:
    """Return a uniform random permutation along the last dimension, independent elsewhere."""
    if shape[:-1].numel() == 1:
        return torch.randperm(shape[-1], device=device, generator=generator).reshape(shape)
    keys = torch.rand(shape, dtype=working_dtype(device), device=device, generator=generator)
    return keys.argsort(-1)


def _place(probs: Tensor, order: Tensor) -> Tensor:
    """Return `probs` in the order given, one row per order."""
    try:
        return probs.expand(order.shape).gather(-1, order)
    except RuntimeError:
        raise ValueError(
            f"order of shape {tuple(order.shape)} does not fit probs of shape {tuple(probs.shape)}"
        ) from None
