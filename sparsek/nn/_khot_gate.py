"""What gates on features have in common: k, its schedule or its budget, a temperature, groups, and the draw of a mask."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from sparsek._validation import check_floating, check_positive
from sparsek.estimators import PathwiseEstimator, StraightThrough
from sparsek.functional import topk_mask
from sparsek.relaxations import Relaxation, SigmoidTopK
from sparsek.sampling import Design

from ._cost_budget import CostBudget
from ._schedule import Schedule, unit_count
from ._selector import KHotSelector

_RELAXATION = SigmoidTopK()
_ESTIMATOR = StraightThrough()
_REAL = 0.5


class KHotGate(nn.Module):
    """Multiply k of n features by 1 and the others by 0. A subclass says where the :meth:`scores` come from.

    Features outside the mask are exactly 0 (a NaN or an infinite value times 0 is NaN: fill them in first), so features
    should be centred. What is written of units below are groups, where `groups` is given, and features otherwise.

    - In training a mask comes from the relaxation, design and estimator at scores / temperature, with a gradient.
    - In eval mode it is the top k, with k rounded to a whole number: exactly k units, ties to the lowest index.

    :meth:`anneal` sets the share of training that is done, at which schedules are read. It starts at 1: a gate that nobody
    anneals has the last k and temperature.

    Args:
        num_features: n.
        k: Number of units: a count (int, or float of at least 1), a share of them (float below 1), a :class:`Schedule` over
            either, an `nn.Parameter` that is learnt (kept within [0, units] when read, with its gradient whole), or a
            :class:`CostBudget`.
        relaxation: Maps scores to inclusion probabilities.
        design: Draws samples; None = the estimator's default.
        estimator: A pathwise estimator; :class:`Marginals` for no sample.
        temperature: What scores are divided by: a number above 0 or a :class:`Schedule`.
        groups: For each feature the group that it is in, 0 to the number of groups - 1: groups are selected whole.

    Raises:
        ValueError: If an argument is out of range, or k is or becomes real and a part needs it whole.

    Example:
        >>> class Magnitude(KHotGate):
        ...     def scores(self, input):
        ...         return input.abs()
        >>> Magnitude(4, k=2).eval()(torch.tensor([1.0, -3.0, 2.0, 0.5]))
        tensor([ 0., -3.,  2.,  0.])
    """

    costs: Tensor | None
    groups: Tensor | None
    progress: Tensor

    def __init__(
        self,
        num_features: int,
        k: float | Schedule | nn.Parameter | CostBudget,
        relaxation: Relaxation = _RELAXATION,
        design: Design | None = None,
        estimator: PathwiseEstimator = _ESTIMATOR,
        *,
        temperature: float | Schedule = 1.0,
        groups: Sequence[int] | Tensor | None = None,
    ) -> None:
        super().__init__()
        self.num_features, self.num_units = num_features, num_features
        self.register_buffer("groups", _group_indices(groups, num_features))
        if self.groups is not None:
            self.num_units = int(self.groups.max()) + 1
        self.register_buffer("costs", self._unit_costs(k), persistent=False)
        self.register_buffer("progress", torch.ones(()))
        self.k = _counted(k, self.num_units)
        representative = self.k if isinstance(self.k, (int, float, nn.Parameter)) else _REAL
        self.selector = KHotSelector(representative, relaxation, design, estimator)
        if not isinstance(temperature, Schedule):
            check_positive("temperature", temperature)
        self.temperature = temperature

    @abstractmethod
    def scores(self, input: Tensor) -> Tensor:
        """Return free scores of the units, (..., units), that broadcast against the leading dimensions of `input`."""

    def anneal(self, progress: float) -> None:
        """Set the share of training that is done, in [0, 1]."""
        if not 0 <= progress <= 1:
            raise ValueError(f"progress must lie in [0, 1], got {progress}")
        self.progress.fill_(progress)

    def current_k(self, logits: Tensor) -> float | Tensor:
        """Return k at this progress, for scores / temperature `logits`: real while it is annealed, one per row in a budget."""
        if isinstance(self.k, CostBudget):
            return self.k.k(logits, self.selector.relaxation, self._costs(logits))
        if isinstance(self.k, Schedule):
            return self.k(self.progress.to(logits.dtype))
        if isinstance(self.k, nn.Parameter):
            return self.k + (self.k.clamp(0, self.num_units) - self.k).detach()
        return self.k

    def logits(self, input: Tensor) -> Tensor:
        """Return scores / temperature, in float32 or better."""
        scores = self.scores(input)
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        return scores / (
            self.temperature(self.progress) if isinstance(self.temperature, Schedule) else self.temperature
        )

    def probs(self, input: Tensor) -> Tensor:
        """Return the inclusion probability of each feature, (..., n); over units they sum to k."""
        logits = self.logits(input)
        return self._spread(self.selector.relaxation(logits, self.current_k(logits)))

    def mask(self, input: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the mask of each feature: a draw with a gradient in training, the top k in eval mode."""
        logits = self.logits(input)
        if not self.training:
            return self._spread(self._best(logits))
        parts = self.selector
        units = parts.estimator(logits, self.current_k(logits), parts.relaxation, parts.design, generator)
        return self._spread(units)

    def forward(self, input: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Gate.

        Shape:
            - input: (..., n).
            - output: (..., n), in the dtype of `input`.

        Args:
            input: Features.
            generator: Source of randomness; not read in eval mode.

        Raises:
            ValueError: If `input` is not floating-point or has another number of features.
        """
        check_floating("input", input)
        if input.shape[-1:] != (self.num_features,):
            raise ValueError(f"input must have shape (..., {self.num_features}), got {tuple(input.shape)}")
        return input * self.mask(input, generator).to(input.dtype)

    def _best(self, logits: Tensor) -> Tensor:
        if isinstance(self.k, CostBudget):
            return self.k.affordable(logits, self._costs(logits))
        k = self.current_k(logits)
        return topk_mask(logits, k.round() if isinstance(k, Tensor) else round(k)).detach()

    def _spread(self, units: Tensor) -> Tensor:
        return units if self.groups is None else units[..., self.groups]

    def _costs(self, logits: Tensor) -> Tensor:
        return cast(Tensor, self.costs).to(logits.dtype)

    def _unit_costs(self, k: object) -> Tensor | None:
        """Return the cost of each unit: of a group, that of its features."""
        if not isinstance(k, CostBudget):
            return None
        costs = torch.tensor(k.costs)
        if len(costs) != self.num_features:
            raise ValueError(f"costs must hold {self.num_features} numbers, one per feature, got {len(costs)}")
        return costs if self.groups is None else costs.new_zeros(self.num_units).index_add(0, self.groups, costs)

    def extra_repr(self) -> str:
        """Return the arguments that the selector does not show."""
        return f"num_features={self.num_features}, k={self.k}, temperature={self.temperature}"


def _counted(
    k: float | Schedule | nn.Parameter | CostBudget, units: int
) -> float | Schedule | nn.Parameter | CostBudget:
    """Return k as counts of units."""
    if isinstance(k, Schedule):
        return k.counted(units)
    return k if isinstance(k, (nn.Parameter, CostBudget)) else unit_count(k, units)


def _group_indices(groups: Sequence[int] | Tensor | None, num_features: int) -> Tensor | None:
    """Return the group of each feature; refuse another number of features and group numbers with gaps."""
    if groups is None:
        return None
    indices = torch.as_tensor(groups)
    if indices.shape != (num_features,) or indices.dtype.is_floating_point or indices.dtype == torch.bool:
        raise ValueError(
            f"groups must be {num_features} whole numbers, one per feature, got {indices.dtype} {tuple(indices.shape)}"
        )
    if not torch.equal(indices.unique(), torch.arange(int(indices.max()) + 1)):
        raise ValueError(f"groups must be numbered 0, 1, … without gaps, got {indices.unique().tolist()}")
    return indices.long()
