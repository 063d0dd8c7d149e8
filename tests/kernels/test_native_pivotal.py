"""The tournament in C++: the law of the design, whatever the number of threads."""

import itertools

import pytest
import torch
from scipy import stats

from sparsek.functional import pps
from sparsek.kernels import Backend, available, native, use_backends
from sparsek.sampling import Pivotal

pytestmark = pytest.mark.skipif(not available(Backend.NATIVE), reason="no C++ compiler")

DRAWS = 40_000
ROWS = {
    "whole": [0.5, 0.25, 0.75, 0.5, 0.3, 0.7],
    "certain and impossible": [1.0, 0.0, 0.4, 0.6, 1.0, 0.0, 0.0],
    "on a kink": [0.25] * 8,
    "one unit": [1.0],
    "tiny": [1e-8, 1 - 1e-8, 0.5, 0.5],
    "real k": [0.3, 0.9, 0.35, 0.2],
}


def p_value(design, row, seed):
    """Of a chi-squared test of the frequencies of all samples against the design's own probabilities."""
    probs = torch.tensor(row, dtype=torch.float64)
    samples = design.sample(probs, (DRAWS,), generator=torch.Generator().manual_seed(seed))
    states = torch.tensor(list(itertools.product([0.0, 1.0], repeat=len(row))), dtype=torch.float64)
    law = Pivotal().log_prob(probs, states).exp()
    code = 2 ** torch.arange(len(row) - 1, -1, -1, dtype=torch.float64)
    counts = torch.bincount((samples @ code).long(), minlength=len(states)).double()
    assert counts[law == 0].sum() == 0
    seen = law * DRAWS >= 5
    if int(seen.sum()) < 2:
        return 1.0
    expected, found = law[seen] * DRAWS, counts[seen]
    return stats.chisquare(found, expected * found.sum() / expected.sum()).pvalue


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("backend", [Backend.EAGER, Backend.NATIVE])
def test_samples_follow_the_law(row, backend):
    with use_backends(backend):
        assert p_value(Pivotal(), row, seed=3) > 1e-4  # fails by chance once in ten thousand


def test_a_wrong_law_is_seen():
    """The sabotaged twin: pairs of another order have another law."""

    order = torch.tensor([0, 2, 1, 3, 4, 5])  # its own inverse

    class OtherPairs(Pivotal):
        def sample(self, probs, *args, **kwargs):
            return super().sample(probs[order], *args, **kwargs)[..., order]

    with pytest.raises(AssertionError):  # samples that the law excludes, or frequencies that it does not have
        assert p_value(OtherPairs(), ROWS["whole"], seed=3) > 1e-4


def test_sizes_and_inclusion_at_a_million_units():
    probs = pps(torch.randn(1_000_000, generator=torch.Generator().manual_seed(0)).exp(), 62_500)
    sample = Pivotal().sample(probs, k=62_500, generator=torch.Generator().manual_seed(1))
    assert sample.sum() == 62_500
    groups = (probs.double().argsort().view(100, -1), sample, probs.double())
    for members in groups[0]:
        expected, found = probs.double()[members].sum(), sample.double()[members].sum()
        spread = (probs.double()[members] * (1 - probs.double()[members])).sum().sqrt()  # pivotal sums vary less
        assert (found - expected).abs() <= 6 * spread + 1


def test_draws_depend_on_the_seed_alone():
    probs = pps(torch.randn(50, 3001, generator=torch.Generator().manual_seed(0)).exp(), 99)
    threads = torch.get_num_threads()
    samples = []
    try:
        for number, seed in ((1, 5), (2, 5), (7, 5), (2, 6)):
            torch.set_num_threads(number)
            samples.append(Pivotal().sample(probs, (3,), k=99, generator=torch.Generator().manual_seed(seed)))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(samples[0], samples[1])
    assert torch.equal(samples[0], samples[2])
    assert not torch.equal(samples[0], samples[3])
    assert not torch.equal(samples[0][0], samples[0][1])
    assert not torch.equal(samples[0][:, 0], samples[0][:, 1])


def test_rows_and_draws_are_independent():
    probs = torch.full((2, 8), 0.5, dtype=torch.float64)
    sample = Pivotal().sample(probs, (DRAWS,), generator=torch.Generator().manual_seed(0))
    both = (sample[:, 0, 0] * sample[:, 1, 0]).mean()
    following = (sample[1:, 0, 0] * sample[:-1, 0, 0]).mean()
    margin = 4.5 * (0.25 * 0.75 / DRAWS) ** 0.5
    assert (both - 0.25).abs() <= margin
    assert (following - 0.25).abs() <= margin


def test_any_layout_of_the_rows():
    probs = torch.full((6, 4), 0.5, dtype=torch.float64).T
    assert native.pivotal(probs, 2, torch.Generator().manual_seed(0)).sum(-1).eq(3).all()
