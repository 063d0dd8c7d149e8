"""Expectation of every estimator against the exact gradient of E f(s), both by enumeration."""

import pytest
import torch
from gradient_oracle import (
    SIGMOID,
    Given,
    exact_gradient,
    expected_gradient,
    expected_surrogate_gradient,
    losses,
    pmf,
    relative_error,
    scores,
    support,
)

from sparsek.estimators import (
    IMLE,
    MuProp,
    ReinMax,
    ScoreFunction,
    SecondOrder,
    Simple,
    StraightThrough,
    _score_function,
)
from sparsek.functional import log_esp
from sparsek.relaxations import Euclidean
from sparsek.sampling import ConditionalPoisson, Pivotal, Poisson

SIZES = [(8, 2), (8, 4)]
SPREADS = [1.0, 1e-4, 0.0]  # generic, near equal and equal scores
EXACT = 1e-7  # float64 through the calibration of conditional Poisson


def brute_force_maximum_entropy(probs, k):
    """The maximum entropy law on the k-hot vectors with inclusion probabilities `probs`, by Newton over the support."""
    states, theta = support(len(probs), k), torch.logit(probs)
    for _ in range(60):
        weights = torch.softmax(states @ theta, 0)
        mean = weights @ states
        covariance = states.T @ (weights[:, None] * states) - mean[:, None] * mean
        theta = theta + torch.linalg.lstsq(covariance, (probs - mean)[:, None], driver="gelsd").solution[:, 0]
    assert torch.allclose(mean, probs, atol=1e-12)
    return torch.softmax(states @ theta, 0)


@pytest.mark.parametrize(("n", "k"), SIZES)
@pytest.mark.parametrize("name", ["linear", "quadratic", "neural"])
def test_oracle_agrees_with_differences_of_a_brute_force_law(n, k, name):
    """The exact gradient used below, against central differences of a law that shares no code with the package."""
    fn, x, h = losses(n)[name], scores(n, 1.0), 1e-5

    def expectation(point):
        return brute_force_maximum_entropy(SIGMOID(point, k), k) @ fn(support(n, k))

    differences = torch.stack(
        [(expectation(x + h * e) - expectation(x - h * e)) / (2 * h) for e in torch.eye(n).double()]
    )
    assert relative_error(exact_gradient(fn, x, k, ConditionalPoisson()), differences) < 1e-7


@pytest.mark.parametrize("law", [Pivotal(), ConditionalPoisson()])
@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize(("n", "k"), SIZES)
def test_straight_through_is_exact_on_linear(n, k, spread, law):
    fn, x = losses(n)["linear"], scores(n, spread)
    point = x.clone().requires_grad_()
    (exact,) = torch.autograd.grad(fn(SIGMOID(point, k)), point)  # E f(s) = f(π)
    assert relative_error(expected_gradient(StraightThrough(), fn, x, k, law), exact) < EXACT


@pytest.mark.parametrize("name", ["quadratic", "neural"])
def test_straight_through_is_biased_beyond_linear(name):
    fn, x = losses(8)[name], scores(8, 1.0)
    law = ConditionalPoisson()
    assert relative_error(expected_gradient(StraightThrough(), fn, x, 2, law), exact_gradient(fn, x, 2, law)) > 0.01


@pytest.mark.parametrize("name", ["linear", "quadratic"])
@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize(("n", "k"), SIZES)
def test_second_order_is_exact_to_second_order(n, k, spread, name):
    fn, x, law = losses(n)[name], scores(n, spread), ConditionalPoisson()
    assert relative_error(expected_gradient(SecondOrder(), fn, x, k, law), exact_gradient(fn, x, k, law)) < EXACT


@pytest.mark.parametrize("name", ["linear", "quadratic"])
def test_second_order_is_exact_away_from_kinks_under_pivotal_and_through_projection(name):
    fn, x = losses(8)[name], scores(8, 0.3)
    for law, relaxation in [(Pivotal(), SIGMOID), (Pivotal(), Euclidean()), (ConditionalPoisson(), Euclidean())]:
        expected = expected_gradient(SecondOrder(), fn, x, 3, law, relaxation)
        assert relative_error(expected, exact_gradient(fn, x, 3, law, relaxation)) < EXACT


def test_second_order_is_not_exact_on_a_general_loss():
    fn, x, law = losses(8)["neural"], scores(8, 1.0), ConditionalPoisson()
    assert relative_error(expected_gradient(SecondOrder(), fn, x, 2, law), exact_gradient(fn, x, 2, law)) > 1e-3


@pytest.mark.parametrize("name", ["linear", "quadratic", "neural"])
@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize(("n", "k"), SIZES)
def test_loss_level_estimators_are_exact_on_all(n, k, spread, name):
    fn, x, law = losses(n)[name], scores(n, spread), ConditionalPoisson()
    exact = exact_gradient(fn, x, k, law)
    assert relative_error(expected_surrogate_gradient(MuProp(), fn, x, k, law, 1), exact) < EXACT
    assert relative_error(expected_surrogate_gradient(ScoreFunction(), fn, x, k, law, 1), exact) < EXACT
    assert relative_error(expected_surrogate_gradient(ScoreFunction(vectorize=True), fn, x, k, law, 2), exact) < EXACT


def test_loss_level_estimators_are_exact_over_triples():
    fn, x, law = losses(5)["neural"], scores(5, 1.0), ConditionalPoisson()
    exact = exact_gradient(fn, x, 2, law)
    for estimator in (ScoreFunction(), MuProp(vectorize=True)):
        assert relative_error(expected_surrogate_gradient(estimator, fn, x, 2, law, 3), exact) < EXACT


def test_score_function_is_exact_for_a_loss_without_derivative():
    x, law = scores(8, 1.0), ConditionalPoisson()

    def fn(s):
        return (s[..., 0] == s[..., 3]).double() + 2.0 * (s[..., :4].sum(-1) > 1)

    exact = exact_gradient(fn, x, 3, law)
    assert relative_error(expected_surrogate_gradient(ScoreFunction(), fn, x, 3, law, 2), exact) < EXACT


def test_full_mean_as_baseline_is_caught(monkeypatch):
    """Sabotage: a baseline that sees its own sample shrinks the gradient by (m - 1)/m."""
    fn, x, law = losses(8)["neural"], scores(8, 1.0), ConditionalPoisson()
    exact = exact_gradient(fn, x, 2, law)
    monkeypatch.setattr(_score_function, "_leave_one_out", lambda loss: loss - loss.mean(0))
    wrong = expected_surrogate_gradient(ScoreFunction(), fn, x, 2, law, 2)
    assert relative_error(wrong, exact) > 0.4
    assert torch.allclose(2 * wrong, exact, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("other", [Pivotal(), Poisson()])
def test_score_of_another_design_is_caught(other):
    """Sabotage: draw from conditional Poisson, score with another design (Poisson sampling forgets the size)."""
    fn, x, law = losses(8)["quadratic"], scores(8, 0.3), ConditionalPoisson()
    exact = exact_gradient(fn, x, 3, law)
    assert relative_error(expected_gradient(SecondOrder(), fn, x, 3, law, score_of=other), exact) > 0.01
    assert relative_error(expected_surrogate_gradient(MuProp(), fn, x, 3, law, 1, score_of=other), exact) > 0.01


def test_muprop_stays_unbiased_when_the_slope_says_nothing():
    """The control variate moves variance, never the expectation."""
    fn, x, law = losses(8)["linear"], scores(8, 1.0), ConditionalPoisson()

    def flat(s):
        return fn(s.detach()) + 0.0 * s.sum(-1)

    assert (
        relative_error(expected_surrogate_gradient(MuProp(), flat, x, 2, law, 1), exact_gradient(fn, x, 2, law)) < EXACT
    )


def test_variance_on_linear():
    """Straight-through and MuProp have none on a linear loss; second-order and score function do."""
    n, k, law = 8, 2, ConditionalPoisson()
    fn, samples = losses(n)["linear"], support(n, k)
    x = scores(n, 1.0).expand(len(samples), -1)

    def spread(gradient):
        return float((gradient - gradient.mean(0)).abs().max())

    def pathwise(estimator):
        leaf = x.clone().requires_grad_()
        fn(estimator(leaf, k, SIGMOID, Given(samples, law))).sum().backward()
        return leaf.grad

    def loss_level(estimator):
        leaf = x.clone().requires_grad_()
        (len(samples) * estimator.surrogate(fn, leaf, k, SIGMOID, Given(samples[None], law), 1)).backward()
        return leaf.grad

    assert spread(pathwise(StraightThrough())) < 1e-12
    assert spread(loss_level(MuProp())) < 1e-9
    assert spread(pathwise(SecondOrder())) > 0.01
    assert spread(loss_level(ScoreFunction())) > 0.01


@pytest.mark.parametrize(("n", "k"), SIZES)
@pytest.mark.parametrize("spread", [1.0, 2.0])
def test_bias_of_published_reinmax_on_linear(n, k, spread):
    """Biased even for linear losses: 0.7 to 12 % of the gradient, where the second-order form has none."""
    fn, x, law = losses(n)["linear"], scores(n, spread), ConditionalPoisson()
    bias = relative_error(expected_gradient(ReinMax(), fn, x, k, law), exact_gradient(fn, x, k, law))
    assert 0.005 < bias < 0.15


def test_simple_is_exact_on_linear():
    """Expectation over the k-subset distribution with logits x of SIMPLE's gradient: the covariance times the slope."""
    n, k = 8, 3
    fn, x, states = losses(n)["linear"], scores(n, 1.0), support(n, k)
    point = x.clone().requires_grad_()
    (exact,) = torch.autograd.grad(torch.softmax(states @ point, 0) @ fn(states), point)
    leaf = x.clone().requires_grad_()
    fn(Simple()(leaf, k)).backward()  # for linear f every sample gives the same gradient
    assert relative_error(leaf.grad, exact) < 1e-10
    (marginals,) = torch.autograd.grad(log_esp(point, k), point)
    assert torch.allclose(marginals, torch.softmax(states @ x, 0) @ states, atol=1e-12)


def test_imle_telescopes_to_a_finite_difference():
    """For linear f, λ times the mean gradient is the change of the mean sample along the step."""
    n, k, lambd = 6, 2, 2.0
    fn, x = losses(n)["linear"], scores(n, 1.0)
    leaf = x.expand(40000, -1).clone().requires_grad_()
    sample = IMLE(lambd=lambd)(leaf, k, generator=torch.Generator().manual_seed(0))
    fn(sample).sum().backward()
    slope = torch.autograd.grad(fn(point := x.clone().requires_grad_()), point)[0]
    other = IMLE()((x - lambd * slope).expand(40000, -1), k, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(lambd * leaf.grad.mean(0), sample.detach().mean(0) - other.mean(0), atol=1e-12)


def test_pmf_sums_to_one():
    x = scores(8, 1.0)
    for law in (Pivotal(), ConditionalPoisson()):
        assert abs(float(pmf(law, SIGMOID(x, 3), 3).sum()) - 1) < 1e-12
