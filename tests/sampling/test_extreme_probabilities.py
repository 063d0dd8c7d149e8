"""Rows that fuzzing found: nothing to draw, nothing left to draw, no draws."""

import pytest
import torch

from sparsek import sampling as SS
from sparsek.distributions import ConditionalPoisson, GumbelTopK, KHot

DESIGNS = [
    SS.Pivotal(),
    SS.Systematic(),
    SS.ConditionalPoisson(),
    SS.Sampford(),
    SS.Brewer(),
    SS.Pareto(),
    SS.Poisson(),
]


@pytest.mark.parametrize("design", DESIGNS, ids=str)
@pytest.mark.parametrize("size", [(3, 0), (0, 2), (2, 0, 3)])
def test_rows_of_nothing(design, size):
    probs = torch.zeros(size, requires_grad=True)
    assert design.sample(probs, (2,)).shape == (2, *size)
    if not isinstance(design, SS.Brewer | SS.Pareto):
        assert design.joint(probs).shape == (*size, size[-1])
        log_prob = design.log_prob(probs, torch.zeros(size))
        assert log_prob.shape == size[:-1]
        log_prob.sum().backward()


def test_sampford_with_nothing_left_beside_the_certain_units():
    probs = torch.tensor([4.5418739318847656e-05, 4.5418739318847656e-05, 1, 1, 0, 1]).half()
    for seed in range(20):
        sample = SS.Sampford().sample(probs, k=3, generator=torch.Generator().manual_seed(seed))
        assert sample.tolist() == [0, 0, 1, 1, 0, 1]


@pytest.mark.parametrize("design", DESIGNS, ids=str)
def test_arguments_are_checked_even_for_no_draws(design):
    with pytest.raises(ValueError, match="probs"):
        design.sample(torch.tensor([0.5, 1.5]), (0,))


def test_dependent_rounding_refuses_what_is_no_tensor():
    with pytest.raises(ValueError, match="probs"):
        SS.dependent_rounding(None)


@pytest.mark.parametrize("make", [ConditionalPoisson, GumbelTopK])
def test_laws_of_no_units_and_of_no_rows(make):
    for size, k in (((2, 0), 0), ((0, 3), 1), ((2, 0, 3), torch.tensor(0))):
        law = make(k, torch.zeros(size))
        assert law.sample((2,)).shape == (2, *size)
        assert law.mean.shape == law.mode.shape == size
        assert law.log_prob(law.sample()).shape == size[:-1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_enumeration_in_half_precision(dtype):
    law = GumbelTopK(2, torch.tensor([0.5, -1.0, 0.0], dtype=dtype))
    assert law.covariance.dtype == law.entropy().dtype == dtype
    assert KHot(torch.full((4,), 0.5, dtype=dtype), SS.Systematic(), k=2).entropy().isfinite()


def test_means_of_the_largest_numbers():
    logits = torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64) * torch.finfo(torch.float64).max
    assert ConditionalPoisson(2, logits).mean.tolist() == pytest.approx([1.0, 0.0, 1.0])


def test_a_mean_that_no_memory_holds_is_refused():
    with pytest.raises(NotImplementedError, match="terms"):
        _ = GumbelTopK(1, torch.tensor([0.0, 1e30], dtype=torch.float64)).mean
    assert GumbelTopK(0, torch.tensor([[-torch.inf]])).mean.tolist() == [[0.0]]


@pytest.mark.parametrize("k", ["2", True, float("inf"), torch.tensor(1j)])
def test_khot_refuses_a_k_that_is_no_number_of_units(k):
    with pytest.raises(ValueError, match="k "):
        KHot(torch.tensor([0.5, 0.5]), k=k)
