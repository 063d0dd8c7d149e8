"""What parametrizations that mask weights have in common: scores, a schedule of k, a rule, and the share of training done."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from sparsek._validation import check_floating
from sparsek.nn._schedule import GeometricSchedule, Schedule, unit_count

from ._rule import MaskRule
from ._scores import Magnitude, WeightScores

MAGNITUDE = Magnitude()
RULE = MaskRule()
UNTIL = 0.5
_MASKED = "_masked_by_sparsity"


class Sparsity(nn.Module, ABC):
    """Multiply weights by a mask of k units, as a parametrization of `torch.nn.utils.parametrize`.

    A subclass lays out the units (:meth:`relaxed_mask`, :meth:`exact_mask`). In training mode the mask is that of the
    :class:`MaskRule` at the present k and temperature, with a gradient; in evaluation it is exact at the last k, whatever the
    progress. Dense weights stay what is trained (`parametrizations.weight.original`).

    A tensor takes one of them: a second one is refused when it is registered.

    :meth:`anneal` sets the share of training that is done, at which schedules are read. It starts at 1: what nobody anneals
    has the last k and temperature. It is a buffer: a checkpoint holds it.

    Args:
        weight: The tensor that will be parametrized. Only its shape, type and first values are read.
        k: The :class:`~sparsek.nn.Schedule` of k, as counts.
        scores: What weights are ranked by.
        rule: From scores to masks.

    Raises:
        ValueError: If `weight` is not a floating-point tensor with elements, or is the output of a parametrization already.
    """

    progress: Tensor
    learnt: nn.Parameter | None

    def __init__(self, weight: Tensor, k: Schedule, scores: WeightScores = MAGNITUDE, rule: MaskRule = RULE) -> None:
        super().__init__()
        check_weight("weight", weight)
        self.shape, self.k, self.scores, self.rule = weight.shape, k, scores, rule
        self.register_buffer("progress", torch.ones((), device=weight.device))
        initial = scores.initial(weight.detach())
        self.learnt = None if initial is None else nn.Parameter(initial)

    def current_k(self) -> Tensor:
        """Return k at this progress, 0-d: real while it falls."""
        return self.k(self.progress.double())

    def anneal(self, progress: float) -> None:
        """Set the share of training that is done, in [0, 1]."""
        if not 0 <= progress <= 1:
            raise ValueError(f"progress must lie in [0, 1], got {progress}")
        self.progress.fill_(progress)

    def scored(self, weight: Tensor) -> Tensor:
        """Return the scores of `weight`, in its shape."""
        return self.scores(weight, self.learnt)

    def relaxed(self, scores: Tensor) -> Tensor:
        """Return the mask of training for scores (..., units): rows that sum to the present k."""
        return self.rule.relaxed(scores, self.current_k(), self.progress)

    def exact(self, scores: Tensor) -> Tensor:
        """Return the mask of evaluation for scores (..., units): rows with exactly the last k ones."""
        return self.rule.exact(scores, int(self.k.end))

    @abstractmethod
    def relaxed_mask(self, weight: Tensor) -> Tensor:
        """Return the mask of training, in the shape of `weight`."""

    @abstractmethod
    def exact_mask(self, weight: Tensor) -> Tensor:
        """Return the mask of evaluation, in the shape of `weight`: ones and zeros."""

    def forward(self, weight: Tensor) -> Tensor:
        """Return the masked weights.

        Shape:
            - weight, output: the shape that the parametrization was made for.
        """
        check_unmasked("weight", weight)
        if self.training:
            return _marked(weight * self.relaxed_mask(weight).to(weight.dtype))
        mask = self.exact_mask(weight).to(weight.dtype)
        return _marked(torch.where(mask == 0, mask, weight * mask))

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Return dense weights for weights that are assigned: themselves."""
        if weight.shape != self.shape:
            raise ValueError(f"weight must have the shape {tuple(self.shape)} of its mask, got {tuple(weight.shape)}")
        return weight

    def extra_repr(self) -> str:
        """Return the parts."""
        return f"k={self.k}, scores={self.scores}, rule={self.rule}"


def check_weight(name: str, weight: Tensor) -> None:
    """Refuse what cannot be masked."""
    check_floating(name, weight)
    if weight.numel() == 0:
        raise ValueError(f"{name} must have elements, got shape {tuple(weight.shape)}")
    check_unmasked(name, weight)
    if weight.grad_fn is not None:
        raise ValueError(
            f"{name} must be a parameter, got the output of {weight.grad_fn.name()}: parametrized already?"
        )


def check_unmasked(name: str, weight: Tensor) -> None:
    """Refuse what a :class:`Sparsity` returned: a second mask on the first."""
    if not torch.compiler.is_compiling() and vars(weight).get(_MASKED, False):
        raise ValueError(f"{name} must be dense, got masked weights: the tensor is parametrized already")


def _marked(weight: Tensor) -> Tensor:
    if not torch.compiler.is_compiling():
        vars(weight)[_MASKED] = True
    return weight


def falling(k: float | Schedule, units: int) -> Schedule:
    """Return k as a schedule of counts: a number is where k ends that falls from all units."""
    schedule = k if isinstance(k, Schedule) else GeometricSchedule(start=units, end=unit_count(k, units), until=UNTIL)
    schedule = schedule.counted(units)
    if schedule.end != int(schedule.end):
        raise ValueError(f"k must end at a whole number, got {schedule.end}")
    return schedule
