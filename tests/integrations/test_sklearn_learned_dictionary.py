"""A dictionary learned by gradient: scikit-learn's checks, better than the rows it began with, the same for the same seed."""

import numpy as np
import pytest
import torch
from sklearn.utils.estimator_checks import parametrize_with_checks

from sparsek.datamodules import PatchDataModule
from sparsek.integrations.sklearn import LearnedDictionary
from sparsek.nn import SampledTopK

# Lightning 2.6 calls torch by a name that torch 2.13 is about to drop
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*deprecated")


@parametrize_with_checks([LearnedDictionary(n_atoms=3, k=1, max_steps=2, batch_size=16, random_state=0)])
def test_checks_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def patches():
    data = PatchDataModule(size=4, train=2000, held_out=500, seed=0)
    data.setup("fit")
    return data.parts["train"].numpy(), data.parts["test"].numpy()


def share_left(model, X):
    return np.square(X - model.inverse_transform(model.transform(X))).sum() / np.square(X).sum()


@pytest.mark.parametrize("selection", [None, SampledTopK(2, final=0.01)])
def test_training_leaves_less_of_other_rows_than_the_rows_it_began_with(patches, selection):
    train, test = patches
    settings = {"selection": selection, "random_state": 0}
    before = LearnedDictionary(24, 2, max_steps=1, learning_rate=1e-9, **settings).fit(train)
    after = LearnedDictionary(24, 2, max_steps=300, **settings).fit(train)
    assert share_left(after, test) < 0.98 * share_left(before, test)
    np.testing.assert_allclose(np.linalg.norm(after.components_, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(after.error_, share_left(after, train), rtol=1e-4)
    assert (np.count_nonzero(after.transform(test), axis=1) <= 2).all()
    code = after.autoencoder_.encode(torch.from_numpy(test), k=2)
    assert code.indices.shape == (len(test), 2)


def test_the_seed_settles_everything_and_the_global_generators_stay(patches):
    train, _ = patches
    before = torch.get_rng_state()
    one, two = (LearnedDictionary(8, 2, max_steps=5, random_state=3).fit(train).components_ for _ in range(2))
    other = LearnedDictionary(8, 2, max_steps=5, random_state=4).fit(train).components_
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_atoms": 3, "k": 4}, "k must be at most the number of atoms"),
        ({"selection": "sampled"}, "selection"),
        ({"max_steps": 0}, "max_steps"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        LearnedDictionary(**arguments).fit(np.eye(5))


def test_constant_rows_are_refused():
    with pytest.raises(ValueError, match="X must not be constant, got 9 equal rows"):
        LearnedDictionary(n_atoms=3, k=1).fit(np.full((9, 4), 2.0))


@pytest.mark.parametrize("exponent", [-110, -80, 60, 110])
def test_the_scale_of_rows_does_not_matter(patches, exponent):
    rows = patches[0][:200].astype(np.float64)
    settings = {"n_atoms": 12, "k": 2, "max_steps": 20, "random_state": 0}
    plain, scaled = (LearnedDictionary(**settings).fit(rows * scale) for scale in (1.0, 2.0**exponent))
    assert np.array_equal(plain.components_, scaled.components_)
    assert plain.error_ == scaled.error_
    code = plain.autoencoder_.encode(torch.from_numpy(rows).float(), k=2)
    larger = scaled.autoencoder_.encode(torch.from_numpy(rows * 2.0**exponent).float(), k=2)
    assert torch.equal(larger.indices, code.indices)
    torch.testing.assert_close(larger.values / 2.0**exponent, code.values, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("arguments", [{"size": 1}, {"size": 400}, {"train": 0}, {"held_out": -1}, {"batch_size": 0}])
def test_bad_patches_are_named(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        PatchDataModule(**arguments)


def test_patches_are_those_of_the_seed_and_have_no_mean(patches):
    for part in patches:
        assert np.abs(part.mean(1)).max() < 1e-4
    again = PatchDataModule(size=4, train=2000, held_out=500, seed=0)
    again.setup("fit")
    assert np.array_equal(again.parts["train"].numpy(), patches[0])
    np.testing.assert_allclose(patches[0].std(), 1, rtol=1e-3)
