"""From scores to a mask: what happens between the relaxed choice of training and the exact one of evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from sparsek._validation import check_positive
from sparsek.estimators import PathwiseEstimator
from sparsek.functional import topk_mask
from sparsek.nn._marginals import Marginals
from sparsek.nn._schedule import GeometricSchedule, Schedule
from sparsek.nn._selector import check_pathwise
from sparsek.relaxations import Relaxation, SigmoidTopK
from sparsek.sampling import Design


@dataclass(frozen=True)
class MaskRule:
    r"""A mask of k units from scores x: $m = \text{estimator}(\text{relaxation}(x / T, k))$ in training, the top k in evaluation.

    - By default m is sigmoid top-k itself: between 0 and 1, summing to k, sharper as T falls.
    - `relaxation=SigmoidTopK(hard=True)`: the top k forward, sigmoid top-k backward (straight-through).
    - `estimator=StraightThrough()`: a sample of the design, with inclusion probabilities sigmoid top-k.

    Args:
        temperature: T: a number above 0 or a :class:`~sparsek.nn.Schedule`.
        relaxation: Maps scores to inclusion probabilities.
        estimator: A pathwise estimator; the default takes no sample.
        design: Draws samples; None = the estimator's default.

    Raises:
        ValueError: If a number is out of range, or the parts do not fit together.

    Example:
        >>> import torch
        >>> rule = MaskRule(temperature=GeometricSchedule(1.0, 0.1))
        >>> scores = torch.tensor([2.0, 1.0, 0.0, -1.0])
        >>> rule.relaxed(scores, 2, torch.tensor(0.0))
        tensor([0.8176, 0.6225, 0.3775, 0.1824])
        >>> rule.relaxed(scores, 2, torch.tensor(1.0))
        tensor([1.0000e+00, 9.9331e-01, 6.6929e-03, 3.0590e-07])
        >>> rule.exact(scores, 2)
        tensor([1., 1., 0., 0.])
    """

    temperature: float | Schedule = field(default_factory=lambda: GeometricSchedule(1.0, 0.05, until=0.75))
    relaxation: Relaxation = field(default_factory=SigmoidTopK)
    estimator: PathwiseEstimator = field(default_factory=Marginals)
    design: Design | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.temperature, Schedule):
            check_positive("temperature", self.temperature)
        check_pathwise(self.estimator)
        self.estimator.check(0.5, self.relaxation)  # k is real while it falls

    def relaxed(self, scores: Tensor, k: float | Tensor, progress: Tensor) -> Tensor:
        """Return the mask of training, (..., n), with a gradient to `scores` (..., n)."""
        given = self.temperature
        temperature = given(progress.to(scores.dtype)) if isinstance(given, Schedule) else given
        return self.estimator(scores / temperature, k, self.relaxation, self.design)

    def exact(self, scores: Tensor, k: int) -> Tensor:
        """Return the mask of evaluation, (..., n): the top k, ties to the lowest index, without a gradient."""
        return topk_mask(scores.detach(), k)
