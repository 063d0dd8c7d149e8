"""Brewer's method against the enumeration of all orders in exact fractions."""

from collections import defaultdict
from fractions import Fraction

import pytest
import torch
from torch.autograd import gradcheck

from sparsek.functional import sigmoid_topk
from sparsek.sampling import Brewer, ConditionalPoisson
from tests.sampling import oracles

DESIGN = Brewer()
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


def brewer_law(probs):
    """Follow every order of the draws."""
    k, pmf = int(sum(probs)), defaultdict(Fraction)

    def draw(taken, chance):
        to_go = k - len(taken)
        if to_go == 0:
            pmf[tuple(int(i in taken) for i in range(len(probs)))] += chance
            return
        mass = k - sum(probs[i] for i in taken)
        left = [i for i, p in enumerate(probs) if i not in taken and p > 0]
        weight = {i: probs[i] * (mass - probs[i]) / (mass - to_go * probs[i]) if to_go > 1 else probs[i] for i in left}
        for i in left:
            draw(taken | {i}, chance * weight[i] / sum(weight.values()))

    draw(frozenset(i for i, p in enumerate(probs) if p == 1), Fraction(1))
    return dict(pmf)


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_joint(row):
    probs = torch.tensor(row, dtype=torch.float64)
    truth = oracles.pmf_tensor(oracles.with_phantom(brewer_law, oracles.fractions(row)), len(row))
    samples = oracles.subsets(len(row))
    torch.testing.assert_close(oracles.first_order(samples, truth), probs, rtol=1e-12, atol=0)
    torch.testing.assert_close(DESIGN.joint(probs), oracles.second_order(samples, truth), rtol=1e-9, atol=1e-15)


def test_frequencies():
    row, draws = [0.375, 0.75, 0.1875, 0.9375, 0.0625, 0.6875], 200_000
    probs = torch.tensor(row, dtype=torch.float64)
    truth = oracles.pmf_tensor(brewer_law(oracles.fractions(row)), len(row))
    counts = oracles.sample_counts(DESIGN.sample(probs, (draws,), generator=torch.Generator().manual_seed(0)), len(row))
    assert not oracles.misfits(counts, truth.tolist(), draws)
    other = oracles.enumerate_pmf(ConditionalPoisson(), probs)[1]
    assert oracles.misfits(counts, other.tolist(), draws)


def test_rows_of_different_size():
    k = torch.tensor([1.0, 7.0, 11.0])
    probs = sigmoid_topk(torch.randn(3, 12, generator=torch.Generator().manual_seed(0)), k)
    assert torch.equal(DESIGN.sample(probs, (50,), k=k).sum(-1), k.expand(50, 3))
    joint = DESIGN.joint(probs, k=k)
    torch.testing.assert_close(joint.sum(-1), k.unsqueeze(-1) * probs)


def test_joint_is_differentiable():
    logits = torch.randn(5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert gradcheck(lambda x: DESIGN.joint(sigmoid_topk(x, 2)), logits)


def test_a_thousand_units():
    probs = sigmoid_topk(torch.randn(1000, generator=torch.Generator().manual_seed(0)), 100)
    draws = 500
    counts = DESIGN.sample(probs, (draws,), generator=torch.Generator().manual_seed(1)).sum(0)
    assert counts.sum() == 100 * draws
    assert not oracles.misfits(counts.tolist(), probs.double().tolist(), draws)
    assert oracles.misfits(counts.tolist(), probs.double().roll(1).tolist(), draws)


def test_what_is_not_available_says_what_to_use():
    probs = torch.full((14,), 0.5)
    with pytest.raises(NotImplementedError, match=r"n <= 12.*Sampford"):
        DESIGN.joint(probs)
    with pytest.raises(NotImplementedError, match="ConditionalPoisson"):
        DESIGN.log_prob(probs, torch.tensor([1, 0] * 7))
