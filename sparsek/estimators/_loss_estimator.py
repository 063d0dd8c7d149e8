"""The contract of an estimator that needs the loss as a function of the sample."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from sparsek._validation import check_count
from sparsek.relaxations import Relaxation
from sparsek.sampling import Design

from ._estimator import SIGMOID_TOPK, Estimator, fixed, widen
from ._losses import losses, mean_with_gradient, per_loss
from ._score import design_with_score


class LossEstimator(Estimator, ABC):
    """An estimator that needs the loss as a function of the sample: it returns a loss, not a sample.

    A subclass writes `_carrier`, whose gradient is the estimate.

    Attributes:
        vectorize: Whether `fn` is called once on all samples, or once a sample.
    """

    vectorize: bool

    def resolve_design(self, design: Design | None) -> Design:
        """Return `design`, or `ConditionalPoisson()` where it is None; warn of one that is not smooth."""
        return design_with_score(design)

    def surrogate(
        self,
        fn: Callable[[Tensor], Tensor],
        input: Tensor,
        k: float | Tensor,
        relaxation: Relaxation = SIGMOID_TOPK,
        design: Design | None = None,
        num_samples: int = 2,
        generator: torch.Generator | None = None,
        *,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return a loss to call `backward` on: its value is the mean loss, its gradient the estimate.

        Gradients to what `fn` closes over (its own parameters, or `input` used in other ways) are those of the mean
        loss over the samples drawn: unbiased, and not touched by the estimator.

        Shape:
            - input: (..., n), rows are independent.
            - k: a number, or a tensor that broadcasts to (...).
            - mask: broadcasts to (..., n).
            - output: scalar.

        Args:
            fn: Loss of a sample. It gets a sample of the shape and dtype of `input` and returns the loss of every
                row, shape (...), or of groups of rows: any leading part of (...), down to a scalar for all rows. The
                scores of the rows behind one loss add up, so the variance is least with one loss a row. A loss must
                not depend on the rows of another. With `vectorize=True` it gets all samples at once, and both
                shapes have num_samples in front.
            input: Free scores.
            k: Number of units to pick, in [0, number of valid units].
            relaxation: Maps scores to inclusion probabilities.
            design: Draws the samples; None = `ConditionalPoisson()`.
            num_samples: Number of samples per row, at least 1.
            generator: Source of randomness.
            mask: True = keep; masked units are never drawn and get no gradient.

        Returns:
            The mean of the losses over samples and rows.

        Raises:
            ValueError: If the parts do not fit together, or an argument or what `fn` returns is out of range.
        """
        self.check(k, relaxation)
        check_count("num_samples", num_samples)
        law = self.resolve_design(design)
        probs = relaxation(widen(input), k, mask=mask, generator=generator)
        draw = law.draw(probs.detach(), (num_samples,), k=fixed(k), generator=generator)
        samples = draw.sample.to(input.dtype)
        loss = losses(fn, samples, self.vectorize)
        log_prob = per_loss(law.log_prob(probs, draw, k=k), loss.dim())
        return mean_with_gradient(loss, self._carrier(fn, probs, samples, loss.detach(), log_prob))

    @abstractmethod
    def _carrier(
        self, fn: Callable[[Tensor], Tensor], probs: Tensor, samples: Tensor, loss: Tensor, log_prob: Tensor
    ) -> Tensor:
        """Return a tensor of the shape of `loss` whose mean has the estimate as its gradient.

        Shape:
            - probs: (..., n), with a graph.
            - samples: (num_samples, ..., n).
            - loss: (num_samples, *P), where P is a leading part of (...); detached.
            - log_prob: the shape of `loss`, with a graph; summed over the rows behind a loss.
        """
