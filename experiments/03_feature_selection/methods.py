"""Every method by name: a function of k, a seed and its settings that returns a selector with scikit-learn's interface."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from concrete import ConcreteSelector
from peers import LassoPath, StochasticGates
from sklearn.base import BaseEstimator
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_selection import RFE, SelectFromModel, SelectKBest, SelectorMixin, f_classif, mutual_info_classif
from sklearn.svm import LinearSVC
from slow_gate import SlowGate
from torch import Tensor

from sparsek.estimators import StraightThrough
from sparsek.integrations.sklearn import TopKSelector
from sparsek.nn import Marginals
from sparsek.relaxations import Relaxation, SigmoidTopK
from sparsek.sampling import Design

_RELAXATION = SigmoidTopK()


class RandomColumns(SelectorMixin, BaseEstimator):
    """k columns at random."""

    def __init__(self, k: int, random_state: int = 0) -> None:
        self.k, self.random_state = k, random_state

    def fit(self, X: np.ndarray, y: np.ndarray) -> RandomColumns:
        """Draw."""
        order = np.random.default_rng(self.random_state).permutation(X.shape[1])
        self.support_ = order < self.k
        return self

    def _get_support_mask(self) -> np.ndarray:
        return self.support_


class Screened(SelectorMixin, BaseEstimator):
    """What the second selector selects among what the first one does."""

    def __init__(self, first: Any, second: Any) -> None:
        self.first, self.second = first, second

    def fit(self, X: np.ndarray, y: np.ndarray) -> Screened:
        """Select twice."""
        left = self.first.fit(X, y).get_support(indices=True)
        self.support_ = np.zeros(X.shape[1], dtype=bool)
        self.support_[left[self.second.fit(X[:, left], y).get_support(indices=True)]] = True
        return self

    def _get_support_mask(self) -> np.ndarray:
        return self.support_


def random_columns(k: int, seed: int) -> Any:
    """What every other row has to beat."""
    return RandomColumns(k, seed)


def f_test(k: int, seed: int) -> Any:
    """Analysis of variance, a column at a time."""
    return SelectKBest(f_classif, k=k)


def mutual_information(k: int, seed: int) -> Any:
    """Mutual information with the class, a column at a time."""
    return SelectKBest(partial(mutual_info_classif, random_state=seed), k=k)


def recursive_elimination(k: int, seed: int, step: float = 0.2) -> Any:
    """A linear support vector machine, a fifth of the columns gone at a time."""
    return RFE(LinearSVC(C=0.01, tol=1e-2, random_state=seed), n_features_to_select=k, step=step)


def l1(k: int, seed: int, C: float) -> Any:
    """The k largest weights of a linear support vector machine with an L1 penalty."""
    machine = LinearSVC(penalty="l1", dual=False, C=C, max_iter=300, random_state=seed)
    return SelectFromModel(machine, threshold=-np.inf, max_features=k, norm_order=np.inf)


def forest(k: int, seed: int) -> Any:
    """The k largest importances of a random forest."""
    return SelectFromModel(RandomForestClassifier(200, random_state=seed), threshold=-np.inf, max_features=k)


def stochastic_gates(k: int, seed: int, **setting: Any) -> Any:
    """STG; its k largest means."""
    return StochasticGates(k, random_state=seed, **setting)


def concrete(k: int, seed: int, **setting: Any) -> Any:
    """The concrete selector; at most k columns."""
    return ConcreteSelector(k, random_state=seed, **setting)


def lassonet(k: int, seed: int, **setting: Any) -> Any:
    """What stays longest on LassoNet's path."""
    return LassoPath(k, random_state=seed, **setting)


def sparsek(k: int, seed: int, **setting: Any) -> Any:
    """`TopKSelector` as it comes, or with the settings given: five gates for which k falls and masks are drawn."""
    return TopKSelector(k, random_state=seed, **setting)


def relaxed(k: int, seed: int, **setting: Any) -> Any:
    """No draws and no annealing: the network sees every column, times its inclusion probability."""
    return sparsek(k, seed, mode=Marginals(), start=k, restarts=1, **setting)


def hard(k: int, seed: int, **setting: Any) -> Any:
    """Deterministic straight-through: the top k in the forward pass, the relaxation's gradient in the backward pass."""
    return sparsek(k, seed, mode=Marginals(), relaxation=SigmoidTopK(hard=True), start=k, restarts=1, **setting)


def warm_up(k: int, seed: int, **setting: Any) -> Any:
    """Relaxed while k falls from all columns, drawn at k in the last fifth of the steps."""
    return sparsek(k, seed, mode=RelaxedAbove(end=k), restarts=1, **setting)


def annealed(k: int, seed: int, **setting: Any) -> Any:
    """One gate: k falls from all columns, masks are drawn throughout."""
    return sparsek(k, seed, restarts=1, **setting)


def screened(k: int, seed: int, share: int = 5, **setting: Any) -> Any:
    """A random forest leaves `share` × k columns, a gate selects among them. Uses a forest, and so is no row of a gate."""
    screen = SelectFromModel(RandomForestClassifier(200, random_state=seed), threshold=-np.inf, max_features=share * k)
    return Screened(screen, annealed(k, seed, **setting))


def slow_gate(k: int, seed: int, **setting: Any) -> Any:
    """`FeatureGate` in a loop of its own: signs of the columns, plain gradient descent, all columns open for half of the steps."""
    return SlowGate(k, random_state=seed, **setting)


@dataclass(frozen=True)
class RelaxedAbove(StraightThrough):
    """No draws while k is above `end`: the probabilities themselves. Straight-through draws at it."""

    end: float = 1.0

    def __call__(
        self,
        input: Tensor,
        k: float | Tensor,
        relaxation: Relaxation = _RELAXATION,
        design: Design | None = None,
        generator: torch.Generator | None = None,
        *,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Choose by k."""
        if float(k) > self.end + 1e-6:
            return Marginals()(input, k, relaxation, design, generator, mask=mask)
        return super().__call__(input, k, relaxation, design, generator, mask=mask)
