"""How the terms of an equation are chosen: exactly k of them, by gates that are trained, or by trying every subset."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from sparsek._validation import check_positive
from sparsek.estimators import Estimator, LossEstimator, PathwiseEstimator
from sparsek.nn import FeatureGate, GeometricSchedule, Marginals
from sparsek.relaxations import Relaxation, SigmoidTopK

from ._moments import Moments, explained, penalised
from ._subsets import best, count, every_subset, exchange

_MARGINALS = Marginals()
_RELAXATION = SigmoidTopK()


class SupportSearch(ABC):
    """A way to find, for each equation, the k terms that explain most of its target."""

    @abstractmethod
    def __call__(self, moments: Moments, k: Sequence[int], generator: Generator) -> list[Tensor]:
        """Return the indices of k[e] terms for each equation e, sorted.

        Args:
            moments: Of all equations.
            k: Number of terms of each, from 1 to the number of terms.
            generator: Source of randomness, where there is any.
        """


@dataclass(frozen=True)
class Exhaustive(SupportSearch):
    """Try every subset of k terms: the optimum.

    Args:
        limit: Largest number of subsets that is tried.

    Raises:
        ValueError: When used, if there are more subsets than `limit`.

    Example:
        >>> gram, cross = torch.eye(4, dtype=torch.float64), torch.tensor([[0.1, 0.9, 0.2, 0.3]], dtype=torch.float64)
        >>> Exhaustive()(Moments(gram, cross, cross), [2], Generator())
        [tensor([1, 3])]
    """

    limit: int = 1_000_000

    def __call__(self, moments: Moments, k: Sequence[int], generator: Generator) -> list[Tensor]:
        """Return the best subsets."""
        return [self._best(moments.gram, cross, size) for cross, size in zip(moments.cross, k, strict=True)]

    def _best(self, gram: Tensor, cross: Tensor, k: int) -> Tensor:
        subsets = count(len(gram), k)
        if subsets > self.limit:
            raise ValueError(
                f"limit must be at least {subsets}, the subsets of {k} of {len(gram)} terms, got {self.limit}"
            )
        return best(gram, cross, every_subset(len(gram), k), 1)[0]


@dataclass(frozen=True)
class GateSearch(SupportSearch):
    r"""Train a gate with one score a term for each equation, k falling from all terms to its value.

    The gates s, those of a :class:`~sparsek.nn.FeatureGate` for each equation, multiply the columns of normalised terms. The loss is
    what ridge regression on gated columns leaves of the target, with the best coefficients in closed form; k falls geometrically
    in the first 80 % of the steps. `estimator` says what s is, and how the gradient reaches the scores:

    - :class:`~sparsek.nn.Marginals`: the inclusion probabilities, by sigmoid top-k. Deterministic; the loss is convex in s.
    - :class:`~sparsek.estimators.SecondOrder` and other pathwise ones: samples of exactly k terms.
    - :class:`~sparsek.estimators.ScoreFunction` and other loss-level ones: samples; the loss needs no derivative.

    The k terms with the largest scores are then improved: one is swapped for another as long as that explains more (`swap`).

    Args:
        estimator: As above.
        relaxation: From scores to inclusion probabilities.
        steps: Steps of Adam, at least 2.
        learning_rate: Of the scores, above 0.
        samples: Samples of a step, for estimators that draw.
        ridge: First and last weight of the ridge, relative to the squared norm of a column; it falls geometrically.
        restarts: Number of runs with random initial scores, the first with equal ones; the best result is kept.
        swap: Whether to improve the result by swaps.

    Raises:
        ValueError: If a number is out of range or the estimator is neither pathwise nor loss-level.

    Example:
        >>> gram, cross = torch.eye(4, dtype=torch.float64), torch.tensor([[0.1, 0.9, 0.2, 0.3]], dtype=torch.float64)
        >>> GateSearch(steps=20)(Moments(gram, cross, cross), [2], Generator())
        [tensor([1, 3])]

    References:
        Wijk, Vinuesa, Azizpour (2025), "Differentiable Top-k: From One-Hot to k-Hot", https://openreview.net/forum?id=VMlajIH1oF.
        Bertsimas, Van Parys (2020), "Sparse high-dimensional regression", https://doi.org/10.1214/18-AOS1804.
    """

    estimator: Estimator = _MARGINALS
    relaxation: Relaxation = _RELAXATION
    steps: int = 100
    learning_rate: float = 0.1
    samples: int = 8
    ridge: tuple[float, float] = (1e-1, 1e-5)
    restarts: int = 1
    swap: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.estimator, PathwiseEstimator | LossEstimator):
            raise ValueError(f"estimator must be pathwise or loss-level, got {self.estimator!r}")
        if self.steps < 2:
            raise ValueError(f"steps must be at least 2, got {self.steps}")
        for name in ("learning_rate", "samples", "restarts"):
            check_positive(name, getattr(self, name))
        if not 0 < self.ridge[1] <= self.ridge[0]:
            raise ValueError(f"ridge must be two numbers above 0, the first not the smaller one, got {self.ridge}")

    def __call__(self, moments: Moments, k: Sequence[int], generator: Generator) -> list[Tensor]:
        """Return the best subsets that were found."""
        runs = [self._run(moments, k, generator, first=not run) for run in range(self.restarts)]
        return [
            best(moments.gram, cross, torch.stack(subsets), 1)[0]
            for cross, *subsets in zip(moments.cross, *runs, strict=True)
        ]

    def _run(self, moments: Moments, k: Sequence[int], generator: Generator, *, first: bool) -> list[Tensor]:
        """Train all equations at once and return the subset of each."""
        gates = self._gates(len(moments.gram), k, generator, first=first)
        self._train(gates, moments, generator)
        subsets = [gate.support().nonzero().squeeze(1) for gate in gates]
        if not self.swap:
            return subsets
        pairs = zip(moments.cross, subsets, strict=True)
        return [exchange(moments.gram, cross, subset).sort().values for cross, subset in pairs]

    def _gates(self, terms: int, k: Sequence[int], generator: Generator, *, first: bool) -> list[FeatureGate]:
        schedules = [GeometricSchedule(terms, size, until=0.8) if size < terms else size for size in k]
        gates = [FeatureGate(terms, schedule, self.relaxation).double() for schedule in schedules]
        for gate in gates if not first else ():
            gate.weight.data.normal_(generator=generator)
        return gates

    def _train(self, gates: Sequence[FeatureGate], moments: Moments, generator: Generator) -> None:
        optimizer = torch.optim.Adam([gate.weight for gate in gates], lr=self.learning_rate)
        for step in range(self.steps):
            progress = step / (self.steps - 1)
            for gate in gates:
                gate.anneal(progress)
            ridge = self.ridge[0] ** (1 - progress) * self.ridge[1] ** progress
            optimizer.zero_grad()
            self._loss(gates, moments, ridge, generator).backward()
            optimizer.step()

    def _loss(self, gates: Sequence[FeatureGate], moments: Moments, ridge: float, generator: Generator) -> Tensor:
        """The mean over equations and samples, all equations in one call of the estimator."""
        scores = torch.stack([gate.weight for gate in gates])
        k = torch.stack([torch.as_tensor(gate.current_k(gate.weight), dtype=scores.dtype) for gate in gates])

        def left(mask: Tensor) -> Tensor:
            return penalised(moments.gram, moments.cross, mask, ridge)

        if isinstance(self.estimator, LossEstimator):
            return self.estimator.surrogate(
                left, scores, k, self.relaxation, num_samples=self.samples, generator=generator
            )
        samples = 1 if isinstance(self.estimator, Marginals) else self.samples
        assert isinstance(self.estimator, PathwiseEstimator)  # __post_init__ lets no other in
        return left(self.estimator(scores.expand(samples, -1, -1), k, self.relaxation, generator=generator)).mean()


def coefficients(moments: Moments, subsets: Sequence[Tensor]) -> Tensor:
    """Return the coefficients of least squares on the subsets, (equations, terms), 0 elsewhere."""
    full = torch.zeros_like(moments.cross)
    for row, cross, subset in zip(full, moments.cross, subsets, strict=True):
        row[subset] = explained(moments.gram, cross, subset.unsqueeze(0))[1][0]
    return full * moments.scale
