"""Pivotal, systematic and Poisson sampling against their laws enumerated in exact arithmetic."""

from fractions import Fraction

import pytest
import torch

from sparsek.sampling import Pivotal, Poisson, Systematic
from tests.sampling import oracles

LAWS = {
    Pivotal(): lambda p: oracles.with_phantom(oracles.pivotal_law, p),
    Systematic(): lambda p: oracles.with_phantom(oracles.systematic_law, p),
    Poisson(): oracles.poisson_law,
}
SHUFFLED = (Pivotal(shuffle=True), Systematic(shuffle=True))
# Dyadic entries, so that the fractions of the oracle and the sums in float64 are the same numbers. Kinks, zeros, ones,
# certain rows, odd lengths, real sums below and above 1.
ROWS = (
    [1.0],
    [0.0],
    [0.25],
    [0.5, 0.5],
    [1.0, 0.0, 1.0],
    [0.0, 0.0],
    [1.0, 1.0, 1.0],
    [0.25, 0.625, 0.125],
    [0.75, 0.5, 0.25, 0.5],
    [0.25] * 8,
    [0.5] * 8,
    [0.125, 0.875, 0.0, 1.0, 0.5, 0.5],
    [0.375, 0.75, 0.1875, 0.9375, 0.0625, 0.6875, 0.5, 0.5],
    [0.9375, 0.9375, 0.9375, 0.1875],
    [2.0**-27, 0.5, 0.5 - 2.0**-27, 1.0],
    [0.5, 0.25, 0.75, 0.625, 0.25],
    [0.0625, 0.125, 0.125],
    [0.9375, 0.875, 0.875, 1.0],
)
cases = pytest.mark.parametrize("design", LAWS, ids=lambda d: type(d).__name__)
rows = pytest.mark.parametrize("row", ROWS, ids=str)


@cases
@rows
def test_probability_of_every_sample(design, row):
    probs = torch.tensor(row, dtype=torch.float64)
    samples, pmf = oracles.enumerate_pmf(design, probs)
    truth = oracles.pmf_tensor(LAWS[design](oracles.fractions(row)), len(row))
    torch.testing.assert_close(pmf, truth, rtol=1e-12, atol=0)
    assert torch.equal(pmf == 0, truth == 0)
    torch.testing.assert_close(oracles.first_order(samples, pmf), probs, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(oracles.entropy(pmf), oracles.entropy(truth), rtol=1e-12, atol=1e-15)


@cases
@rows
def test_joint_inclusion(design, row):
    probs = torch.tensor(row, dtype=torch.float64)
    truth = oracles.pmf_tensor(LAWS[design](oracles.fractions(row)), len(row))
    expected = oracles.second_order(oracles.subsets(len(row)), truth)
    torch.testing.assert_close(design.joint(probs), expected, rtol=1e-12, atol=1e-15)


@cases
@pytest.mark.parametrize(("n", "k"), [(5, 2), (8, 3), (7, 2.3), (6, 5.5), (8, 7), (4, 0.4)])
def test_law_at_generic_probabilities(design, n, k):
    probs = oracles.random_probs(n, k, seed=n)
    samples, pmf = oracles.enumerate_pmf(design, probs, k=k)
    fractions = oracles.fractions(probs)
    law = {Pivotal: oracles.pivotal_law, Systematic: oracles.systematic_law}.get(type(design))
    truth = oracles.with_phantom(law, fractions, Fraction(k)) if law else oracles.poisson_law(fractions)
    torch.testing.assert_close(pmf, oracles.pmf_tensor(truth, n), rtol=1e-9, atol=1e-13)
    torch.testing.assert_close(design.joint(probs, k=k), oracles.second_order(samples, pmf), rtol=1e-12, atol=1e-13)


def draws_of(design, probs, draws=150_000, seed=0):
    return design.sample(probs, (draws,), generator=torch.Generator().manual_seed(seed))


FREQUENCY_ROWS = ([0.75, 0.5, 0.25, 0.5], [0.375, 0.75, 0.1875, 0.9375, 0.0625], [0.0, 1.0, 0.125, 0.875, 0.5, 0.25])


@cases
@pytest.mark.parametrize("row", FREQUENCY_ROWS, ids=str)
def test_frequencies_of_samples(design, row):
    samples = draws_of(design, torch.tensor(row))
    truth = oracles.pmf_tensor(LAWS[design](oracles.fractions(row)), len(row)).tolist()
    counts = oracles.sample_counts(samples, len(row))
    assert not oracles.misfits(counts, truth, len(samples))
    # The sabotaged twin: the same draws with one unit in 50 draws of two swapped against the law.
    sabotaged = samples.clone()
    sabotaged[::50] = sabotaged[::50].roll(1, -1)
    assert oracles.misfits(oracles.sample_counts(sabotaged, len(row)), truth, len(samples))


@pytest.mark.parametrize("design", SHUFFLED, ids=str)
def test_shuffled_inclusion_frequencies_and_conditional_law(design):
    row = [0.375, 0.75, 0.1875, 0.9375, 0.25]
    probs = torch.tensor(row, dtype=torch.float64)
    draw = design.draw(probs, (120_000,), generator=torch.Generator().manual_seed(1))
    counts = draw.sample.sum(0).tolist()
    assert not oracles.misfits(counts, row, 120_000)
    assert oracles.misfits(counts, [p + 0.01 for p in row], 120_000)
    assert set(draw.sample.sum(-1).tolist()) == {2.0, 3.0}
    law = {Pivotal: oracles.pivotal_law, Systematic: oracles.systematic_law}[type(design)]
    scores = design.log_prob(probs, draw).exp()
    for i in range(10):
        order = draw.order[i].tolist()
        pmf = oracles.with_phantom(law, oracles.fractions([row[j] for j in order]))
        placed = tuple(int(draw.sample[i, j]) for j in order)
        assert scores[i].item() == pytest.approx(float(pmf[placed]), rel=1e-12)
    assert len({tuple(o) for o in draw.order[:2000].tolist()}) == 120
