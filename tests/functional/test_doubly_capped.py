"""Doubly capped probabilities: their sums, their optimality against other solvers, derivatives, and what bad tokens do."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize

from sparsek.functional import capped_entropy, doubly_capped, sigmoid_topk, topk_mask


def scores(seed, tokens=24, experts=6, dtype=torch.float64):
    """Skewed: some experts are liked by all tokens."""
    generator = torch.Generator().manual_seed(seed)
    liked = torch.randn(experts, generator=generator, dtype=torch.float64)
    return (torch.randn(tokens, experts, generator=generator, dtype=torch.float64) + liked).to(dtype)


def drifting(scale, batches, tokens=4096, experts=64, rank=16, drift=0.2):
    """Low-rank scores whose expert embeddings and popularity move from batch to batch; float32."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator)

    popularity, embeddings = normal(experts), normal(rank, experts)
    for _ in range(batches):
        yield scale * (normal(tokens, rank) / rank**0.5 @ embeddings + popularity + 0.3 * normal(tokens, experts))
        popularity, embeddings = popularity + drift * normal(experts), embeddings + drift * normal(rank, experts)


def max_violation(probs, k):
    return float(probs.sum(0).max() / (k * probs.shape[0] / probs.shape[1]) - 1)


def linear_optimum(x, k, capacity):
    """The value of the linear program, temperature 0, by HiGHS."""
    tokens, experts = x.shape
    rows, columns = np.kron(np.eye(tokens), np.ones(experts)), np.kron(np.ones(tokens), np.eye(experts))
    limits = np.full(experts, capacity)
    solved = linprog(-x.numpy().ravel(), columns, limits, rows, np.full(tokens, k), bounds=(0, 1), method="highs")
    return -solved.fun


def entropic_optimum(x, k, capacity, temperature):
    """The value of the dual minimised by L-BFGS-B over τ and b ≤ 0: no derivative or sweep of the package is used."""
    tokens, experts = x.shape
    x = x.numpy()

    def dual(point):
        tau, bias = point[:tokens], point[tokens:]
        z = (x + bias - tau[:, None]) / temperature
        probs = 1 / (1 + np.exp(-z))
        value = temperature * np.logaddexp(0, z).sum() + k * tau.sum() - capacity * bias.sum()
        return value, np.concatenate((k - probs.sum(1), probs.sum(0) - capacity))

    bounds = [(None, None)] * tokens + [(None, 0)] * experts
    options = {"maxiter": 20_000, "maxfun": 50_000, "ftol": 1e-15, "gtol": 1e-10}
    return minimize(dual, np.zeros(tokens + experts), jac=True, method="L-BFGS-B", bounds=bounds, options=options).fun


@pytest.mark.parametrize(("scale", "slack"), [(1e-3, None), (1.0, 1.25), (1e3, None), (1e3, 1.25)])
def test_four_iterations_follow_drifting_batches(scale, slack):
    k, bias = 8, None
    capacity = None if slack is None else slack * k * 4096 / 64
    for x in drifting(scale, 2):
        probs, bias, excess = doubly_capped(x, k, capacity, bias=bias, iterations=8 if bias is None else 4)
        over = (probs.sum(0).double() - (capacity or 512)).max() / 512
        assert (probs.sum(1) - k).abs().max() <= 1e-5 * k
        assert 0 <= probs.min() <= probs.max() <= 1
        assert over <= 0.02
        assert excess == pytest.approx(max(float(over), 0), abs=1e-6)


def test_the_selection_at_temperature_0_is_balanced_between_drifting_batches():
    bias = None
    for x in drifting(1.0, 2):
        probs, bias, _ = doubly_capped(x, 8, temperature=0, bias=bias, iterations=4)
        assert set(probs.unique().tolist()) == {0.0, 1.0}
        assert bool((probs.sum(1) == 8).all())
        assert max_violation(probs, 8) <= 0.05
        assert (probs == topk_mask(x + bias, 8)).float().mean() > 1 - 1e-4  # bias is rounded once more in float32
        assert max_violation(sigmoid_topk(x, 8, temperature=1e-3), 8) > 0.5  # what it prevents


@given(st.integers(0, 10**6), st.floats(0.2, 5.5), st.floats(1.0, 2.0), st.sampled_from([1e-2, 1.0, 30.0]))
@settings(max_examples=15, deadline=None)
def test_sums_hold_and_multipliers_are_complementary(seed, k, slack, scale):
    x = scale * scores(seed)
    capacity = slack * k * 24 / 6
    probs, bias, excess = doubly_capped(x, k, capacity)
    load = probs.sum(0)
    torch.testing.assert_close(probs.sum(1), torch.full((24,), k, dtype=x.dtype), rtol=0, atol=1e-12)
    assert excess < 1e-6
    assert bool((bias <= 0).all())
    assert bias.max() == 0
    full = load > capacity * (1 - 1e-6)
    assert bool((full | (bias == 0)).all())
    torch.testing.assert_close(probs, sigmoid_topk(x + bias, k))


@pytest.mark.parametrize(("tokens", "experts"), [(6, 4), (16, 8), (40, 5)])
@pytest.mark.parametrize("slack", [1.0, 1.3])
@pytest.mark.parametrize("seed", range(2))
def test_small_temperature_reaches_the_linear_program(tokens, experts, slack, seed):
    x, k = scores(seed, tokens, experts), 1 + seed
    capacity = slack * k * tokens / experts
    probs = doubly_capped(x, k, capacity, 1e-3).probs
    best = linear_optimum(x, k, capacity)
    assert abs(float((x * probs).sum()) - best) <= 1e-3 * abs(best)
    assert probs.sum(0).max() <= capacity * (1 + 1e-4)


@pytest.mark.parametrize("slack", [1.0, 1.3])
@pytest.mark.parametrize("temperature", [0.3, 1.0])
def test_value_is_that_of_a_convex_solver(slack, temperature):
    x, k = scores(3, 16, 5), 1.5
    capacity = slack * k * 16 / 5
    probs = doubly_capped(x, k, capacity, temperature).probs
    value = float((x * probs).sum() + temperature * capped_entropy(probs).sum())
    assert value == pytest.approx(entropic_optimum(x, k, capacity, temperature), rel=1e-6)
    unbalanced = sigmoid_topk(x, k, temperature=temperature)
    wrong = float((x * unbalanced).sum() + temperature * capped_entropy(unbalanced).sum())
    assert wrong != pytest.approx(value, rel=1e-3)  # the capacities matter here


def test_a_cold_start_goes_by_higher_temperatures_where_it_must():
    """A small problem at a low temperature: 8 iterations leave a quarter of a share, as many as it takes leave nothing."""
    x, capacity = scores(1, 12, 5), 12 / 5
    assert doubly_capped(x, 1, capacity, 1e-3, iterations=8).excess > 0.1
    probs, _, excess = doubly_capped(x, 1, capacity, 1e-3)
    assert excess < 1e-9
    best = linear_optimum(x, 1, capacity)
    assert abs(float((x * probs).sum()) - best) <= 1e-3 * abs(best)


def test_selection_at_temperature_0_is_the_best_assignment():
    x = scores(7, 32, 8)
    probs = doubly_capped(x, 2, temperature=0).probs
    assert float((x * probs).sum()) == pytest.approx(linear_optimum(x, 2, 8.0), rel=1e-9)
    assert bool((probs.sum(0) == 8).all())


@pytest.mark.parametrize(
    "options",
    [{}, {"capacity": 2.1}, {"capacity": torch.tensor([1.0, 2.0, 2.5, 2.5]).double(), "exact": True}],
    ids=["share", "at most", "exact"],
)
def test_gradients_are_those_of_finite_differences(options):
    x = scores(1, 4, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: doubly_capped(x, 2.0, **options).probs, (x,))


def test_gradients_in_k_capacity_and_temperature_are_those_of_finite_differences():
    x = scores(2, 5, 4)
    k = torch.linspace(1, 2, 5, dtype=torch.float64, requires_grad=True)
    capacity = torch.full((4,), 2.4, dtype=torch.float64, requires_grad=True)
    temperature = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    biased = doubly_capped(x, k, capacity, temperature).bias
    assert 0 < (biased < 0).sum() < 4
    assert torch.autograd.gradcheck(lambda *a: doubly_capped(x, *a).probs, (k, capacity, temperature))
    assert torch.autograd.gradcheck(lambda k: doubly_capped(x, k).probs, (k,))


def test_exact_columns_take_their_share_with_a_bias_of_mean_zero():
    capacity = torch.tensor([2.0, 4, 6, 8, 12, 16], dtype=torch.float64)
    probs, bias, excess = doubly_capped(scores(5), 2, capacity, exact=True)
    torch.testing.assert_close(probs.sum(0), capacity, rtol=0, atol=1e-9)
    assert abs(float(bias.mean())) < 1e-12
    assert bias.max() > 0
    assert excess < 1e-9


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_lower_precision_agrees_with_double(dtype):
    x = scores(6, dtype=dtype)
    probs, bias, _ = doubly_capped(x, 2)
    expected = doubly_capped(x.double(), 2)
    assert (probs.dtype, bias.dtype) == (dtype, torch.float32)
    tolerance = 5e-6 if dtype == torch.float32 else torch.finfo(dtype).eps
    torch.testing.assert_close(probs.double(), expected.probs, rtol=0, atol=tolerance)


def test_masked_and_broken_tokens_leave_the_others_alone():
    x = scores(8)
    mask = torch.arange(24) % 4 > 0
    dirty = x.clone()
    dirty[0], dirty[5, 2] = torch.nan, torch.nan
    others = mask & (torch.arange(24) != 5)
    expected = doubly_capped(x[others], 2)
    dirty.requires_grad_()
    probs, bias, excess = doubly_capped(dirty, 2, row_mask=mask)
    torch.testing.assert_close(probs[others], expected.probs)
    torch.testing.assert_close(bias, expected.bias)
    assert excess < 1e-6
    assert bool((probs[~mask] == 0).all())
    assert bool(probs[5].isnan().all())
    (gradient,) = torch.autograd.grad((probs[others] * x[others]).sum(), dirty)
    assert bool(gradient.isfinite().all())
    assert bool((gradient[~others] == 0).all())


def test_documented_values_at_the_limits():
    x, bias = scores(9), torch.linspace(-1, 0, 6)
    assert bool((doubly_capped(x, 0).probs == 0).all())
    assert bool((doubly_capped(x, 6).probs == 1).all())
    nothing = doubly_capped(x, 2, row_mask=torch.zeros(24, dtype=torch.bool), bias=bias)
    assert bool((nothing.probs == 0).all())
    torch.testing.assert_close(nothing.bias.float(), bias)
    assert nothing.excess == 0
    assert doubly_capped(x[:0], 2, bias=bias).probs.shape == (0, 6)
    infinite = x.clone()
    infinite[3, 1], infinite[4, 2], infinite[:, 5] = torch.inf, -torch.inf, -torch.inf
    probs, _, excess = doubly_capped(infinite, 2)
    assert probs[3, 1] == 1
    assert probs[4, 2] == 0
    torch.testing.assert_close(probs.sum(0), torch.tensor([9.6] * 5 + [0.0], dtype=x.dtype))
    assert excess < 1e-6


def test_leading_dimensions_are_separate_problems():
    x = torch.stack([scores(10), 3 * scores(11)]).reshape(2, 1, 24, 6)
    k = torch.tensor([[[1.0]], [[2.0]]])
    together = doubly_capped(x, k, temperature=torch.tensor([[0.5], [2.0]]), iterations=6)
    for i, temperature in enumerate((0.5, 2.0)):
        alone = doubly_capped(x[i, 0], 1 + i, temperature=temperature, iterations=6)
        torch.testing.assert_close(together.probs[i, 0], alone.probs)
        torch.testing.assert_close(together.bias[i, 0], alone.bias)


def test_permuting_tokens_and_experts_permutes_the_result():
    x, rows, columns = scores(12), torch.randperm(24), torch.randperm(6)
    probs, bias, _ = doubly_capped(x, 2)
    moved = doubly_capped(x[rows][:, columns], 2)
    torch.testing.assert_close(moved.probs, probs[rows][:, columns])
    torch.testing.assert_close(moved.bias, bias[columns])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 7}, "k must be at most"),
        ({"k": -1}, "k must be finite and >= 0"),
        ({"k": torch.full((24,), 6.5)}, "k must lie in"),
        ({"k": 2, "capacity": 7.0}, "capacity must leave room"),
        ({"k": 2, "capacity": -1.0}, "capacity must be a finite number"),
        ({"k": 2, "capacity": torch.ones(5)}, "capacity of shape"),
        ({"k": 2, "capacity": 9.0, "exact": True}, "capacity must sum"),
        ({"k": 2, "temperature": -1.0}, "temperature must be"),
        ({"k": 2, "iterations": 0}, "iterations must be"),
        ({"k": 2, "row_mask": torch.ones(24)}, "row_mask must be a boolean"),
        ({"k": 2, "row_mask": torch.ones(23, dtype=torch.bool)}, "row_mask of shape"),
        ({"k": 2, "bias": torch.zeros(5)}, "bias of shape"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        doubly_capped(scores(0), **arguments)


def test_scores_without_tokens_are_refused():
    with pytest.raises(ValueError, match="input must have shape"):
        doubly_capped(torch.zeros(4), 1)


def test_compiles_to_one_graph_with_the_same_result_and_gradient():
    def run(x, bias):
        return doubly_capped(x, 2, capacity=10.0, bias=bias, iterations=1)

    x, bias = scores(13, dtype=torch.float32).requires_grad_(), torch.zeros(6)
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")(x, bias)
    eager = run(x, bias)
    for a, b in zip(compiled, eager, strict=True):
        torch.testing.assert_close(a, b)
    gradients = [torch.autograd.grad(result.probs.square().sum(), x)[0] for result in (compiled, eager)]
    torch.testing.assert_close(*gradients)
