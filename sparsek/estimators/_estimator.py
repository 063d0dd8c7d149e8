"""What every gradient estimator asks of a relaxation, a design and k, and the contract of the pathwise ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from sparsek._validation import check_dim, check_floating, values_visible
from sparsek.relaxations import Relaxation, SigmoidTopK
from sparsek.sampling import Design, Pivotal

SIGMOID_TOPK = SigmoidTopK()
"""The relaxation that every estimator uses unless told otherwise."""


class Estimator:
    """What both kinds of estimator have in common: an immutable object with facts on its class.

    Attributes:
        uses_design: Whether it draws from the design at the relaxation's output, which must then lie on the capped
            simplex. Otherwise the design is ignored.
        real_k: Whether k may be a real number.
    """

    uses_design: ClassVar[bool] = True
    real_k: ClassVar[bool] = True

    def resolve_design(self, design: Design | None) -> Design:
        """Return `design`, or the estimator's default where it is None; warn of one that does not fit."""
        return Pivotal() if design is None else design

    def check(self, k: float | Tensor, relaxation: Relaxation) -> None:
        """Refuse a combination that has no meaning.

        Raises:
            ValueError: If the relaxation leaves the capped simplex and its output would be used as inclusion
                probabilities, or if k is a real number that the estimator or the relaxation cannot take.
        """
        name = type(self).__name__
        if self.uses_design and not relaxation.on_capped_simplex:
            raise ValueError(
                f"relaxation must map to the capped simplex for {name}, got {type(relaxation).__name__}; "
                "use SigmoidTopK() or Euclidean(), or the estimator Relaxed(), which takes any relaxation"
            )
        if not self.real_k:
            refuse_real(k, name, "StraightThrough() or SecondOrder()")
        if self.uses_design and not relaxation.real_k:
            refuse_real(k, type(relaxation).__name__, "SigmoidTopK()")


class PathwiseEstimator(Estimator, ABC):
    """An estimator that returns the sample itself, with a gradient attached to it."""

    @abstractmethod
    def __call__(
        self,
        input: Tensor,
        k: float | Tensor,
        relaxation: Relaxation = SIGMOID_TOPK,
        design: Design | None = None,
        generator: torch.Generator | None = None,
        *,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Draw a k-hot sample per row, through which gradients flow to `input`, tensor `k` and tensor temperature.

        Shape:
            - input: (..., n), rows are independent.
            - k: a number, or a tensor that broadcasts to (...).
            - mask: broadcasts to (..., n).
            - output: (..., n).

        Args:
            input: Free scores.
            k: Number of units to pick, in [0, number of valid units].
            relaxation: Maps scores to inclusion probabilities.
            design: Draws the sample; None = the estimator's default.
            generator: Source of randomness.
            mask: True = keep; masked units are never drawn and get no gradient.

        Returns:
            The exact sample, in the dtype of `input`.

        Raises:
            ValueError: If the parts do not fit together, or an argument is out of range.
        """


def refuse_real(k: float | Tensor, part: str, instead: str) -> None:
    """Refuse a k that is not whole, or may become so by training, for a `part` that cannot take it."""
    if isinstance(k, Tensor):
        if k.is_complex() or k.dtype == torch.bool:
            raise ValueError(f"k must be a real number, got dtype {k.dtype}")
        real = k.requires_grad or (values_visible(k) and bool((k != k.round()).any()))
        got = "a tensor with a gradient" if k.requires_grad else "a tensor of real numbers"
    else:
        real, got = isinstance(k, float) and not k.is_integer(), str(k)
    if real:
        raise ValueError(f"k must be a whole number for {part}, got {got}; use {instead}")


def widen(input: Tensor) -> Tensor:
    """`input` in float32 or better: probabilities rounded to half precision do not sum to k."""
    check_floating("input", input)
    check_dim("input", input, -1)
    return input.to(torch.promote_types(input.dtype, torch.float32))


def fixed(k: float | Tensor) -> float | Tensor:
    """`k` as the size that a design is told, outside of the graph."""
    return k.detach() if isinstance(k, Tensor) else k


def attach(value: Tensor, carrier: Tensor) -> Tensor:
    """`value` exactly, with the gradient of `carrier` (which must be finite)."""
    return value + (carrier - carrier.detach())
