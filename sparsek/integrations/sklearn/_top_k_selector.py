"""Feature selection with exactly k features, behind the API of scikit-learn."""

from __future__ import annotations

from dataclasses import replace
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, MetaEstimatorMixin, _fit_context
from sklearn.feature_selection import SelectorMixin
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import Tensor, nn

from sparsek.datamodules import Standardisation
from sparsek.estimators import PathwiseEstimator, StraightThrough
from sparsek.nn import GeometricSchedule, Schedule
from sparsek.relaxations import Relaxation, SigmoidTopK
from sparsek.sampling import Design

from ._knee import KneeCurve, knee
from ._network import fresh_network
from ._restarts import RestartGates, side_by_side
from ._rows import Array, Rows, merge_equal_rows
from ._stability import mean_jaccard, ranks, top
from ._target import Target, target_of
from ._training import Recipe, Record, train

_KEPT = 5
_LEAST_KEPT = 0.5
_LEAST_ROWS = 10
_ENTRIES = 2**22


class TopKSelector(SelectorMixin, MetaEstimatorMixin, BaseEstimator):
    r"""Select exactly k features by training a gate together with a network.

    A gate as :class:`~sparsek.nn.FeatureGate` before a network draws masks of k features with inclusion probabilities π; k falls
    geometrically from `start` to its end in the first 80 % of the steps, and the gradient of the loss moves the scores behind
    π. `restarts` gates are trained with different initial weights, batches and (below `subsample` = 1) rows. Their mean π
    decides: the k features with the largest one are selected, ties to the lowest index.

    Restarts are trained side by side, in steps that serve all of them, as many at a time as keep batch × columns × restarts
    below 4 million: five take one and a half to three times as long as one. Memory is linear in batch × columns.

    In training, features that were drawn are dropped again with probability `dropout`: without it a network that can do with
    a few of the k features leaves the others to chance. "auto" keeps half of k features on average, but 5 (k, if less) at least.
    `noise` added to the columns keeps the network from learning single rows by heart: of use where rows are few, or come in
    groups of nearly equal ones, such as repeated measurements, that are to be told apart by the class alone.

    Columns are standardised inside; constant ones are taken last. Equal rows are merged, so weights are exactly repetitions,
    and the order of rows does not matter. The same `random_state` gives the same result to the last bit, and the global
    generators are not touched. Trained by :class:`~sparsek.tasks.FeatureSelectionTask`, so by Lightning.

    Args:
        k: Number of features: an int, a share of the columns (float below 1), or "auto": the smallest k whose loss on a
            fifth of the rows, held out while k falls, is within one standard error of the least.
        estimator: "classifier" (cross-entropy), "regressor" (squared error), or a module from (rows, columns) to outputs;
            a module is copied, its layers are reset for each restart, and y says which loss it gets.
        relaxation: Maps scores to π; None = :class:`~sparsek.relaxations.SigmoidTopK`.
        design: Draws masks; None = the mode's default.
        mode: How masks are drawn and gradients pass them: a pathwise estimator; None =
            :class:`~sparsek.estimators.StraightThrough`; :class:`~sparsek.nn.Marginals` does not draw.
        start: What k falls from: a count (int) or a share of the columns (float): features that matter only together are
            found while all are there.
        dropout: Probability in [0, 1), or "auto".
        noise: Standard deviation of normal noise that is added to the standardised columns in training, drawn anew for every
            batch.
        hidden: Widths of the hidden layers of the network.
        max_steps: Optimizer steps of one restart.
        batch_size: Rows of a batch, each with a mask of its own.
        learning_rate: Of the network.
        score_rate: Learning rate of the scores: a number, or a :class:`~sparsek.nn.Schedule`; one that falls makes restarts
            agree more.
        weight_decay: Of the network.
        restarts: Number of gates.
        subsample: Share of the (different) rows that a restart is trained on.
        random_state: Seed, generator, or None for the global one of numpy.
        accelerator: Lightning's: "cpu", "gpu", "auto", …
        progress_bar: Whether Lightning shows one.

    Attributes:
        inclusion_probabilities_: (columns,): mean π of the restarts; their sum is k.
        support_: (columns,) of bool: the selected features.
        ranking_: (columns,): 1 for selected features, 2 for the best of the others, and so on.
        stability_: Mean Jaccard index of the restarts' own selections; NaN for one restart.
        history_: List of dicts: restart, step, k and loss.
        knee_: With `k="auto"`, list of dicts: k, loss and error on the held-out rows.
        k_: Number of selected features.
        n_features_in_: Number of columns.
        feature_names_in_: Names of the columns, where `fit` was given any.

    Raises:
        ValueError: As scikit-learn does; and if k is larger than the number of columns, or "auto" and there are fewer than 10
            different rows.

    Example:
        >>> import numpy as np
        >>> from sparsek.integrations.sklearn import TopKSelector
        >>> X = np.random.default_rng(0).standard_normal((200, 6))
        >>> y = X[:, 1] + X[:, 4] > 0
        >>> selector = TopKSelector(k=2, max_steps=100, restarts=2).fit(X, y)
        >>> selector.get_support(indices=True)
        array([1, 4])
        >>> selector.transform(X).shape
        (200, 2)
        >>> float(selector.inclusion_probabilities_.sum().round(6))
        2.0

    References:
        Wijk, Vinuesa, Azizpour, *Differentiable Top-k: From One-Hot to k-Hot*, 2025,
        https://openreview.net/forum?id=VMlajIH1oF
        Meinshausen, Bühlmann, *Stability Selection*, 2010, https://arxiv.org/abs/0809.2932
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "k": [Interval(Integral, 1, None, closed="left"), Interval(Real, 0, 1, closed="neither"), StrOptions({"auto"})],
        "estimator": [StrOptions({"classifier", "regressor"}), nn.Module],
        "relaxation": [Relaxation, None],
        "design": [Design, None],
        "mode": [PathwiseEstimator, None],
        "start": [Interval(Integral, 1, None, closed="left"), Interval(Real, 0, 1, closed="right")],
        "dropout": [Interval(Real, 0, 1, closed="left"), StrOptions({"auto"})],
        "noise": [Interval(Real, 0, None, closed="left")],
        "hidden": ["array-like"],
        "max_steps": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "score_rate": [Interval(Real, 0, None, closed="neither"), Schedule],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "restarts": [Interval(Integral, 1, None, closed="left")],
        "subsample": [Interval(Real, 0, 1, closed="right")],
        "random_state": ["random_state"],
        "accelerator": [str],
        "progress_bar": ["boolean"],
    }

    def __init__(
        self,
        k: float | str = 0.5,
        *,
        estimator: str | nn.Module = "classifier",
        relaxation: Relaxation | None = None,
        design: Design | None = None,
        mode: PathwiseEstimator | None = None,
        start: float = 1.0,
        dropout: float | str = "auto",
        noise: float = 0.0,
        hidden: tuple[int, ...] = (64,),
        max_steps: int = 1000,
        batch_size: int = 128,
        learning_rate: float = 3e-3,
        score_rate: float | Schedule = 0.02,
        weight_decay: float = 0.01,
        restarts: int = 5,
        subsample: float = 1.0,
        random_state: int | np.random.RandomState | None = 0,
        accelerator: str = "cpu",
        progress_bar: bool = False,
    ) -> None:
        self.k = k
        self.estimator = estimator
        self.relaxation = relaxation
        self.design = design
        self.mode = mode
        self.start = start
        self.dropout = dropout
        self.noise = noise
        self.hidden = hidden
        self.max_steps = max_steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.score_rate = score_rate
        self.weight_decay = weight_decay
        self.restarts = restarts
        self.subsample = subsample
        self.random_state = random_state
        self.accelerator = accelerator
        self.progress_bar = progress_bar

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train the gates and select.

        Args:
            X: (rows, columns), dense and finite.
            y: (rows,) of labels or numbers, or (rows, outputs) of numbers.
            sample_weight: (rows,) of weights >= 0; None = ones.

        Returns:
            The selector.
        """
        target, rows = self._read(X, y, sample_weight)
        varying = np.flatnonzero((rows.input != 0).any(0).numpy())
        random = check_random_state(self.random_state)
        rows = rows._replace(input=rows.input[:, varying])
        self.k_ = self._knee(rows, target, random) if self.k == "auto" else self._count()
        inner = min(self.k_, len(varying))
        probs, records = self._restarts(rows, target, inner, random) if inner < len(varying) else ([np.ones(inner)], [])
        self._conclude([self._with_constants(each, varying) for each in probs])
        self.history_ = [vars(record) for record in records]
        return self

    def _read(self, X: Any, y: Any, sample_weight: Any) -> tuple[Target, Rows]:
        """Check what `fit` was given and return it as tensors."""
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32], multi_output=True, y_numeric=False)
        if self.k != "auto":
            self._count()
        weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        target, kept = target_of(self.estimator, y), weight > 0
        if not kept.any():
            raise ValueError("Sample weights must contain at least one non-zero number.")
        X, encoded, weight = merge_equal_rows(X[kept], target.encode(np.asarray(y)[kept]), weight[kept])
        input = torch.from_numpy(Standardisation.fit(X, weight)(X)).float()
        return target, Rows(input, target.tensor(encoded, weight), torch.from_numpy(weight / weight.mean()).float())

    def _count(self) -> int:
        """Return k, which is not "auto", as a number of columns."""
        k, columns = float(self.k), self.n_features_in_
        if k > columns:
            raise ValueError(f"k should be <= n_features = {columns}; got {self.k}.")
        return max(1, round(k * columns)) if k < 1 else int(k)

    def _gates(self, restarts: int, columns: int, k: int) -> RestartGates:
        start = min(self.start, columns) if isinstance(self.start, Integral) else round(self.start * columns)
        dropout = self.dropout
        if isinstance(dropout, str):
            dropout = 1 - min(1.0, max(_LEAST_KEPT, _KEPT / k))
        schedule = GeometricSchedule(max(start, k), k, until=0.8)
        parts = self.relaxation or SigmoidTopK(), self.design, self.mode or StraightThrough()
        return RestartGates(restarts, columns, schedule, *parts, dropout=dropout, noise=self.noise)

    def _train(
        self, rows: Rows, target: Target, k: int, recipe: Recipe, kept: list[Tensor], seeds: list[int], first: int = 0
    ) -> tuple[RestartGates, list[Record]]:
        columns, outputs = rows.input.shape[1], target.outputs(rows.target)

        def build(restarts: int) -> tuple[RestartGates, nn.Module]:
            networks = [fresh_network(self.estimator, columns, tuple(self.hidden), outputs) for _ in range(restarts)]
            return self._gates(restarts, columns, k), side_by_side(networks)

        return train(build, rows, kept, recipe, seeds, first)

    def _restarts(
        self, rows: Rows, target: Target, k: int, random: np.random.RandomState
    ) -> tuple[list[Array], list[Record]]:
        """Train all gates, as many at a time as fit, and return the inclusion probabilities of each, and the records."""
        samples, columns = rows.input.shape
        seeds = [random.randint(2**31 - 1) for _ in range(self.restarts)]
        kept = [_rows_of(samples, max(1, round(self.subsample * samples)), seed) for seed in seeds]
        together = max(1, _ENTRIES // (min(self.batch_size, len(kept[0])) * columns))
        probs, records = [], []
        for first in range(0, self.restarts, together):
            here = slice(first, first + together)
            gates, found = self._train(rows, target, k, self._recipe(), kept[here], seeds[here], first)
            probs += _probabilities(gates)
            records += sorted(found, key=lambda record: (record.restart, record.step))
        return probs, records

    def _recipe(self) -> Recipe:
        rates = self.learning_rate, self.score_rate, self.weight_decay
        return Recipe(self.max_steps, self.batch_size, *rates, self.accelerator, self.progress_bar)

    def _knee(self, rows: Rows, target: Target, random: np.random.RandomState) -> int:
        """Let k fall to 1 on four fifths of the rows and return the knee of the loss on the rest."""
        samples, columns = rows.input.shape
        if samples < _LEAST_ROWS:
            raise ValueError(f'k="auto" needs at least {_LEAST_ROWS} different samples, got n_samples = {samples}.')
        if not columns:
            return 1
        seed = random.randint(2**31 - 1)
        order = torch.from_numpy(np.random.RandomState(seed).permutation(samples))
        held_out = samples // 5
        curve = KneeCurve(rows.take(order[:held_out]))
        recipe = replace(self._recipe(), watch=curve)
        self._train(rows, target, 1, recipe, [order[held_out:]], [seed])
        self.knee_ = [point._asdict() for point in curve.points]
        return knee(curve.points)

    def _with_constants(self, probs: Array, varying: Array) -> Array:
        """Return the probabilities of all columns: the constant ones share what is left of k."""
        columns = self.n_features_in_
        left = (self.k_ - min(self.k_, len(varying))) / max(1, columns - len(varying))
        full = np.full(columns, left)
        full[varying] = probs
        return full

    def _conclude(self, probs: list[Array]) -> None:
        self.inclusion_probabilities_ = np.mean(probs, axis=0)
        self.support_ = top(self.inclusion_probabilities_, self.k_)
        self.ranking_ = ranks(self.inclusion_probabilities_, self.support_)
        self.stability_ = mean_jaccard([top(each, self.k_) for each in probs]) if self.restarts > 1 else float("nan")

    def _get_support_mask(self) -> Array:
        check_is_fitted(self)
        return self.support_

    def __sklearn_tags__(self) -> Any:
        """Say that y is needed."""
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.target_tags.multi_output = self.estimator == "regressor"
        return tags


def _rows_of(samples: int, count: int, seed: int) -> Tensor:
    """Return the numbers of the rows that a restart is trained on, sorted."""
    return torch.from_numpy(np.random.RandomState(seed).permutation(samples)[:count]).sort().values


def _probabilities(gates: RestartGates) -> list[Array]:
    """Return π of each trained gate in float64."""
    with torch.no_grad():
        return list(gates.double().probs().numpy())
