"""A surrogate loss besides its unbiased gradient: its value, and gradients to what the loss closes over."""

import pytest
import torch
from gradient_oracle import SIGMOID, Given, exact_gradient, losses, pmf, relative_error, scores, support

from sparsek.estimators import MuProp, ScoreFunction
from sparsek.relaxations import SigmoidTopK, SuccessiveSoftmax
from sparsek.sampling import ConditionalPoisson

ESTIMATORS = [ScoreFunction(), ScoreFunction(vectorize=True), MuProp(), MuProp(vectorize=True)]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_value_and_parameter_gradient_are_those_of_the_mean_loss(estimator):
    m, rows, n, k = 3, 5, 6, 2
    x = torch.randn(rows, n, generator=generator()).double().requires_grad_()
    weight = torch.randn(n, generator=generator(1)).double().requires_grad_()

    def fn(s):
        return torch.tanh(s @ weight) * x.sin().sum(-1)  # also depends on the scores by another way than the sample

    samples = ConditionalPoisson().sample(SIGMOID(x.detach(), k), (m,), k=k, generator=generator(2))
    loss = estimator.surrogate(fn, x, k, SIGMOID, Given(samples), m)
    mean = torch.stack([fn(s) for s in samples]).mean()
    assert loss.shape == ()
    assert torch.allclose(loss, mean, rtol=1e-14)
    (direct,) = torch.autograd.grad(mean, weight)
    loss.backward()
    assert torch.allclose(weight.grad, direct, rtol=1e-12)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_other_ways_from_the_scores_to_the_loss_add_up(estimator):
    n, k = 6, 2
    samples = support(n, k)[:4].unsqueeze(1)
    x = scores(n, 1.0).unsqueeze(0)

    def gradient(fn_of):
        leaf = x.clone().requires_grad_()
        estimator.surrogate(fn_of(leaf), leaf, k, SIGMOID, Given(samples), 4).backward()
        return leaf.grad

    fn = losses(n)["neural"]
    gate = x.sin().sum(-1)
    through_sample = gradient(lambda leaf: lambda s: fn(s) * gate)
    both = gradient(lambda leaf: lambda s: fn(s) * leaf.sin().sum(-1))
    assert torch.allclose(both - through_sample, fn(samples).mean() * x.cos(), rtol=1e-9)


@pytest.mark.parametrize("kind", [ScoreFunction, MuProp])
def test_calling_once_a_sample_or_once_for_all_is_the_same(kind):
    x = torch.randn(4, 3, 7, generator=generator())
    fn = losses(7)["neural"]
    gradients = []
    for vectorize in (False, True):
        leaf = x.double().requires_grad_()
        kind(vectorize=vectorize).surrogate(fn, leaf, 3, num_samples=5, generator=generator(1)).backward()
        gradients.append(leaf.grad)
    assert torch.allclose(*gradients, rtol=1e-12)


@pytest.mark.parametrize("estimator", [ScoreFunction(), MuProp()])
@pytest.mark.parametrize("reduce", [0, 1])
def test_rows_that_share_a_loss(estimator, reduce):
    """Two rows, one product as their loss: exact by enumeration of pairs, as one scalar or one per group."""
    n, k, law = 4, 2, ConditionalPoisson()
    x = torch.stack([scores(n, 1.0, 1), scores(n, 1.0, 2)])
    a, b = losses(n, 0)["neural"], losses(n, 5)["neural"]
    states = support(n, k)

    def fn(s):  # (groups, 2, n) or (2, n)
        return a(s[..., 0, :]) * b(s[..., 1, :])

    point = x.clone().requires_grad_()
    p, q = (pmf(law, SIGMOID(row, k), k) for row in point)
    (exact,) = torch.autograd.grad((p @ a(states)) * (q @ b(states)), point)
    i, j = torch.cartesian_prod(torch.arange(len(states)), torch.arange(len(states))).T
    weights = (p[i] * q[j]).detach()
    pairs = torch.stack([states[i], states[j]], 1)  # (pairs, 2, n)
    if reduce:
        leaf = x.expand(len(pairs), 2, n).clone().requires_grad_()
        (len(pairs) * estimator.surrogate(fn, leaf, k, SIGMOID, Given(pairs[None], law), 1)).backward()
        expected = torch.einsum("p,pin->in", weights, leaf.grad)
    else:
        expected = torch.zeros_like(x)
        for weight, pair in zip(weights, pairs, strict=True):
            leaf = x.clone().requires_grad_()
            estimator.surrogate(fn, leaf, k, SIGMOID, Given(pair[None], law), 1).backward()
            expected += weight * leaf.grad
    assert relative_error(expected, exact) < 1e-7


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_gradient_to_k_and_temperature(estimator):
    """At real k, over the samples of both sizes, for a neural loss."""
    n, law = 5, ConditionalPoisson()
    fn, x = losses(n)["neural"], scores(n, 1.0)
    samples = torch.cat([support(n, 1), support(n, 2)])
    k, temperature = torch.tensor(1.6).double().requires_grad_(), torch.tensor(0.7).double().requires_grad_()
    weights = law.log_prob(SigmoidTopK(temperature)(x, k), samples, k=k).exp()
    exact = torch.stack(torch.autograd.grad((weights * fn(samples)).sum(), (k, temperature)))
    total = torch.zeros(2).double()
    for weight, sample in zip(weights.detach(), samples, strict=True):
        loss = estimator.surrogate(fn, x, k, SigmoidTopK(temperature), Given(sample[None], law), 1)
        total += weight * torch.stack(torch.autograd.grad(loss, (k, temperature)))
    assert torch.allclose(total, exact, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_masks_half_precision_and_extreme_k(estimator):
    mask = torch.tensor([True, True, False, True, True])
    x = torch.tensor([[0.5, -0.2, torch.nan, 0.1, 0.7]]).to(torch.bfloat16).requires_grad_()
    for k in (0, 2, 4):
        x.grad = None
        loss = estimator.surrogate(
            lambda s: (s * s.cumsum(-1)).sum(-1), x, k, num_samples=3, generator=generator(), mask=mask
        )
        loss.backward()
        assert loss.dtype in {torch.bfloat16, torch.float32}
        assert x.grad.isfinite().all()
        assert x.grad[0, 2] == 0
        if k in (0, 4):
            assert (x.grad == 0).all()


def test_one_sample_has_no_baseline():
    fn, x, law = losses(5)["linear"], scores(5, 1.0), ConditionalPoisson()
    sample = support(5, 2)[3]
    leaf, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    ScoreFunction().surrogate(fn, leaf, 2, SIGMOID, Given(sample[None]), 1).backward()
    (law.log_prob(SIGMOID(other, 2), sample) * fn(sample)).backward()
    assert torch.allclose(leaf.grad, other.grad)


def test_leave_one_out_lowers_the_variance_of_an_offset_loss():
    x = scores(6, 1.0)

    def spread(m):
        gradients = []
        for seed in range(40):
            leaf = x.clone().requires_grad_()
            ScoreFunction().surrogate(
                lambda s: s.sum(-1) + 50.0, leaf, 2, num_samples=m, generator=generator(seed)
            ).backward()
            gradients.append(leaf.grad)
        return float(torch.stack(gradients).std(0).max())

    assert spread(1) > 1
    assert spread(2) < 1e-6  # a constant loss: the baseline takes all of it


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_bad_input_is_refused(estimator):
    x = torch.zeros(2, 4)

    def refuse(match, fn=lambda s: s.sum(-1), k=2, **kwargs):
        with pytest.raises(ValueError, match=match):
            estimator.surrogate(fn, x, k, **kwargs)

    refuse("num_samples must be a whole number >= 1, got 0", num_samples=0)
    refuse("fn must return a floating-point tensor", fn=lambda s: 1.0)
    refuse("fn must return a floating-point tensor", fn=lambda s: s.sum(-1).long())
    refuse("fn must return one loss per row", fn=lambda s: s)
    refuse("fn must return one loss per row", fn=lambda s: s.sum(-1).repeat(3, 2))
    refuse("k must", k=5)
    refuse("relaxation must map to the capped simplex", relaxation=SuccessiveSoftmax(1.0))


def test_loss_without_samples_dimension_or_derivative_is_refused():
    with pytest.raises(ValueError, match="num_samples in front"):
        ScoreFunction(vectorize=True).surrogate(lambda s: s.sum(), torch.zeros(4), 2)
    with pytest.raises(ValueError, match="use ScoreFunction"):
        MuProp().surrogate(lambda s: (s > 0.5).double().sum(-1), torch.zeros(4), 2)


def test_oracle_sees_a_wrong_gradient():
    """Sabotage of this file's own reference: another loss has another gradient."""
    x, law = scores(5, 1.0), ConditionalPoisson()
    a, b = (exact_gradient(losses(5)[name], x, 2, law) for name in ("linear", "neural"))
    assert relative_error(a, b) > 0.1
