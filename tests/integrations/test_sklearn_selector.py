"""TopKSelector: scikit-learn's own checks, exactly k columns, and what repeats, weights and constant columns must do."""

import math
import pickle
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array, csr_matrix
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn

from sparsek.estimators import Relaxed
from sparsek.integrations.sklearn import TopKSelector
from sparsek.integrations.sklearn._knee import KneePoint, knee
from sparsek.nn import Marginals
from sparsek.sampling import Systematic

QUICK = {"max_steps": 5, "restarts": 1}


@parametrize_with_checks([TopKSelector(**QUICK), TopKSelector(estimator="regressor", **QUICK)])
def test_the_checks_of_scikit_learn(estimator, check):
    check(estimator)


def table(rows=300, columns=8, informative=(1, 5), seed=0):
    X = np.random.default_rng(seed).standard_normal((rows, columns))
    return X, X[:, list(informative)].sum(1) > 0


FOUND = {"max_steps": 150, "restarts": 2}


# --------------------------------------------------------------------------------------------------- selection


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 100), k=st.integers(1, 7), restarts=st.integers(1, 3), constants=st.integers(0, 3))
def test_exactly_k_columns_and_probabilities_that_sum_to_k(seed, k, restarts, constants):
    X, y = table(30, 7, seed=seed)
    X[:, :constants] = 4.2
    selector = TopKSelector(k, max_steps=3, restarts=restarts, random_state=seed).fit(X, y)
    probs = selector.inclusion_probabilities_
    assert selector.support_.sum() == k
    assert probs.sum() == pytest.approx(k, abs=1e-9)
    assert ((probs >= 0) & (probs <= 1 + 1e-12)).all()
    assert probs[selector.support_].min() >= probs[~selector.support_].max(initial=0)
    assert sorted(selector.ranking_) == [1] * k + list(range(2, 9 - k))
    assert (selector.ranking_ == 1).tolist() == selector.support_.tolist()
    assert selector.support_[:constants].sum() == max(0, k - (7 - constants))
    assert selector.transform(X).shape == (30, k)


def test_a_classifier_finds_what_matters():
    X, y = table()
    selector = TopKSelector(2, **FOUND).fit(X, np.where(y, "yes", "no"))
    assert selector.get_support(indices=True).tolist() == [1, 5]
    assert selector.stability_ == 1
    units = X * 10.0 ** np.arange(-4, 4) + 3  # columns are standardised
    assert clone(selector).fit(units, y).get_support(indices=True).tolist() == [1, 5]
    assert selector.inclusion_probabilities_[[1, 5]].min() > 0.6


def test_a_regressor_finds_what_matters_of_one_and_of_several_outputs():
    X, _ = table(seed=1)
    selector = TopKSelector(2, estimator="regressor", **FOUND)
    assert selector.fit(X, 1e6 + X[:, 0] - X[:, 6]).get_support(indices=True).tolist() == [0, 6]
    assert selector.fit(X, X[:, [2, 3]] * [1, 1e-3]).get_support(indices=True).tolist() == [2, 3]


@pytest.mark.parametrize("target", ["classes", "numbers"])
def test_a_module_is_trained_as_a_copy(target):
    X, y = table()
    module = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 2 if target == "classes" else 1))
    before = [p.clone() for p in module.parameters()]
    selector = TopKSelector(2, estimator=module, learning_rate=0.01, **FOUND)
    selector.fit(X, y if target == "classes" else X[:, 1] + X[:, 5])
    assert selector.get_support(indices=True).tolist() == [1, 5]
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


@pytest.mark.parametrize("parts", [{"mode": Marginals()}, {"mode": Relaxed(hard=False)}, {"design": Systematic()}])
def test_modes_and_designs_can_be_chosen(parts):
    X, y = table()
    assert TopKSelector(2, **parts, **FOUND).fit(X, y).get_support(indices=True).tolist() == [1, 5]


def test_one_restart_has_no_stability_and_more_have_that_of_their_pairs():
    X, _ = table(40, 10)
    y = np.random.default_rng(3).integers(0, 2, 40)
    assert math.isnan(TopKSelector(3, max_steps=2, restarts=1).fit(X, y).stability_)
    noise = TopKSelector(3, max_steps=40, score_rate=0.2, restarts=4, subsample=0.5).fit(X, y)
    assert 0 <= noise.stability_ < 1


def test_noise_keeps_the_network_from_learning_rows_by_heart():
    X, y = table(60, 20)
    y = np.random.default_rng(3).permutation(y)  # nothing but rows to learn
    losses = {
        noise: TopKSelector(10, max_steps=150, restarts=1, dropout=0.0, noise=noise).fit(X, y).history_[-1]["loss"]
        for noise in (0.0, 2.0)
    }
    assert losses[0.0] < 0.3 < losses[2.0]


def test_history_tells_step_k_and_loss_of_every_restart():
    X, y = table()
    selector = TopKSelector(1, start=8, **FOUND).fit(X, y)
    history = selector.history_
    assert [record["restart"] for record in history] == [0] * (len(history) // 2) + [1] * (len(history) // 2)
    first = [record for record in history if record["restart"] == 0]
    steps, ks = [record["step"] for record in first], [record["k"] for record in first]
    assert steps == sorted(set(steps))
    assert steps[-1] == 150
    assert (np.diff(ks) < 1e-5).all()
    assert ks[-1] == pytest.approx(1, abs=1e-5)
    assert all(record["loss"] > 0 for record in history)


def test_auto_k_is_at_the_knee():
    X, y = table(600)
    selector = TopKSelector("auto", learning_rate=0.01, max_steps=300, restarts=1).fit(X, y)
    assert selector.k_ in (2, 3)
    assert selector.support_[[1, 5]].all()
    assert selector.support_.sum() == selector.k_
    assert {point["k"] for point in selector.knee_} >= {1, 2}


def test_auto_k_needs_rows_and_columns_that_vary():
    X, y = table(9)
    with pytest.raises(ValueError, match=r"at least 10 different samples, got n_samples = 9"):
        TopKSelector("auto", **QUICK).fit(X, y)
    assert (
        TopKSelector("auto", **QUICK)
        .set_params(estimator="regressor")
        .fit(np.ones((20, 3)), np.arange(20))
        .support_.sum()
        == 1
    )


def test_the_knee_is_the_smallest_k_within_one_standard_error():
    curve = [KneePoint(9, 0.50, 0.03), KneePoint(5, 0.48, 0.03), KneePoint(3, 0.505, 0.03), KneePoint(2, 0.515, 0.03)]
    assert knee(curve) == 3
    assert knee([KneePoint(4, 1.0, 0.0), KneePoint(2, 1.0, 0.0)]) == 2


# ------------------------------------------------------------------------------------- repetition and generators


def test_fits_repeat_bit_for_bit_and_leave_global_generators_alone():
    X, y = table()
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002 - the global generator is watched
    first = TopKSelector(3, max_steps=20, restarts=2).fit(X, y)
    assert torch.equal(states[0], torch.get_rng_state())
    assert (states[1] == np.random.get_state()[1]).all()  # noqa: NPY002 - as above
    assert states[2] == random.getstate()
    torch.manual_seed(123)
    second = clone(first).fit(X, y)
    assert (first.inclusion_probabilities_ == second.inclusion_probabilities_).all()
    assert first.history_ == second.history_
    other = clone(first).set_params(random_state=1).fit(X, y)
    assert (first.inclusion_probabilities_ != other.inclusion_probabilities_).any()


def test_weights_are_repetitions_and_the_order_of_rows_does_not_matter():
    X, y = table(60)
    weight = np.random.default_rng(0).integers(0, 4, 60)
    order = np.random.default_rng(1).permutation(int(weight.sum()))
    selector = TopKSelector(3, max_steps=20, restarts=2, subsample=0.8)
    weighted = clone(selector).fit(X, y, sample_weight=weight).inclusion_probabilities_
    repeated = clone(selector).fit(X.repeat(weight, 0)[order], y.repeat(weight)[order]).inclusion_probabilities_
    assert (weighted == repeated).all()
    assert (weighted != clone(selector).fit(X, y).inclusion_probabilities_).any()


# ------------------------------------------------------------------------------------------- scikit-learn around


def test_pickle_and_clone():
    X, y = table(60)
    selector = TopKSelector(3, mode=Marginals(), max_steps=5, restarts=1).fit(X, y)
    copy = pickle.loads(pickle.dumps(selector))
    assert (copy.transform(X) == selector.transform(X)).all()
    assert clone(selector).get_params() == selector.get_params()
    assert not hasattr(clone(selector), "support_")


def test_pipeline_and_grid_search():
    X, y = table(120)
    pipeline = make_pipeline(TopKSelector(**QUICK), LogisticRegression())
    search = GridSearchCV(pipeline, {"topkselector__k": [1, 3]}, cv=2).fit(X, y)
    assert search.best_estimator_[0].support_.sum() == search.best_params_["topkselector__k"]


def test_inverse_transform_and_names():
    X, y = table(60)
    selector = TopKSelector(3, **QUICK).fit(X, y)
    back = selector.inverse_transform(selector.transform(X))
    assert (back == np.where(selector.support_, X, 0)).all()
    names = selector.get_feature_names_out([f"gene{i}" for i in range(8)])
    assert names.tolist() == [f"gene{i}" for i in selector.get_support(indices=True)]


def test_pandas_in_and_out():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    X, y = table(60)
    frame = pandas.DataFrame(X, columns=list("abcdefgh"))
    selector = TopKSelector(3, **QUICK).set_output(transform="pandas").fit(frame, pandas.Series(y))
    assert selector.feature_names_in_.tolist() == list("abcdefgh")
    assert list(selector.transform(frame).columns) == [
        c for c, kept in zip("abcdefgh", selector.support_, strict=True) if kept
    ]


# ---------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"k": 9}, r"k should be <= n_features = 8; got 9"),
        ({"k": 0}, "'k' parameter"),
        ({"k": "all"}, "'k' parameter"),
        ({"estimator": "ranker"}, "'estimator' parameter"),
        ({"restarts": 0}, "'restarts' parameter"),
        ({"dropout": 1.0}, "'dropout' parameter"),
        ({"mode": "relaxed"}, "'mode' parameter"),
    ],
)
def test_a_bad_parameter_is_refused(parameters, message):
    X, y = table(20)
    with pytest.raises(ValueError, match=message):
        TopKSelector(**{**QUICK, **parameters}).fit(X, y)


def spoilt(value):
    """A table with one value that is not what it should be."""
    X = table(20)[0].astype(object)
    X[3, 2] = value
    return X


X20, Y20 = table(20)
BAD_FIT = {
    "NaN": (spoilt(np.nan).astype(float), Y20, ValueError, r"Input X contains NaN\."),
    "infinity": (spoilt(np.inf).astype(float), Y20, ValueError, r"Input X contains infinity or a value too large for"),
    "strings": (spoilt("many"), Y20, ValueError, "could not convert string to float: 'many'"),
    "sparse matrix": (csr_matrix(X20), Y20, TypeError, "Sparse data was passed for X, but dense data is required"),
    "sparse array": (csr_array(X20), Y20, TypeError, "Sparse data was passed for X, but dense data is required"),
    "complex": (X20 * 1j, Y20, ValueError, "Complex data not supported"),
    "one dimension": (X20[:, 0], Y20, ValueError, "Expected 2D array, got 1D array instead"),
    "three dimensions": (X20[None], Y20, ValueError, "Found array with dim 3"),
    "no rows": (X20[:0], Y20[:0], ValueError, r"Found array with 0 sample\(s\)"),
    "no columns": (X20[:, :0], Y20, ValueError, r"Found array with 0 feature\(s\)"),
    "too few targets": (X20, Y20[:19], ValueError, "Found input variables with inconsistent numbers of samples"),
    "no target": (X20, None, ValueError, "requires y to be passed, but the target y is None"),
    "one class": (X20, np.zeros(20), ValueError, "The number of classes has to be greater than one; got 1 class"),
    "one class, text": (X20, ["a"] * 20, ValueError, "The number of classes has to be greater than one; got 1 class"),
    "fractions as classes": (X20, X20[:, 0], ValueError, "Unknown label type: continuous"),
    "NaN in the target": (X20, np.r_[np.nan, Y20[1:]], ValueError, "Input y contains NaN"),
    "two columns of labels": (X20, np.c_[Y20, Y20], ValueError, "y should be a 1d array of class labels"),
}


@pytest.mark.parametrize(("X", "y", "error", "message"), BAD_FIT.values(), ids=BAD_FIT)
def test_bad_data_is_refused_in_the_words_of_scikit_learn(X, y, error, message):
    with pytest.raises(error, match=message):
        TopKSelector(**QUICK).fit(X, y)


@pytest.mark.parametrize("y", [np.r_[np.inf, X20[1:, 0]], np.r_[np.nan, X20[1:, 0]]], ids=["infinity", "NaN"])
def test_a_regressor_refuses_targets_that_are_not_finite(y):
    with pytest.raises(ValueError, match=r"Input y contains (infinity|NaN)"):
        TopKSelector(estimator="regressor", **QUICK).fit(X20, y)


BAD_TRANSFORM = {
    "fewer columns": (X20[:, :7], ValueError, "X has 7 features, but TopKSelector is expecting 8 features as input"),
    "more columns": (
        np.c_[X20, X20],
        ValueError,
        "X has 16 features, but TopKSelector is expecting 8 features as input",
    ),
    "NaN": (spoilt(np.nan).astype(float), ValueError, "Input X contains NaN"),
    "infinity": (spoilt(np.inf).astype(float), ValueError, "Input X contains infinity"),
}


@pytest.mark.parametrize(("X", "error", "message"), BAD_TRANSFORM.values(), ids=BAD_TRANSFORM)
def test_transform_refuses_what_fit_would_not_have_taken(X, error, message):
    with pytest.raises(error, match=message):
        TopKSelector(**QUICK).fit(X20, Y20).transform(X)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (-np.ones(20), "Negative values in data passed to `sample_weight`"),
        (np.ones(19), r"sample_weight.shape == \(19,\), expected \(20,\)!"),
        (np.r_[np.nan, np.ones(19)], "Input sample_weight contains NaN"),
    ],
)
def test_bad_weights_are_refused(weight, message):
    with pytest.raises(ValueError, match=message):
        TopKSelector(**QUICK).fit(X20, Y20, sample_weight=weight)


def test_without_fit_there_is_nothing_to_ask():
    for call in (TopKSelector().get_support, lambda: TopKSelector().transform(X20)):
        with pytest.raises(NotFittedError, match="This TopKSelector instance is not fitted yet"):
            call()


def test_a_row_without_weight_is_no_row():
    with pytest.raises(ValueError, match="Sample weights must contain at least one non-zero number"):
        TopKSelector(estimator="regressor", **QUICK).fit(X20, X20[:, 0], sample_weight=np.zeros(20))
    with pytest.raises(ValueError, match="The number of classes has to be greater than one; got 1 class"):
        TopKSelector(**QUICK).fit(X20, Y20, sample_weight=Y20.astype(float))


def test_constant_columns_are_taken_last_and_one_alone_will_do():
    X = X20.copy()
    X[:, [1, 5]] = 7.0
    selector = TopKSelector(6, **QUICK).fit(X, Y20)
    assert not selector.support_[[1, 5]].any()
    assert TopKSelector(7, **QUICK).fit(X, Y20).support_[[1, 5]].tolist() == [True, False]
    assert TopKSelector(2, **QUICK).fit(np.ones((20, 8)), Y20).support_.sum() == 2
