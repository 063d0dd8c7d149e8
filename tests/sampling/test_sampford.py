"""Sampford sampling against its rejective definition in exact fractions."""

import itertools
from collections import defaultdict
from fractions import Fraction

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from sparsek.functional import sigmoid_topk
from sparsek.sampling import ConditionalPoisson, Sampford
from tests.sampling import oracles

DESIGN = Sampford()
ROWS = (
    [0.25, 0.625, 0.125],
    [0.75, 0.5, 0.25, 0.5],
    [0.5] * 6,
    [0.125, 0.875, 0.0, 1.0, 0.5, 0.5],
    [0.375, 0.75, 0.1875, 0.9375, 0.0625, 0.6875],
    [2.0**-27, 0.5, 0.5 - 2.0**-27, 1.0, 1.0],
    [1 - 2.0**-20, 2.0**-20 - 2.0**-27, 2.0**-27],
    [0.0625, 0.125, 0.125],
    [0.5, 0.25, 0.75, 0.625, 0.25],
    [1.0, 1.0],
    [0.0, 0.0],
)


def sampford_law(probs):
    """Draw one unit with π/k, then k - 1 with odds π/(1 - π), with replacement; keep the draws that are distinct."""
    free = [i for i, p in enumerate(probs) if 0 < p < 1]
    certain = {i for i, p in enumerate(probs) if p == 1}
    k = int(sum(probs)) - len(certain)
    pmf = defaultdict(Fraction)
    for units in itertools.permutations(free, k):
        chance = Fraction(1)
        for place, i in enumerate(units):
            chance *= probs[i] if place == 0 else probs[i] / (1 - probs[i])
        taken = certain | set(units)
        pmf[tuple(int(i in taken) for i in range(len(probs)))] += chance
    total = sum(pmf.values())
    return {sample: chance / total for sample, chance in pmf.items()}


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_law(row):
    probs = torch.tensor(row, dtype=torch.float64)
    truth = oracles.pmf_tensor(oracles.with_phantom(sampford_law, oracles.fractions(row)), len(row))
    samples, pmf = oracles.enumerate_pmf(DESIGN, probs)
    torch.testing.assert_close(pmf, truth, rtol=1e-9, atol=1e-18)
    torch.testing.assert_close(oracles.first_order(samples, pmf), probs, rtol=1e-9, atol=1e-15)
    torch.testing.assert_close(DESIGN.joint(probs), oracles.second_order(samples, truth), rtol=1e-9, atol=1e-15)


def test_frequencies():
    row, draws = [0.375, 0.75, 0.1875, 0.9375, 0.0625, 0.6875], 200_000
    probs = torch.tensor(row, dtype=torch.float64)
    truth = oracles.pmf_tensor(sampford_law(oracles.fractions(row)), len(row))
    counts = oracles.sample_counts(DESIGN.sample(probs, (draws,), generator=torch.Generator().manual_seed(0)), len(row))
    assert not oracles.misfits(counts, truth.tolist(), draws)
    other = oracles.enumerate_pmf(ConditionalPoisson(), probs)[1]
    assert oracles.misfits(counts, other.tolist(), draws)


def test_gradients():
    logits = torch.randn(2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    sample = torch.tensor([[1, 0, 1, 0, 0], [0, 1, 0, 0, 1]])
    for k in (2, 2.4):
        score = lambda x, k=k: DESIGN.log_prob(sigmoid_topk(x, k), sample, k=k)  # noqa: E731  # one expression per k
        assert gradcheck(score, logits)
        assert gradgradcheck(score, logits)
    probs = torch.tensor([1.0, 0.0, 0.25, 0.75], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(DESIGN.log_prob(probs, torch.tensor([1, 0, 0, 1])), probs)
    assert gradient.isfinite().all()


def test_large_k_needs_no_rejection():
    k = torch.tensor([1.0, 10_000.0, 99_999.0])
    probs = sigmoid_topk(torch.randn(3, 100_000, generator=torch.Generator().manual_seed(0)), k)
    sample = DESIGN.sample(probs, k=k, generator=torch.Generator().manual_seed(1))
    assert torch.equal(sample.sum(-1), k)
    assert DESIGN.log_prob(probs, sample, k=k).isfinite().all()


def test_rows_with_other_numbers_of_certain_units_do_not_mix():
    """Score and joint probabilities of a batch are those of its rows."""
    probs = torch.tensor(
        [[1.0, 1.0, 0.25, 0.5, 0.25], [1.0, 0.0, 0.75, 0.75, 0.5], [0.5, 0.5, 0.75, 0.75, 0.5]], dtype=torch.float64
    )
    sample = torch.tensor([[1, 1, 0, 1, 0], [1, 0, 1, 1, 0], [1, 0, 1, 1, 0]])
    for together, rows in (
        (DESIGN.log_prob(probs, sample), [DESIGN.log_prob(p, s) for p, s in zip(probs, sample, strict=True)]),
        (DESIGN.joint(probs), [DESIGN.joint(p) for p in probs]),
    ):
        assert together.isfinite().all()
        torch.testing.assert_close(together, torch.stack(rows), rtol=1e-12, atol=1e-14)
