"""Conditional Poisson and Gumbel top-k: exactness against independent formulas, limits, infinite logits, refusals."""

import itertools
import math

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Categorical, kl_divergence

from sparsek.distributions import ConditionalPoisson, GumbelTopK
from sparsek.functional import log_esp, topk_mask

BOTH = pytest.mark.parametrize("law", [ConditionalPoisson, GumbelTopK])
NORMAL = torch.randn(60, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def log_prob_by_subsets(logits, selected):
    """Log-probability that the race takes `selected` first: dynamic programming over its subsets in 60 digits."""
    with mpmath.workdps(60 + math.ceil(max(abs(x) for x in logits))):
        weights = [mpmath.e**x for x in logits]
        inside = [w for w, s in zip(weights, selected, strict=True) if s]
        total, k = mpmath.fsum(weights), len(inside)
        chance = [mpmath.mpf(1)] + [mpmath.mpf(0)] * (2**k - 1)
        for taken in range(2**k):
            left = total - mpmath.fsum(inside[i] for i in range(k) if taken >> i & 1)
            for i in range(k):
                if not taken >> i & 1:
                    chance[taken | 1 << i] += chance[taken] * inside[i] / left
        return float(mpmath.log(chance[-1]))


@given(data=st.data(), n=st.integers(2, 9), scale=st.sampled_from([0.0, 0.3, 3.0, 30.0]))
@settings(max_examples=25, deadline=None)
def test_gumbel_top_k_scores_a_set_exactly(data, n, scale):
    k = data.draw(st.integers(1, min(n, 6)))
    logits = [scale * data.draw(st.floats(-3, 3)) for _ in range(n)]
    selected = data.draw(st.permutations([1.0] * k + [0.0] * (n - k)))
    exact = log_prob_by_subsets(logits, selected)
    law = GumbelTopK(k, torch.tensor(logits, dtype=torch.float64))
    value = law.log_prob(torch.tensor(selected, dtype=torch.float64)).item()
    assert abs(value - exact) <= 1e-13 * max(1, abs(exact), 3 * scale)


@pytest.mark.parametrize("gap", [-30.0, -3.0, 0.0, 2.0, 3.0, 5.0, 8.0, 15.0, 30.0])
@pytest.mark.parametrize("k", [1, 10, 100, 1000])
def test_gumbel_top_k_stays_exact_at_large_k(k, gap):
    """k units of equal weight against one of weight 1: a product in closed form."""
    logits = torch.full((k + 1,), gap, dtype=torch.float64)
    logits[-1] = 0
    sizes = torch.arange(1, k + 1, dtype=torch.float64)
    exact = -torch.log1p(math.exp(-gap) / sizes).sum().item()
    value = GumbelTopK(k, logits).log_prob((torch.arange(k + 1) < k).double()).item()
    assert abs(value - exact) <= 2e-13 * max(1, abs(exact))


@given(n=st.integers(2, 7), seed=st.integers(0, 1000), scale=st.sampled_from([0.0, 1.0, 10.0]))
@settings(max_examples=15, deadline=None)
def test_gumbel_top_k_mean_is_exact_for_rare_units_too(n, seed, scale):
    logits = scale * torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    for k in range(1, n):
        law = GumbelTopK(k, logits)
        support = law.enumerate_support()
        exact = (law.log_prob(support).exp().unsqueeze(-1) * support).sum(0)
        torch.testing.assert_close(law.mean, exact, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("n", "k"), [(60, 1), (60, 20), (30, 29)])
def test_the_mean_sums_to_k(n, k):
    for law in (ConditionalPoisson(k, 2 * NORMAL[:n]), GumbelTopK(k, 2 * NORMAL[:n])):
        assert abs(law.mean.sum().item() - k) <= 1e-12 * k
    with pytest.raises(NotImplementedError, match="estimate it from samples"):
        _ = GumbelTopK(1000, torch.zeros(5000)).mean


@BOTH
def test_one_pick_is_categorical(law):
    one, categorical = law(1, NORMAL[:6]), Categorical(logits=NORMAL[:6])
    torch.testing.assert_close(one.log_prob(torch.eye(6, dtype=torch.float64)), categorical.logits, rtol=0, atol=1e-13)
    torch.testing.assert_close(one.mean, categorical.probs, rtol=1e-12, atol=0)
    torch.testing.assert_close(one.entropy(), categorical.entropy(), rtol=0, atol=1e-13)


@BOTH
def test_mode_is_the_top_k_of_large_rows_too(law):
    assert torch.equal(law(20, NORMAL).mode, topk_mask(NORMAL, 20))
    small = law(3, NORMAL[:7])
    support = small.enumerate_support()
    assert torch.equal(support[small.log_prob(support).argmax()], small.mode)


@BOTH
def test_a_constant_added_changes_nothing(law):
    draw = topk_mask(NORMAL, 9)
    for quantity in (lambda d: d.log_prob(draw), lambda d: d.mean):
        shifted = (NORMAL + 1e6).double()
        torch.testing.assert_close(quantity(law(9, shifted)), quantity(law(9, shifted - 1e6)), rtol=1e-11, atol=1e-11)


@BOTH
def test_infinite_logits_reduce_the_problem(law):
    logits = torch.tensor([0.3, torch.inf, 2.0, -torch.inf, 0.7], dtype=torch.float64, requires_grad=True)
    infinite, reduced = law(2, logits), law(1, logits[[0, 2, 4]].detach())
    value = torch.tensor([0.0, 1.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(infinite.log_prob(value), reduced.log_prob(value[[0, 2, 4]]), rtol=0, atol=1e-14)
    assert infinite.mean[[1, 3]].tolist() == [1, 0]
    torch.testing.assert_close(infinite.mean[[0, 2, 4]], reduced.mean, rtol=0, atol=1e-13)
    torch.testing.assert_close(infinite.entropy(), reduced.entropy(), rtol=0, atol=1e-13)
    for wrong in ([1.0, 0, 1, 0, 0], [0, 1.0, 0, 1, 0]):
        score = infinite.log_prob(torch.tensor(wrong, dtype=torch.float64))
        assert score == -torch.inf
        assert torch.autograd.grad(score, logits)[0].eq(0).all()
    outputs = infinite.log_prob(value) + infinite.mean.square().sum() + infinite.entropy()
    (gradient,) = torch.autograd.grad(outputs, logits)
    assert gradient.isfinite().all()
    assert gradient[[1, 3]].eq(0).all()
    draws = infinite.sample((300,), generator=torch.Generator().manual_seed(0))
    assert draws[:, 1].eq(1).all()
    assert draws[:, 3].eq(0).all()


@BOTH
def test_as_many_candidates_as_picks_leave_nothing_to_chance(law):
    logits = torch.tensor([0.3, -torch.inf, 2.0, -torch.inf])
    only = torch.tensor([1.0, 0, 1, 0])
    certain = law(2, logits)
    assert certain.log_prob(only) == certain.entropy() == 0
    assert torch.equal(certain.mean, only)
    assert torch.equal(certain.sample(), only)


def test_conditional_poisson_formulas_reach_beyond_enumeration():
    p, q = ConditionalPoisson(7, NORMAL[:25]), ConditionalPoisson(7, NORMAL[25:50])
    draws = 20_000
    sample = p.sample((draws,), generator=torch.Generator().manual_seed(3))
    surprise, ratio = -p.log_prob(sample), p.log_prob(sample) - q.log_prob(sample)
    for exact, estimate in ((p.entropy(), surprise), (kl_divergence(p, q), ratio)):
        bound = 5 * estimate.std() / draws**0.5  # five standard errors: a false alarm in 2e6
        assert (estimate.mean() - exact).abs() < bound
        assert (estimate.mean() - 1.1 * exact).abs() > bound  # the sabotaged twin
    weighted = p.logits @ p.mean
    torch.testing.assert_close(p.entropy(), log_esp(p.logits, 7) - weighted, rtol=1e-12, atol=0)


def test_conditional_poisson_kl_sees_supports():
    finite = ConditionalPoisson(2, NORMAL[:4])
    without = ConditionalPoisson(2, NORMAL[:4].clone().index_fill(0, torch.tensor([1]), -torch.inf))
    always = ConditionalPoisson(2, NORMAL[:4].clone().index_fill(0, torch.tensor([1]), torch.inf))
    for narrow in (without, always):
        assert kl_divergence(finite, narrow) == torch.inf
        assert kl_divergence(narrow, narrow) == 0
        support = narrow.enumerate_support()
        p, q = narrow.log_prob(support), finite.log_prob(support)
        expected = torch.where(p > -torch.inf, p.exp() * (p - q), 0.0).sum()
        torch.testing.assert_close(kl_divergence(narrow, finite), expected, rtol=0, atol=1e-12)
    assert kl_divergence(without, always) == kl_divergence(always, without) == torch.inf
    assert kl_divergence(finite, ConditionalPoisson(3, NORMAL[:4])) == torch.inf
    rows = ConditionalPoisson(torch.tensor([2, 3]), NORMAL[:4])
    assert (kl_divergence(rows, finite) == torch.tensor([0.0, torch.inf])).all()


@BOTH
def test_frequencies_of_every_subset(law):
    built = law(2, NORMAL[:5])
    support = built.enumerate_support()
    expected = built.log_prob(support).exp()
    draws = 20_000
    sample = built.sample((draws,), generator=torch.Generator().manual_seed(4))
    observed = (sample.unsqueeze(1) == support).all(-1).double().mean(0)
    z = 5.0  # ten subsets: a false alarm in 2e5
    assert ((observed - expected).abs() <= z * (expected * (1 - expected) / draws).sqrt()).all()
    (twin,) = {ConditionalPoisson, GumbelTopK} - {law}
    wrong = twin(2, NORMAL[:5]).log_prob(support).exp()  # the sabotaged twin: the other law of the same logits
    assert ((observed - wrong).abs() > z * (wrong * (1 - wrong) / draws).sqrt()).any()


def test_rows_are_drawn_independently():
    for law in (ConditionalPoisson, GumbelTopK):
        draws = law(1, torch.zeros(2, 2)).sample((20_000,), generator=torch.Generator().manual_seed(5))
        agree = (draws[:, 0] == draws[:, 1]).all(-1).double().mean()
        assert abs(agree - 0.5) < 5 * (0.25 / 20_000) ** 0.5


@BOTH
@pytest.mark.parametrize(
    ("k", "logits", "message"),
    [
        (-1, torch.zeros(3), "k must be"),
        (4, torch.zeros(3), "k must be"),
        (1.5, torch.zeros(3), "whole number"),
        (float("nan"), torch.zeros(3), "k must be"),
        ("2", torch.zeros(3), "k must be"),
        (torch.tensor([1, 5]), torch.zeros(2, 3), "k must"),
        (torch.tensor([1, 1, 1]), torch.zeros(2, 3), "broadcast"),
        (1, torch.zeros(3, dtype=torch.long), "floating-point"),
        (1, torch.tensor(0.0), "at least one dimension"),
        (1, torch.tensor([0.0, float("nan")]), "logits"),
        (2, torch.tensor([0.0, -torch.inf, -torch.inf]), "k must be at most the number of valid units"),
        (1, torch.tensor([0.0, torch.inf, torch.inf]), "at most k entries at"),
    ],
)
def test_bad_arguments_are_refused(law, k, logits, message):
    with pytest.raises(ValueError, match=message):
        law(k, logits)


@BOTH
def test_k_and_logits_broadcast(law):
    built = law(torch.tensor([[1], [2], [3]]), NORMAL[:8].view(2, 4))
    assert built.batch_shape == (3, 2)
    assert built.sample((5,)).sum(-1).eq(built.k).all()
    for i, j in itertools.product(range(3), range(2)):
        single = law(i + 1, NORMAL[:8].view(2, 4)[j])
        torch.testing.assert_close(built.mean[i, j], single.mean, rtol=0, atol=1e-12)
