"""Equal scores: where the pivotal law has kinks, and what they do to gradients that use its score."""

import math

import pytest
import torch
from gradient_oracle import (
    SIGMOID,
    Given,
    expected_gradient,
    losses,
    pmf,
    relative_error,
    scores,
    support,
)
from scipy import stats

from sparsek.estimators import MuProp, ScoreFunction, ScoreWarning, SecondOrder, StraightThrough
from sparsek.sampling import ConditionalPoisson, Pivotal, Systematic

SIZES = [(8, 2), (8, 4)]


def central_difference(law, fn, x, k, h=1e-4):
    """Gradient of E f(s) by central differences: the mean of the one-sided derivatives where the law has a kink."""
    states = fn(support(x.shape[-1], k))
    values = [
        pmf(law, SIGMOID(x + sign * h * e, k), k) @ states for e in torch.eye(x.shape[-1]).double() for sign in (1, -1)
    ]
    return torch.stack(values).reshape(-1, 2) @ torch.tensor([0.5 / h, -0.5 / h]).double()


def score_second_moment(law, x, k):
    """E ‖∂ log P(s)/∂x‖² over the support."""
    samples = support(x.shape[-1], k)
    leaf = x.expand(len(samples), -1).clone().requires_grad_()
    law.log_prob(SIGMOID(leaf, k), samples, k=k).sum().backward()
    return float(pmf(law, SIGMOID(x, k), k) @ leaf.grad.square().sum(-1))


@pytest.mark.parametrize(("n", "k"), SIZES)
def test_second_order_at_equal_scores(n, k):
    fn, x = losses(n)["quadratic"], torch.zeros(n).double()
    smooth = central_difference(ConditionalPoisson(), fn, x, k)
    kinked = central_difference(Pivotal(), fn, x, k)
    assert relative_error(expected_gradient(SecondOrder(), fn, x, k, ConditionalPoisson()), smooth) < 1e-5
    assert relative_error(expected_gradient(SecondOrder(), fn, x, k, Pivotal()), kinked) > 0.05


@pytest.mark.parametrize(("n", "k"), SIZES)
def test_score_grows_without_bound_near_equal_scores_under_pivotal_alone(n, k):
    direction = scores(n, 1.0)
    moments = {
        law: [score_second_moment(law, distance * direction, k) for distance in (1e-2, 1e-3, 1e-4)]
        for law in (Pivotal(), ConditionalPoisson())
    }
    assert moments[Pivotal()][1] > 5 * moments[Pivotal()][0]
    assert moments[Pivotal()][2] > 5 * moments[Pivotal()][1]
    assert moments[Pivotal()][2] > 1000
    assert max(moments[ConditionalPoisson()]) < 3
    assert math.isclose(moments[ConditionalPoisson()][2], moments[ConditionalPoisson()][1], rel_tol=1e-2)


@pytest.mark.parametrize(("n", "k", "factor"), [(8, 3, 4), (12, 5, 15)])
def test_score_of_systematic_has_many_times_the_variance(n, k, factor):
    x = scores(n, 1.0, 0)
    assert score_second_moment(Systematic(), x, k) > factor * score_second_moment(ConditionalPoisson(), x, k)


@pytest.mark.parametrize("estimator", [SecondOrder(), ScoreFunction(), MuProp()])
def test_default_design_is_smooth_and_others_warn(estimator):
    assert estimator.resolve_design(None) == ConditionalPoisson()
    assert estimator.resolve_design(ConditionalPoisson()) == ConditionalPoisson()
    for design, word in [(Pivotal(), "kinks"), (Pivotal(shuffle=True), "kinks"), (Systematic(), "times the variance")]:
        with pytest.warns(ScoreWarning, match=word):
            assert estimator.resolve_design(design) == design


def run_in_batches(gradient_of_batch, batches):
    """Means over independent batches: (batches, ...)."""
    return torch.stack([gradient_of_batch(seed) for seed in range(batches)])


def largest_t(gradients, exact):
    """Largest |t| over coordinates, and its bound at a false-alarm rate of 1e-4 over all of them."""
    m, n = gradients.shape
    t = (gradients.mean(0) - exact) / (gradients.std(0) / math.sqrt(m))
    return float(t.abs().max()), float(stats.t.ppf(1 - 1e-4 / (2 * n), m - 1))


@pytest.mark.parametrize("spread", [1.0, 1e-4, 0.0])
def test_by_simulation_at_64_8(spread):
    """(64, 8) has 4.4e9 samples: unbiased within the sampling error on a quadratic loss; straight-through is not."""
    n, k, law = 64, 8, ConditionalPoisson()
    g = torch.Generator().manual_seed(7)
    weight, matrix = torch.randn(n, generator=g).double(), torch.randn(n, n, generator=g).double() / 8
    directions = torch.randn(4, n, generator=g).double()
    x = scores(n, spread)

    def fn(s):
        return s @ weight + ((s @ matrix) * s).sum(-1)

    def expectation(point):
        probs = SIGMOID(point, k)
        return probs @ weight + (matrix * law.joint(probs, k=k)).sum()

    h = 1e-4
    exact = torch.stack([(expectation(x + h * v) - expectation(x - h * v)) / (2 * h) for v in directions])

    def pathwise(estimator):
        def gradient(seed):
            leaf = x.clone().requires_grad_()
            samples = law.sample(SIGMOID(x, k), (500,), k=k, generator=torch.Generator().manual_seed(seed))
            fn(estimator(leaf, k, SIGMOID, Given(samples))).mean().backward()  # one row of scores, 500 samples of it
            return directions @ leaf.grad

        return gradient

    def loss_level(estimator):
        def gradient(seed):
            leaf = x.clone().requires_grad_()
            generator = torch.Generator().manual_seed(100 + seed)
            estimator.surrogate(fn, leaf, k, num_samples=500, generator=generator).backward()
            return directions @ leaf.grad

        return gradient

    for gradient in (
        pathwise(SecondOrder()),
        loss_level(ScoreFunction(vectorize=True)),
        loss_level(MuProp(vectorize=True)),
    ):
        t, bound = largest_t(run_in_batches(gradient, 30), exact)
        assert t < bound
    t, bound = largest_t(run_in_batches(pathwise(StraightThrough()), 30), exact)
    assert t > bound
