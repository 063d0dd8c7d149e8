"""Counting along a tree gives the law that frequencies and enumeration give, also where few are left out."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsek.functional import _count_tree, conditional_poisson_covariance, conditional_poisson_marginals, sigmoid_topk
from sparsek.functional._calibration import calibrate, law_at, solve_covariance
from sparsek.functional._count_tree import count, counted_picks, counted_product
from sparsek.functional._poisson_binomial import Frequencies, tilt
from sparsek.sampling import ConditionalPoisson


def enumerated(logits, k):
    """Marginals and covariance over all subsets, float64."""
    picks = list(itertools.combinations(range(len(logits)), k))
    samples = torch.tensor([[float(i in pick) for i in range(len(logits))] for pick in picks], dtype=torch.float64)
    weights = (samples @ logits).softmax(0)
    mean = weights @ samples
    return mean, (samples.T * weights) @ samples - mean.outer(mean)


def by_tree(logits, k):
    tree = count(tilt(logits, k))
    return tree, *counted_picks(tree, logits.shape)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 8), st.data(), st.floats(0.1, 8), st.integers(0, 10**6))
def test_enumeration(n, data, spread, seed):
    k = data.draw(st.integers(0, n))
    logits = spread * torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    tree, probs, complement = by_tree(logits[None], torch.tensor([[float(k)]], dtype=torch.float64))
    mean, covariance = enumerated(logits, k)
    torch.testing.assert_close(probs[0], mean, rtol=1e-11, atol=1e-300)
    torch.testing.assert_close(complement[0], 1 - mean, rtol=1e-11, atol=1e-13)
    torch.testing.assert_close((probs + complement)[0], torch.ones(n, dtype=torch.float64), rtol=0, atol=1e-15)
    vector = torch.randn(1, n, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    torch.testing.assert_close(counted_product(tree, vector)[0], covariance @ vector[0], rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize(("rows", "n", "k"), [(4, 100, 3), (4, 100, 97), (3, 37, 18), (2, 5000, 60)])
def test_frequencies(rows, n, k):
    logits = 2 * torch.randn(rows, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    size = torch.full((rows, 1), float(k), dtype=torch.float64)
    tree, probs, _ = by_tree(logits, size)
    torch.testing.assert_close(probs, conditional_poisson_marginals(logits, k), rtol=1e-12, atol=1e-15)
    if n <= 100:
        vector = torch.randn(rows, n, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        expected = (conditional_poisson_covariance(logits, k) @ vector.unsqueeze(-1)).squeeze(-1)
        torch.testing.assert_close(counted_product(tree, vector), expected, rtol=1e-10, atol=1e-13)


def test_rows_of_any_size_with_certain_and_impossible_units():
    logits = torch.randn(6, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logits[:, 3], logits[:, 7] = torch.inf, -torch.inf
    size = torch.tensor([[1.0], [2], [9], [15], [18], [19]], dtype=torch.float64)
    _, probs, complement = by_tree(logits, size)
    torch.testing.assert_close(probs.sum(-1, keepdim=True), size, rtol=1e-13, atol=0)
    assert (probs[:, 3] == 1).all()
    assert (complement[:, 3] == 0).all()
    assert (probs[:, 7] == 0).all()
    for row, probability, k in zip(logits, probs, size, strict=True):
        torch.testing.assert_close(probability, conditional_poisson_marginals(row, int(k)), rtol=1e-12, atol=1e-15)


def test_a_row_that_is_not_finite_stays_alone():
    logits = torch.randn(3, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logits[1, 4] = torch.nan
    size = torch.full((3, 1), 5.0, dtype=torch.float64)
    probs = by_tree(logits, size)[1]
    assert probs.isfinite().all(-1).tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("n", "k", "spread"), [(64, 4, 1.0), (64, 2, 4.0), (64, 60, 3.0), (40, 20, 6.0), (200, 1, 2.0)]
)
def test_calibration_both_ways(n, k, spread, monkeypatch):
    """Large batches count, small ones do not; a law is a law."""
    x = spread * torch.randn(512, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    probs, size = sigmoid_topk(x, k), torch.full((512, 1), float(k), dtype=torch.float64)
    vector = torch.randn(512, n, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    theta = calibrate(probs, size)
    law = law_at(theta, size)
    assert not isinstance(law.terms, Frequencies)
    torch.testing.assert_close(law.probs, probs, rtol=1e-11, atol=1e-15)
    solved = solve_covariance(law, vector, 1e-14)
    monkeypatch.setattr(_count_tree, "_MOST_COUNTED", -1)
    law = law_at(theta, size)
    assert isinstance(law.terms, Frequencies)
    torch.testing.assert_close(theta, calibrate(probs, size), rtol=0, atol=1e-9)
    expected = solve_covariance(law, vector, 1e-14)
    assert ((solved - expected).abs().amax(-1) <= 1e-11 * expected.abs().amax(-1)).all()


def test_gradients_of_a_large_batch_are_those_of_its_rows():
    """The batch counts, single rows do not."""
    x = torch.randn(300, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sample = ConditionalPoisson().sample(sigmoid_topk(x, 3), k=3, generator=torch.Generator().manual_seed(1))

    def gradient(x, sample):
        x = x.clone().requires_grad_()
        return torch.autograd.grad(ConditionalPoisson().log_prob(sigmoid_topk(x, 3), sample, k=3).sum(), x)[0]

    together = gradient(x, sample)
    alone = torch.stack([gradient(*row) for row in zip(x[:20], sample[:20], strict=True)])
    torch.testing.assert_close(together[:20], alone, rtol=1e-9, atol=1e-11)


def test_a_wrong_tree_is_seen(monkeypatch):
    """The sabotaged twin: counts outside of a block from the wrong sibling."""
    right = _count_tree.correlated
    monkeypatch.setattr(_count_tree, "correlated", lambda sibling, *args: right(sibling.flip(-1), *args))
    logits = torch.randn(8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    probs = by_tree(logits[None], torch.tensor([[3.0]], dtype=torch.float64))[1]
    assert (probs[0] - enumerated(logits, 3)[0]).abs().max() > 1e-3
