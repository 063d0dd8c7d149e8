"""What every pathwise estimator promises: an exact k-hot sample, and gradients to scores, k and temperature."""

import pytest
import torch
from gradient_oracle import SIGMOID, Given, losses, scores, support
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsek.estimators import (
    IMLE,
    PathwiseEstimator,
    ReinMax,
    Relaxed,
    ScoreWarning,
    SecondOrder,
    Simple,
    StraightThrough,
)
from sparsek.estimators._imle import _sum_of_gamma
from sparsek.functional import capped_logit, topk_mask
from sparsek.relaxations import Euclidean, LapSum, Perturbed, Relaxation, ScaledSigmoid, SigmoidTopK, SuccessiveSoftmax
from sparsek.sampling import ConditionalPoisson, Design, Pivotal

ESTIMATORS = [StraightThrough(), SecondOrder(), ReinMax(), Simple(), IMLE(), Relaxed()]
REAL_K = [StraightThrough(), SecondOrder(), ReinMax()]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@settings(max_examples=15, deadline=None)
@given(batch=st.lists(st.integers(1, 3), max_size=2), n=st.integers(1, 9), data=st.data())
def test_sample_is_k_hot_and_gradient_finite(estimator, batch, n, data):
    k = data.draw(st.integers(0, n))
    x = torch.randn(*batch, n, generator=generator(n)).requires_grad_()
    before = x.detach().clone()
    sample = estimator(x, k, generator=generator(k))
    assert sample.shape == x.shape
    assert sample.dtype == x.dtype
    assert ((sample == 0) | (sample == 1)).all()
    assert (sample.sum(-1) == k).all()
    (sample * torch.randn(n, generator=generator(1))).sum().backward()
    assert x.grad.isfinite().all()
    assert torch.equal(x, before)
    if k in (0, n):
        assert x.grad.abs().max() < 1e-12 * n  # nothing to learn; the rounding of float64


@pytest.mark.parametrize("relaxation", [SIGMOID, Euclidean(), LapSum(), ScaledSigmoid(), Perturbed(samples=20)])
@pytest.mark.parametrize("estimator", [StraightThrough(), SecondOrder(), Relaxed()])
def test_every_relaxation_on_the_capped_simplex_will_do(estimator, relaxation):
    for scale in (1.0, 100.0):
        x = (scale * torch.randn(3, 60, generator=generator())).requires_grad_()
        sample = estimator(x, 9, relaxation, generator=generator())
        assert (sample.sum(-1) == 9).all()
        (sample * torch.arange(60.0)).sum().backward()
        assert x.grad.isfinite().all()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_same_generator_same_sample(estimator):
    x = torch.randn(50, 12, generator=generator())
    first, again, other = (estimator(x, 3, generator=generator(seed)) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_masked_and_infinite_scores(estimator):
    inf = torch.inf
    x = torch.tensor([[inf, 0.3, -0.2, torch.nan, -inf, 0.9], [0.1, 0.2, -inf, torch.nan, 0.0, 0.5]]).requires_grad_()
    mask = torch.tensor([True, True, True, False, True, True])
    for seed in range(10):
        x.grad = None
        sample = estimator(x, 2, generator=generator(seed), mask=mask)
        assert (sample.sum(-1) == 2).all()
        assert (sample[:, 3] == 0).all()
        assert sample[0, 0] == 1
        assert sample[0, 4] == 0
        assert sample[1, 2] == 0
        (sample * torch.arange(6.0)).sum().backward()
        assert x.grad.isfinite().all()
        assert (x.grad[:, 3] == 0).all()


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtype_in_dtype_out(estimator, dtype):
    x = torch.randn(4, 40, generator=generator()).to(dtype).requires_grad_()
    sample = estimator(x, 7, generator=generator())
    assert sample.dtype == dtype
    assert (sample.sum(-1) == 7).all()
    (sample * torch.arange(40).to(dtype)).sum().backward()
    assert x.grad.dtype == dtype
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("estimator", [StraightThrough(), SecondOrder(), ReinMax(), Simple(), IMLE()])
def test_k_per_row_and_rows_are_independent(estimator):
    k = torch.tensor([1, 3, 5])
    x = torch.randn(3, 8, generator=generator()).requires_grad_()
    sample = estimator(x, k, generator=generator())
    assert torch.equal(sample.sum(-1).long(), k)
    (sample[1] * torch.arange(8.0)).sum().backward()
    assert (x.grad[[0, 2]] == 0).all()


@pytest.mark.parametrize("estimator", [StraightThrough(), SecondOrder(), ReinMax(), Simple(), Relaxed()])
def test_gradient_is_blind_to_a_shift(estimator):
    x = torch.randn(20, 9, generator=generator()).double().requires_grad_()
    (estimator(x, 4, generator=generator()) * torch.arange(9.0)).sum().backward()
    assert x.grad.sum(-1).abs().max() < 1e-9
    assert (x.grad != 0).any(-1).all()


@pytest.mark.parametrize(
    ("estimator", "name"), [(StraightThrough(), "linear"), (SecondOrder(), "linear"), (SecondOrder(), "quadratic")]
)
def test_gradient_to_real_k_and_temperature_is_exact(estimator, name):
    """d E f(s) / dk and / dtemperature at real k, over the samples of both sizes."""
    n, law = 6, ConditionalPoisson()
    fn, x = losses(n)[name], scores(n, 1.0)
    samples = torch.cat([support(n, 2), support(n, 3)])

    def gradients(expectation, k, temperature):
        return torch.stack(torch.autograd.grad(expectation, (k, temperature)))

    k, temperature = torch.tensor(2.3).double().requires_grad_(), torch.tensor(0.7).double().requires_grad_()
    weights = law.log_prob(SigmoidTopK(temperature)(x, k), samples, k=k).exp()
    assert torch.allclose(weights.sum(), torch.tensor(1.0).double(), atol=1e-10)
    exact = gradients((weights * fn(samples)).sum(), k, temperature)
    total = torch.zeros(2).double()
    for weight, sample in zip(weights.detach(), samples, strict=True):
        carried = estimator(x, k, SigmoidTopK(temperature), Given(sample, law))
        total += weight * gradients(fn(carried), k, temperature)
    assert torch.allclose(total, exact, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("estimator", REAL_K)
def test_real_k_sizes(estimator):
    k = torch.tensor(2.25, requires_grad=True)
    x = torch.randn(4000, 6, generator=generator())
    sample = estimator(x, k, generator=generator())
    sizes = sample.detach().sum(-1)
    assert ((sizes == 2) | (sizes == 3)).all()
    assert abs(float(sizes.mean()) - 2.25) < 5 * (0.25 * 0.75 / 4000) ** 0.5  # 5 sigma: one false alarm in 2e6
    sample.sum().div(len(x)).backward()
    if not isinstance(estimator, SecondOrder):
        assert abs(float(k.grad) - 1) < 1e-4  # d E|s| / dk


class Softmax(Relaxation):
    """Softmax, which lies on the capped simplex at k = 1."""

    on_capped_simplex, real_k = True, False

    def __call__(self, input, k, dim=-1, mask=None, generator=None):
        assert k == 1
        return input.softmax(dim)


def test_second_order_at_k_1_with_softmax_is_reinmax():
    n = 7
    x, states = scores(n, 1.0), support(n, 1)
    slope = torch.randn(n, n, generator=generator()).double()
    leaf = x.expand(n, -1).clone().requires_grad_()
    (SecondOrder()(leaf, 1, Softmax(), Given(states)) * slope).sum().backward()

    def jacobian(p):
        return torch.diag_embed(p) - p[:, :, None] * p[:, None, :]

    p = x.softmax(-1).expand(n, -1)
    reinmax = 2 * jacobian((p + states) / 2) - 0.5 * jacobian(p)
    assert torch.allclose(leaf.grad, torch.einsum("sij,sj->si", reinmax, slope), atol=1e-9)


def test_reinmax_is_the_published_formula():
    """Against the relaxation's own backward pass at the perturbed logits."""
    n, k, temperature = 7, 3, 0.8
    states, relaxation = support(n, k), SigmoidTopK(temperature)
    slope = torch.randn(len(states), n, generator=generator()).double()
    x = scores(n, 1.0).expand(len(states), -1)
    leaf = x.clone().requires_grad_()
    (ReinMax()(leaf, k, relaxation, Given(states)) * slope).sum().backward()
    probs = relaxation(x, k)
    moved = temperature * capped_logit((probs + states) / 2)
    other = x.clone().requires_grad_()
    published = 2 * relaxation(moved + other - other.detach(), k) - 0.5 * relaxation(other, k)
    (published * slope).sum().backward()
    assert torch.allclose(leaf.grad, other.grad, atol=1e-9)


def test_relaxed_soft_and_hard():
    x = torch.randn(30, 8, generator=generator()).double()
    for relaxation in (SIGMOID, Euclidean(), SuccessiveSoftmax(0.5)):
        soft_leaf, hard_leaf = x.clone().requires_grad_(), x.clone().requires_grad_()
        soft = Relaxed(hard=False)(soft_leaf, 3, relaxation, generator=generator())
        hard = Relaxed()(hard_leaf, 3, relaxation, generator=generator())
        assert torch.allclose(soft.sum(-1), torch.tensor(3.0).double())
        slope = torch.arange(8.0).double()
        (soft * slope).sum().backward()
        (hard * slope).sum().backward()
        assert torch.allclose(soft_leaf.grad, hard_leaf.grad)
        if relaxation is SIGMOID:
            assert torch.equal(topk_mask(soft, 3), hard)


def test_relaxed_hard_follows_gumbel_top_k():
    """Frequencies of Plackett-Luce pairs at (3, 2), within a bound of one false alarm in 1e5 per pair."""
    logits, draws = torch.tensor([0.5, -0.3, 0.1]).double(), 100_000
    sample = Relaxed()(logits.expand(draws, -1), 2, generator=generator())
    weights = logits.exp() / logits.exp().sum()
    for out in range(3):
        i, j = [u for u in range(3) if u != out]
        p = float(weights[i] * weights[j] / (1 - weights[i]) + weights[j] * weights[i] / (1 - weights[j]))
        assert abs(float((sample[:, out] == 0).double().mean()) - p) < 4.42 * (p * (1 - p) / draws) ** 0.5


def test_imle_is_the_difference_quotient():
    x = torch.randn(40, 10, generator=generator()).double()
    slope = torch.randn(40, 10, generator=generator(1)).double()
    leaf = x.clone().requires_grad_()
    sample = IMLE(lambd=3.0)(leaf, 4, generator=generator(2))
    (sample * slope).sum().backward()
    noise_and_scores = IMLE(lambd=3.0)((x - 3.0 * slope), 4, generator=generator(2))
    assert torch.allclose(leaf.grad, (sample - noise_and_scores).detach() / 3.0)


def test_noise_of_imle_adds_up_to_gumbel():
    """The sum over k units has the mean 0.5772 and variance π²/6 of Gumbel, up to truncation and 5 sigma."""
    k, draws = 3, 200_000
    total = _sum_of_gamma(torch.zeros(draws, k).double(), k, 50, generator()).sum(-1)
    assert abs(float(total.mean()) - 0.5772) < 0.01 + 5 * 1.2825 / draws**0.5
    assert abs(float(total.var()) - 1.6449) < 0.02 + 5 * 1.6449 * (5.4 - 1) ** 0.5 / draws**0.5


@pytest.mark.parametrize("estimator", [Simple(), IMLE(), Relaxed()])
def test_real_k_is_refused_where_it_has_no_meaning(estimator):
    x = torch.zeros(4)
    for k in (1.5, torch.tensor(1.5), torch.tensor(2.0, requires_grad=True)):
        with pytest.raises(ValueError, match="k must be a whole number"):
            estimator(x, k)
    assert estimator(x, 2.0).sum() == 2


def test_relaxations_that_do_not_fit_are_refused():
    x = torch.zeros(4)
    for estimator in (StraightThrough(), SecondOrder()):
        with pytest.raises(ValueError, match="relaxation must map to the capped simplex"):
            estimator(x, 2, SuccessiveSoftmax(1.0))
    with pytest.raises(ValueError, match="relaxation must be SigmoidTopK"):
        ReinMax()(x, 2, Euclidean())
    with pytest.raises(ValueError, match="k must be a whole number for Softmax"):
        StraightThrough()(x, 1.5, Softmax())


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_bad_input_is_refused(estimator):
    with pytest.raises(ValueError, match="k must"):
        estimator(torch.zeros(4), 5)
    with pytest.raises(ValueError, match="k must"):
        estimator(torch.zeros(4), -1)
    with pytest.raises(ValueError, match="input must be a floating-point tensor"):
        estimator(torch.zeros(4, dtype=torch.long), 2)
    with pytest.raises(ValueError, match="k"):
        estimator(torch.zeros(4), 2, mask=torch.tensor([True, False, False, False]))


def test_fields_are_checked():
    for make in (
        lambda: IMLE(lambd=0.0),
        lambda: IMLE(noise_scale=-1.0),
        lambda: IMLE(terms=0),
        lambda: Relaxed(noise_scale=0.0),
    ):
        with pytest.raises(ValueError, match="must be"):
            make()


class Opaque(ConditionalPoisson):
    """A design that can be drawn but not scored."""

    _log_prob = Design._log_prob


def test_second_order_needs_a_log_probability():
    with pytest.raises(NotImplementedError, match="log_prob"):
        SecondOrder()(torch.zeros(4), 2, design=Opaque())
    assert StraightThrough()(torch.zeros(4), 2, design=Opaque()).sum() == 2


def test_shuffled_pivotal_scores_its_own_order():
    """The permutation is random: the mean score over draws is 0, within 5 sigma of each coordinate."""
    x = torch.tensor([0.4, -0.7, 0.1, 1.2, -0.3]).double()
    leaf = x.expand(20000, -1).clone().requires_grad_()
    with pytest.warns(ScoreWarning, match="kinks"):
        sample = SecondOrder()(leaf, 2, design=Pivotal(shuffle=True), generator=generator())
    slope = torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0]).double()
    (sample * slope).sum().backward()
    point = x.clone().requires_grad_()
    (exact,) = torch.autograd.grad(SIGMOID(point, 2) @ slope, point)
    error = (leaf.grad.mean(0) - exact) / (leaf.grad.std(0) / len(leaf) ** 0.5)
    assert error.abs().max() < 5


def test_estimators_are_values():
    """Frozen, hashable, equal by their fields."""
    assert StraightThrough() == StraightThrough()
    assert len({IMLE(1.0), IMLE(1.0), IMLE(2.0)}) == 2
    assert all(isinstance(e, PathwiseEstimator) for e in ESTIMATORS)
    with pytest.raises(AttributeError):
        IMLE().lambd = 1.0
