"""What KHot adds to the contract: designs of every kind, shuffled draws, refusals."""

import pytest
import torch
from torch.distributions import kl_divergence

from sparsek import sampling
from sparsek.constraints import k_hot
from sparsek.distributions import KHot, KHotStraightThrough
from sparsek.functional import sigmoid_topk, topk_mask
from sparsek.sampling import Design, Draw, Pivotal, Poisson, Systematic

PROBS = torch.tensor([0.62, 0.28, 0.17, 0.51, 0.42], dtype=torch.float64)


class Approximate(Pivotal):
    """A design that says of itself that its inclusion probabilities are not exact."""

    exact = False


class Unscored(Design):
    """A design with neither log_prob nor joint."""

    smooth = False

    def _sample(self, probs, size, draws, generator):
        return (probs >= 0.5).expand(draws, *probs.shape)


@pytest.mark.parametrize("design", [Pivotal(shuffle=True), Systematic(shuffle=True)])
def test_a_shuffled_design_scores_its_draws_and_refuses_bare_samples(design):
    law = KHot(PROBS, design)
    draw = law.draw((50,), generator=torch.Generator().manual_seed(0))
    assert isinstance(draw, Draw)
    scores = law.log_prob(draw)
    assert scores.shape == (50,)
    assert torch.equal(scores, design.log_prob(PROBS, draw))
    assert (scores > -torch.inf).all()
    for quantity in (lambda: law.log_prob(draw.sample), law.entropy, lambda: law.mode, lambda: kl_divergence(law, law)):
        with pytest.raises(NotImplementedError, match="permutation"):
            quantity()
    with pytest.raises(ValueError, match="support"):
        law.log_prob(draw._replace(sample=1 - draw.sample))


def test_the_score_of_a_shuffled_draw_has_mean_zero():
    probs = PROBS.clone().requires_grad_()
    draws = 20_000
    law = KHot(probs, Pivotal(shuffle=True))
    log_probs = law.log_prob(law.draw((draws,), generator=torch.Generator().manual_seed(1)))
    direction = torch.tensor([1.0, -1.0, 0.5, -0.25, -0.25], dtype=torch.float64)  # along the capped simplex
    weights = torch.ones(draws, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad((weights * log_probs).sum(), probs, create_graph=True)
    (scores,) = torch.autograd.grad(gradient @ direction, weights)
    bound = 5 * scores.std() / draws**0.5  # five standard errors: a false alarm in 2e6
    assert scores.mean().abs() < bound
    assert (
        scores + 0.2 * scores.std()
    ).mean().abs() > bound  # the sabotaged twin: a score off by a fifth of its spread


def test_what_a_design_lacks_is_refused_with_a_hint():
    approximate, unscored = KHot(PROBS, Approximate()), KHot(PROBS, Unscored())
    for quantity in (lambda: approximate.mean, lambda: approximate.variance):
        with pytest.raises(NotImplementedError, match=r"probs.*sample"):
            quantity()
    assert torch.equal(unscored.mean, PROBS)
    for quantity in (
        unscored.entropy,
        lambda: unscored.mode,
        lambda: unscored.covariance,
        lambda: kl_divergence(unscored, unscored),
    ):
        with pytest.raises(NotImplementedError, match="ConditionalPoisson"):
            quantity()


def test_large_supports_are_refused_with_their_size():
    law = KHot(torch.full((40,), 0.5))
    for quantity in (law.enumerate_support, law.entropy, lambda: law.mode):
        with pytest.raises(NotImplementedError, match="too large to enumerate"):
            quantity()
    assert KHot(torch.full((16,), 0.5)).enumerate_support().shape == (12870, 16)
    assert KHot(torch.full((64,), 1 / 32)).enumerate_support().shape == (2016, 64)
    assert KHot(torch.full((16,), 0.5), Poisson()).enumerate_support().shape == (2**16, 16)


def test_formulas_of_poisson_reach_beyond_enumeration():
    p, q = torch.rand(2, 1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    law, other = KHot(p, Poisson()), KHot(q, Poisson())
    units, others = torch.distributions.Bernoulli(p), torch.distributions.Bernoulli(q)
    torch.testing.assert_close(law.entropy(), units.entropy().sum(), rtol=1e-12, atol=0)
    torch.testing.assert_close(kl_divergence(law, other), kl_divergence(units, others).sum(), rtol=1e-12, atol=0)
    assert torch.equal(law.mode, (p > 0.5).double())


def test_formulas_of_conditional_poisson_reach_beyond_enumeration():
    p = sigmoid_topk(torch.randn(60, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), 7)
    law, other = KHot(p, sampling.ConditionalPoisson()), KHot(p.flip(0), sampling.ConditionalPoisson())
    torch.testing.assert_close(law.natural().mean, p, rtol=0, atol=1e-12)
    assert torch.equal(law.mode, topk_mask(p, 7))
    draws = 10_000
    sample = law.sample((draws,), generator=torch.Generator().manual_seed(1))
    surprise = -law.log_prob(sample)
    for exact, estimate in ((law.entropy(), surprise), (kl_divergence(law, other), -other.log_prob(sample) - surprise)):
        bound = 5 * estimate.std() / draws**0.5  # five standard errors: a false alarm in 2e6
        assert (estimate.mean() - exact).abs() < bound
        assert (estimate.mean() - 1.1 * exact).abs() > bound  # the sabotaged twin


def test_natural_parameters_of_probabilities_0_and_1():
    probs = torch.tensor([1.0, 0.5, 0.0, 0.5], dtype=torch.float64)
    natural = KHot(probs, sampling.ConditionalPoisson()).natural()
    assert natural.logits[[0, 2]].tolist() == [torch.inf, -torch.inf]
    torch.testing.assert_close(natural.mean, probs, rtol=0, atol=1e-15)
    assert KHot(probs).natural() is None
    assert KHot(0.9 * probs, sampling.ConditionalPoisson()).natural() is None


def test_kl_of_poisson_at_probabilities_0_and_1():
    certain, half = torch.tensor([0.0, 1.0]), torch.tensor([0.5, 0.5])
    assert kl_divergence(KHot(certain, Poisson()), KHot(certain, Poisson())) == 0
    torch.testing.assert_close(kl_divergence(KHot(certain, Poisson()), KHot(half, Poisson())), 2 * half[0].log().neg())
    assert kl_divergence(KHot(half, Poisson()), KHot(certain, Poisson())) == torch.inf


def test_kl_is_infinite_where_the_support_is_not_covered():
    law, narrow = KHot(torch.full((4,), 0.5)), KHot(torch.tensor([1.0, 0.0, 0.5, 0.5]))
    assert kl_divergence(law, narrow) == torch.inf
    assert kl_divergence(narrow, law) < torch.inf
    assert kl_divergence(law, KHot(torch.full((4,), 0.25))) == torch.inf
    with pytest.raises(ValueError, match="same units"):
        kl_divergence(law, KHot(torch.full((5,), 0.4)))


@pytest.mark.parametrize("k", [0, 3])
def test_k_of_0_and_n_are_deterministic(k):
    law = KHot(torch.full((3,), k / 3))
    whole = torch.full((3,), k / 3)
    assert torch.equal(law.sample((4,)), whole.expand(4, 3))
    assert law.log_prob(whole) == law.entropy() == 0
    assert torch.equal(law.mode, whole)


def test_units_of_probability_0_and_1_are_never_and_always_in():
    law = KHot(torch.tensor([1.0, 0.5, 0.0, 0.5]))
    draw = law.sample((200,), generator=torch.Generator().manual_seed(0))
    assert (draw[:, 0] == 1).all()
    assert (draw[:, 2] == 0).all()
    assert (law.enumerate_support()[law.log_prob(law.enumerate_support()) > -torch.inf] == draw[:1]).shape == (2, 4)


def test_given_k_settles_the_sum_and_is_checked():
    probs = torch.full((3,), 1 / 3).to(torch.bfloat16)  # sums to 1.002
    assert KHot(probs, k=1).sample((100,)).sum(-1).eq(1).all()
    with pytest.raises(ValueError, match="must sum to k"):
        KHot(PROBS, k=3)
    with pytest.raises(ValueError, match="must sum to k"):
        KHot(PROBS.expand(2, 5), k=torch.tensor([2, 1]))
    assert KHot(PROBS.expand(2, 5), k=torch.tensor([2, 2])).support.k.tolist() == [2, 2]


def test_real_sums_give_two_sizes_of_the_right_mean():
    law = KHot(PROBS * 1.2, k=2.4)
    assert isinstance(law.support, k_hot)
    draws = 20_000
    sizes = law.sample((draws,), generator=torch.Generator().manual_seed(0)).sum(-1)
    assert set(sizes.tolist()) == {2.0, 3.0}
    bound = 5 * (0.4 * 0.6 / draws) ** 0.5
    assert abs(sizes.mean() - 2.4) < bound
    assert abs(sizes.mean() - 2.42) > bound  # the sabotaged twin


@pytest.mark.parametrize(
    ("probs", "message"),
    [
        (torch.tensor([1, 0]), "floating-point"),
        ([0.5, 0.5], "floating-point"),
        (torch.tensor(0.5), "at least one dimension"),
        (torch.tensor([1.5, 0.5]), "probs"),
        (torch.tensor([-0.5, 0.5]), "probs"),
        (torch.tensor([float("nan"), 0.5]), "probs"),
    ],
)
def test_bad_probs_are_refused(probs, message):
    with pytest.raises(ValueError, match=message):
        KHot(probs)


def test_straight_through_gradient_is_unbiased_for_a_linear_loss():
    probs = PROBS.clone().requires_grad_()
    weight = torch.tensor([3.0, -1.0, 0.5, 2.0, 0.0], dtype=torch.float64)
    (gradient,) = torch.autograd.grad(KHotStraightThrough(probs).rsample() @ weight, probs)
    assert torch.equal(gradient, weight)


@pytest.mark.parametrize("name", ["Pivotal", "Systematic", "Poisson", "ConditionalPoisson", "Sampford"])
def test_frequencies_of_every_subset(name):
    law = KHot(PROBS, getattr(sampling, name)())
    support = law.enumerate_support()
    expected = law.log_prob(support).exp()
    draws = 20_000
    sample = law.sample((draws,), generator=torch.Generator().manual_seed(2))
    observed = (sample.unsqueeze(1) == support).all(-1).double().mean(0)
    bound = 5 * (expected * (1 - expected) / draws).sqrt()  # 32 subsets at most: a false alarm in 5e4
    assert ((observed - expected).abs() <= bound).all()
    uniform = torch.full_like(expected, 1 / len(support))
    assert ((observed - uniform).abs() > 5 * (uniform * (1 - uniform) / draws).sqrt()).any()  # the sabotaged twin
