"""Token subsampling: unbiased in value and gradient, its variance estimated, exact in eval mode and where all are taken."""

import pytest
import torch

from sparsek.nn import (
    ApproximateVariance,
    AttentionPool,
    EqualSizes,
    HajekWeights,
    HorvitzThompsonWeights,
    MaxPool,
    MeanPool,
    NormSizes,
    SampledTokenPool,
    SenYatesGrundy,
)
from sparsek.sampling import Brewer, ConditionalPoisson, Pivotal, Poisson, Sampford, Systematic

DRAWS = 1200
Z = 4.5
"""False alarms: 7e-6 per comparison."""


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def tokens(n=12, d=3, dtype=torch.float64):
    return torch.randn(n, d, generator=generator(1), dtype=dtype) + 0.5


def mean_and_error(values):
    return values.mean(0), values.std(0) / len(values) ** 0.5


@pytest.mark.parametrize("design", [ConditionalPoisson(), Sampford(), Pivotal(), Systematic()])
def test_unbiased_in_value_and_gradient(design):
    """The same tokens in every row of a batch, one draw each."""
    x = tokens().expand(DRAWS, -1, -1).clone().requires_grad_()
    output = SampledTokenPool(3, design)(x, generator=generator())
    mean, error = mean_and_error(output.detach())
    assert ((mean - x[0].mean(0)).abs() < Z * error).all()
    output.sum().backward()
    mean, error = mean_and_error(x.grad)
    assert ((mean - 1 / 12).abs() < Z * error).all()


def test_a_plain_mean_of_the_sample_is_biased():
    x = tokens().expand(DRAWS, -1, -1)
    weights = SampledTokenPool(3)(x, generator=generator(), return_weights=True).weights
    mean, error = mean_and_error(((weights > 0).double().unsqueeze(-1) * x).sum(1) / 3)
    assert ((mean - x[0].mean(0)).abs() > Z * error).any()


def test_the_variance_is_unbiased_where_it_says_so():
    x, pool = tokens().expand(DRAWS, -1, -1), SampledTokenPool(3)
    assert pool.unbiased_variance
    estimate = pool.estimate(x, generator=generator())
    mean, error = mean_and_error(estimate.variance)
    squared, spread = mean_and_error((estimate.output - x[0].mean(0)).square())
    assert ((mean - squared).abs() < Z * (error.square() + spread.square()).sqrt()).all()
    assert ((mean - 2 * squared).abs() > Z * (error.square() + spread.square()).sqrt()).any()


def test_sizes_by_norm_vary_less_than_equal_ones():
    scale = torch.linspace(0.1, 4, 40, dtype=torch.float64).unsqueeze(-1)
    x = (scale * (1 + 0.1 * tokens(40))).expand(400, -1, -1)
    errors = [
        (SampledTokenPool(10, Pivotal(), sizes=sizes)(x, generator=generator()) - x[0].mean(0)).norm(dim=-1).mean()
        for sizes in (NormSizes(), EqualSizes())
    ]
    assert errors[0] < 0.6 * errors[1]


def test_attention_can_be_sampled():
    pool = SampledTokenPool(3, of=AttentionPool(3).double())
    torch.nn.init.normal_(pool.of.query, generator=generator(2))
    x = tokens().expand(DRAWS, -1, -1)
    mean, error = mean_and_error(pool(x, generator=generator()).detach())
    assert ((mean - pool.of(x[0]).detach()).abs() < Z * error).all()
    pool(x, generator=generator()).sum().backward()
    assert (pool.of.query.grad != 0).any()


@pytest.mark.parametrize("weighting", [HorvitzThompsonWeights(), HajekWeights()])
@pytest.mark.parametrize("design", [ConditionalPoisson(), Pivotal()])
def test_rows_that_are_taken_whole_are_exact(weighting, design):
    x, mask = tokens(6).expand(2, -1, -1), torch.tensor([[True] * 3 + [False] * 3, [False] * 6])
    output, weights, variance = SampledTokenPool(3, design, weighting=weighting).estimate(x, mask)
    torch.testing.assert_close(output[0], x[0, :3].mean(0))
    torch.testing.assert_close(weights[0], torch.tensor([1 / 3] * 3 + [0.0] * 3, dtype=torch.float64))
    assert (output[1] == 0).all()
    torch.testing.assert_close(variance, torch.zeros_like(variance))


def test_hajek_weights_sum_to_one_and_are_exact_for_equal_tokens():
    pool = SampledTokenPool(3, weighting=HajekWeights(), sizes=EqualSizes())
    assert not pool.unbiased_variance
    x = torch.ones(5, 9, 2)
    output, weights, variance = pool.estimate(x, generator=generator())
    torch.testing.assert_close(weights.sum(1), torch.ones(5))
    torch.testing.assert_close(output, torch.ones(5, 2))
    torch.testing.assert_close(variance, torch.zeros(5, 2))


def test_eval_mode_is_the_pooling_itself():
    x = tokens()
    assert torch.equal(SampledTokenPool(3).eval()(x), MeanPool()(x))


def test_draws_follow_the_generator_and_differ():
    x, pool = tokens().expand(50, -1, -1), SampledTokenPool(3)
    first = pool(x, generator=generator(), return_weights=True)
    assert torch.equal(first.output, pool(x, generator=generator()))
    assert not torch.equal(first.output, pool(x, generator=generator(1)))
    assert ((first.weights > 0).sum(1) == 3).all()
    assert pool.estimate(x.float().bfloat16(), generator=generator()).variance.dtype == torch.bfloat16


def test_ragged_and_masked_tokens_are_drawn_alike():
    """What is masked is never drawn, whatever it holds."""
    x, pool = tokens(), SampledTokenPool(3)
    mask = torch.rand(20, 12, generator=generator()) < 0.7
    padded = torch.where(mask.unsqueeze(-1), x, torch.nan)
    output, weights = pool(padded, mask, generator=generator(), return_weights=True)
    assert output.isfinite().all()
    assert (weights[~mask] == 0).all()
    ragged = pool(padded[mask], offsets=torch.nn.functional.pad(mask.sum(1).cumsum(0), (1, 0)), generator=generator())
    assert ragged.shape == output.shape


def test_tokens_that_are_zero_do_no_harm():
    x = torch.zeros(2, 5, 3)
    x[0, 0] = 1
    output, _, variance = SampledTokenPool(2).estimate(x, generator=generator())
    torch.testing.assert_close(output, x.mean(1))
    assert variance.isfinite().all()


@pytest.mark.parametrize(
    ("design", "kind"),
    [
        (ConditionalPoisson(), SenYatesGrundy),
        (Sampford(), SenYatesGrundy),
        (Brewer(), SenYatesGrundy),
        (Pivotal(), ApproximateVariance),
        (Systematic(), ApproximateVariance),
    ],
)
def test_the_variance_is_exact_where_all_pairs_meet(design, kind):
    pool = SampledTokenPool(2, design)
    assert isinstance(pool.variance, kind)
    assert pool.unbiased_variance is (kind is SenYatesGrundy)
    assert (pool.estimate(tokens(6), generator=generator()).variance >= 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "k must be a whole number >= 1"),
        ({"k": 2.5}, "k must be a whole number >= 1"),
        ({"k": 2, "design": "pivotal"}, "design must be a Design"),
        ({"k": 2, "design": Poisson()}, "design must have samples of fixed size"),
        ({"k": 2, "design": Pivotal(), "variance": SenYatesGrundy()}, "design must let all pairs meet"),
        ({"k": 2, "weighting": "hajek"}, "weighting must be a SampleWeighting"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        SampledTokenPool(**arguments)


def test_a_pooling_without_weights_of_tokens_cannot_be_sampled():
    with pytest.raises(ValueError, match="of must be a pooling that weighs whole tokens"):
        SampledTokenPool(2, of=MaxPool())(tokens())
    with pytest.raises(ValueError, match="floor must lie in"):
        NormSizes(floor=2.0)
