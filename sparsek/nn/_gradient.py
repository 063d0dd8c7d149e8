"""Gradients: what carries a signal from the output of a mixture to the gate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ._selection import Selection, moving


class Gated(NamedTuple):
    """What the gate says of the chosen experts: the input of a :class:`Gradient`."""

    weights: Tensor
    """(..., k): their forward weights, with the gradient of the gate."""
    chosen: Tensor
    """(..., k): their marginals; 0 at slots without an expert."""
    marginals: Tensor
    """(..., experts): the marginals of all."""
    taken: Tensor
    """(..., experts) bool: which experts the token runs."""
    indices: Tensor
    """(..., k): the chosen experts; −1 at slots without one."""
    drawn: bool
    """Whether they were drawn with the marginals as inclusion probabilities: a sampled selection while training."""
    log_prob: Tensor | None = None
    """(...): the log-probability of the draw, with its gradient, if it was drawn and the gradient `uses_score`."""
    training: bool = True
    """Whether the model trains."""
    generator: torch.Generator | None = None
    """Source of randomness for gradients that need it."""


class Carried(NamedTuple):
    """What a gradient makes of it."""

    weights: Tensor
    """(..., k): the same values with the gradient that this object stands for."""
    absent: Tensor | None = None
    """(..., experts): weights of the experts that are not run, with a gradient, for the output's second part; or None."""


class Gradient(ABC):
    r"""A rule for the gradient of the loss to the gate: a small immutable object.

    With $g = \partial L / \partial y$ at the output y of the mixture, a dense mixture $\sum_i w_i f_i$ would give the
    gate $\sum_i \langle g, f_i \rangle\, \partial w_i$ over all experts, of which k have been run. The rules differ in
    what stands for the others. For a *sampled* selection the truth is $\partial\, E_S[L(y_S)]$; where L is linear in y
    that is the dense sum with $w = \pi$, and the statements about bias below are for that case, tested by enumeration.
    For a curved L none of them is unbiased, as g depends on the sample, but :class:`SecondOrder` for a quadratic one.

    The experts themselves always get the gradient of the forward pass that was run.

    Attributes:
        uses_means: Whether absent experts are replaced by their running mean output, which the router keeps.
        uses_all: Whether the backward pass runs all experts on all tokens.
        uses_score: Whether the log-probability of a draw is needed.
    """

    uses_means: ClassVar[bool] = False
    uses_all: ClassVar[bool] = False
    uses_score: ClassVar[bool] = False

    def check(self, selection: Selection) -> None:
        """Refuse a selection for which this gradient has no meaning; by default none."""
        return

    @abstractmethod
    def __call__(self, gated: Gated) -> Carried:
        """Give the weights of the chosen experts, and of the others if they count, their gradient."""


def check_sampled(gradient: Gradient, selection: Selection) -> None:
    """Refuse a selection that has no inclusion probabilities to divide by."""
    if not selection.sampled:
        raise ValueError(
            f"selection must draw experts with known inclusion probabilities for {gradient}, got {selection}; "
            "Sampled() does"
        )


@dataclass(frozen=True)
class TopKOnly(Gradient):
    r"""The gradient of the weights of the chosen experts, $\sum_{i \in S} \langle g, f_i \rangle\, \partial w_i$.

    Under a deterministic selection this is the exact gradient of the forward pass, almost everywhere. Under a sampled
    one (straight-through, weights 1 and $\partial w_i = \partial \pi_i$) its expectation is
    $\sum_i \pi_i \langle g, f_i \rangle\, \partial \pi_i$: biased by the factor π on each term.

    References:
        Shazeer et al., 2017, "Outrageously Large Neural Networks", https://arxiv.org/abs/1701.06538
    """

    def __call__(self, gated: Gated) -> Carried:
        """Keep the gate's own gradient."""
        return Carried(gated.weights)


@dataclass(frozen=True)
class HorvitzThompson(Gradient):
    r"""Straight-through with the weights $1/\pi$ of Horvitz and Thompson, for a sampled selection.

    $\sum_{i \in S} \tfrac{1}{\pi_i} \langle g, f_i \rangle\, \partial \pi_i$: the chosen stand for the others in
    proportion to how rarely they are drawn. Unbiased for a linear loss; its variance grows as π falls, but the product
    $\partial \pi_i / \pi_i = \partial \log \pi_i$ stays bounded for a sigmoid. In eval, where nothing is drawn, as
    :class:`TopKOnly`.

    References:
        Horvitz & Thompson, 1952, "A Generalization of Sampling Without Replacement from a Finite Universe",
        https://doi.org/10.1080/01621459.1952.10483446
    """

    def check(self, selection: Selection) -> None:
        """Refuse a selection without inclusion probabilities."""
        check_sampled(self, selection)

    def __call__(self, gated: Gated) -> Carried:
        """Divide each gradient by its inclusion probability."""
        return Carried(inverse_probability(gated) if gated.drawn else gated.weights)


def inverse_probability(gated: Gated) -> Tensor:
    """The forward weights with the gradient of log π of the chosen."""
    tiny = torch.finfo(gated.chosen.dtype).tiny
    return gated.weights.detach() + moving(gated.chosen / gated.chosen.detach().clamp_min(tiny))
