"""K-SVD: scikit-learn's own checks, a planted dictionary, and what bad input is answered with."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_sample_image
from sklearn.decomposition import DictionaryLearning, sparse_encode
from sklearn.feature_extraction.image import extract_patches_2d
from sklearn.utils.estimator_checks import parametrize_with_checks

from sparsek.integrations.sklearn import KSVD, _ksvd_learning, _soft_start


@parametrize_with_checks([KSVD(n_atoms=3, k=1, max_iter=5, soft_start=20, random_state=0)])
def test_checks_of_scikit_learn(estimator, check):
    check(estimator)


def planted(seed, rows=1500, columns=20, atoms=50, k=3, decibels=20):
    """The setting of Aharon, Elad, Bruckstein (2006), section V.A."""
    rng = np.random.default_rng(seed)
    dictionary = rng.standard_normal((atoms, columns))
    dictionary /= np.linalg.norm(dictionary, axis=1, keepdims=True)
    codes = np.zeros((rows, atoms))
    for row in codes:
        row[rng.choice(atoms, k, replace=False)] = rng.standard_normal(k)
    clean = codes @ dictionary
    noise = rng.standard_normal(clean.shape)
    noise *= np.linalg.norm(clean) / np.linalg.norm(noise) * 10 ** (-decibels / 20)
    return dictionary, clean + noise


def recovered(dictionary, found):
    return np.mean(np.abs(dictionary @ found.T).max(1) > 0.99)


def test_a_planted_dictionary_is_found():
    shares = []
    for seed in range(3):
        dictionary, X = planted(seed)
        shares.append(recovered(dictionary, KSVD(50, 3, random_state=seed).fit(X).components_))
    assert np.mean(shares) >= 0.95


def test_hard_codes_without_moves_find_fewer(monkeypatch):
    monkeypatch.setattr(_ksvd_learning, "replace_atoms", lambda rows, update, generator, which=None: update.dictionary)
    shares = []
    for seed in range(3):
        dictionary, X = planted(seed)
        shares.append(recovered(dictionary, KSVD(50, 3, soft_start=0, random_state=seed).fit(X).components_))
    assert np.mean(shares) < 0.95


@pytest.fixture(scope="module")
def patches():
    """3,000 patches (64 columns) of a photograph, each less its mean."""
    grey = load_sample_image("china.jpg").astype(np.float64).mean(-1)
    rows = extract_patches_2d(grey, (8, 8), max_patches=3000, random_state=0).reshape(3000, 64)
    return rows - rows.mean(1, keepdims=True)


def test_soft_codes_lead_to_less_error_than_hard_ones_alone(patches):
    errors = [KSVD(96, 12, max_iter=8, soft_start=batches, random_state=0).fit(patches).error_ for batches in (64, 0)]
    assert errors[0] < 0.9 * errors[1]


def test_soft_codes_are_those_of_scikit_learns_lasso(patches):
    rows = torch.from_numpy(patches[:100] / patches.std())
    atoms = torch.from_numpy(patches[100:140] / np.linalg.norm(patches[100:140], axis=1, keepdims=True))
    code = torch.zeros(100, 40, dtype=torch.float64)
    for _ in range(200):
        code = _soft_start._shrunk_code(rows, atoms, 1.0, code)
    expected = sparse_encode(rows.numpy(), atoms.numpy(), algorithm="lasso_cd", alpha=1.0, max_iter=10_000)
    np.testing.assert_allclose(code, expected, atol=1e-3)


@pytest.mark.parametrize("exponent", [-900, 900])
def test_the_scale_of_the_rows_does_not_matter(exponent):
    _, X = planted(4, rows=200)
    model = KSVD(30, 3, max_iter=5, random_state=0)
    np.testing.assert_array_equal(clone(model).fit(X * 2.0**exponent).components_, clone(model).fit(X).components_)


def test_the_best_iteration_is_kept():
    _, X = planted(9, rows=400)
    model = KSVD(50, 3, soft_start=0, max_iter=30, random_state=0).fit(X)
    assert model.n_iter_ == len(model.history_) == 30
    assert model.error_ == min(model.history_) < model.history_[0]


@pytest.mark.filterwarnings("ignore:Orthogonal matching pursuit ended:RuntimeWarning")  # of the peer
@pytest.mark.parametrize("exact", [False, True])
def test_less_error_than_scikit_learn_at_equal_k(exact):
    _, X = planted(3, rows=300, atoms=30)
    peer = DictionaryLearning(30, max_iter=20, transform_algorithm="omp", transform_n_nonzero_coefs=3, random_state=0)
    codes = peer.fit(X).transform(X)
    error = np.square(X - codes @ peer.components_).sum() / np.square(X).sum()
    assert KSVD(30, 3, exact=exact, random_state=0).fit(X).error_ <= error


def test_rows_use_at_most_k_atoms_of_norm_one():
    _, X = planted(1, rows=300)
    model = KSVD(40, 4, max_iter=10, random_state=0).fit(X)
    codes = model.transform(X)
    assert np.count_nonzero(codes, axis=1).max() <= 4
    np.testing.assert_allclose(np.linalg.norm(model.components_, axis=1), 1, rtol=1e-12)
    left = np.square(X - model.inverse_transform(codes)).sum() / np.square(X).sum()
    assert left <= model.error_ * 1.05


def test_the_same_seed_gives_the_same_dictionary_and_another_start_may_be_better():
    _, X = planted(2, rows=300)
    model = KSVD(50, 3, max_iter=10, random_state=5)
    first, second = clone(model).fit(X), clone(model).fit(X)
    np.testing.assert_array_equal(first.components_, second.components_)
    assert clone(model).set_params(n_init=3).fit(X).error_ <= first.error_


def test_single_precision_stays_single():
    _, X = planted(2, rows=200)
    model = KSVD(30, 3, max_iter=5, random_state=0).fit(X.astype(np.float32))
    assert model.components_.dtype == model.transform(X.astype(np.float32)).dtype == np.float32


@pytest.mark.parametrize(
    "X",
    [np.eye(5)[:3], np.ones((1, 5)), np.eye(5)[[0, 0, 1]]],
    ids=["fewer rows than atoms", "one row", "few that differ"],
)
def test_poor_rows_give_a_dictionary_of_directions(X):
    model = KSVD(8, 2, max_iter=8, random_state=0).fit(X)
    np.testing.assert_allclose(np.linalg.norm(model.components_, axis=1), 1, rtol=1e-12)
    assert model.error_ < 1e-12


def test_the_progress_bar_is_shown_when_asked_for(capsys):
    KSVD(3, 1, max_iter=3, verbose=True, random_state=0).fit(planted(0, rows=30)[1])
    assert "KSVD" in capsys.readouterr().err


def test_bad_input_is_refused():
    X = planted(0, rows=30)[1]
    with pytest.raises(ValueError, match="k must be at most the number of atoms, 2, got 3"):
        KSVD(2, 3).fit(X)
    with pytest.raises(ValueError, match="contains NaN"):
        KSVD(3, 1).fit(np.where(X > 2, np.nan, X))
    for X_constant in (np.zeros((20, 5)), np.ones((20, 5)), np.tile(X[:1], (9, 1)), np.zeros((1, 5))):
        with pytest.raises(ValueError, match=f"X must not be constant, got {len(X_constant)} equal rows"):
            KSVD(3, 1).fit(X_constant)
    with pytest.raises(ValueError, match="The 'k' parameter of KSVD"):
        KSVD(3, 0).fit(X)
    with pytest.raises(ValueError, match="4 columns, but there are 3 atoms"):
        KSVD(3, 1, max_iter=2).fit(X).inverse_transform(np.ones((2, 4)))
