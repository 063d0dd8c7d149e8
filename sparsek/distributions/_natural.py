"""Distributions on k-subsets with free logits: what conditional Poisson and Gumbel top-k share."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from sparsek._validation import check_dim, check_floating, check_k, values_visible
from sparsek.constraints import k_hot, rows_of
from sparsek.functional import topk_mask

from ._subset import SubsetDistribution


class Free(NamedTuple):
    """What is random once the units at +inf are in."""

    logits: Tensor
    """Logits in float64, shifted to maximum 0; −inf for the units at +inf."""
    k: Tensor
    """How many of them are picked, batch_shape."""
    certain: Tensor
    """The units at +inf."""


class LogitSubset(SubsetDistribution):
    """A law on k-subsets given by k and logits; +inf is always in, −inf never, a constant shift changes nothing.

    Args:
        k: Whole number of picks, from the number of logits at +inf to the number above −inf; or a tensor of them, one
            per row.
        logits: (..., n).
        validate_args: As everywhere in :mod:`torch.distributions`.
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {"logits": rows_of(constraints.real)}
    _name = "logits"

    def __init__(self, k: float | Tensor, logits: Tensor, validate_args: bool | None = None) -> None:
        check_floating("logits", logits)
        check_dim("logits", logits, -1)
        logits, k = broadcast_rows(logits, k)
        check_k(k, logits.shape[:-1], logits.shape[-1], integer=True)
        self.logits = logits
        self._k = k
        super().__init__(logits.shape[:-1], logits.shape[-1:], validate_args=validate_args)
        if self._validate_args and values_visible(logits):
            check_k(k, logits.shape[:-1], (logits != -torch.inf).sum(-1), integer=True)
            if bool(((logits == torch.inf).sum(-1) > k).any()):
                raise ValueError("logits must have at most k entries at +inf in every row")

    @property
    def k(self) -> float | Tensor:
        """Number of units in each subset."""
        assert self._k is not None
        return self._k

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> Constraint:
        """k-hot vectors."""
        return k_hot(self.k)

    @property
    def mode(self) -> Tensor:
        """The k largest logits; among equals the lowest indices."""
        return topk_mask(self.logits.detach(), self.k)

    def _log_prob(self, value: Tensor) -> Tensor:
        free = self._free()
        selected = value != 0
        right_size = selected.sum(-1) == self.k
        certain_in = (selected | ~free.certain).all(-1)
        none_excluded = (~selected | (self.logits > -torch.inf) | self.logits.isnan()).all(-1)
        possible = right_size & certain_in & none_excluded
        return self._log_prob_free(free, selected & ~free.certain, possible).masked_fill(~possible, -torch.inf)

    def _log_prob_free(self, free: Free, selected: Tensor, possible: Tensor) -> Tensor:
        """Log-probability of the subset of the free units; where not `possible`, any number with a finite gradient."""
        raise NotImplementedError(f"{type(self).__name__} must write _log_prob_free")

    def _free(self) -> Free:
        work = self.logits.to(torch.float32 if self.logits.device.type == "mps" else torch.float64)
        certain = work == torch.inf
        logits = work.masked_fill(certain, -torch.inf)
        top = logits.detach().amax(-1, keepdim=True) if logits.shape[-1] else logits.sum(-1, keepdim=True)
        shifted = logits - top.masked_fill(top == -torch.inf, 0.0)
        shifted = torch.where(logits > -torch.inf, shifted.clamp(min=torch.finfo(work.dtype).min), shifted)
        return Free(shifted, self.k - certain.sum(-1), certain)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(k: {show_k(self.k)}, logits: {tuple(self.logits.shape)})"


def broadcast_rows(logits: Tensor, k: float | Tensor) -> tuple[Tensor, float | Tensor]:
    """Expand logits and a tensor k to the same rows."""
    if not isinstance(k, Tensor):
        return logits, k
    try:
        shape = torch.broadcast_shapes(logits.shape[:-1], k.shape)
    except RuntimeError:
        raise ValueError(
            f"k of shape {tuple(k.shape)} does not broadcast with logits of shape {tuple(logits.shape)}"
        ) from None
    return logits.expand(*shape, logits.shape[-1]), k.expand(shape)


def show_k(k: Any) -> str:
    """A number, or the shape of a tensor."""
    return str(tuple(k.shape)) if isinstance(k, Tensor) and k.dim() else f"{float(k):g}"
