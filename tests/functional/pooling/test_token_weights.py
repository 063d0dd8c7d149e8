"""Weights of tokens: sums, caps, extremes and errors."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsek.functional.pooling import (
    gate_weights,
    log_sum_exp_pool,
    mean_pool,
    sigmoid_topk_weights,
    softmax_weights,
    weighted_mean_pool,
)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 30), st.floats(1, 40), st.floats(0.01, 100), st.integers(0, 3))
def test_no_token_takes_more_than_one_kth(n, k, scale, seed):
    weights = sigmoid_topk_weights(scale * draw(n, seed=seed), k)
    assert weights.sum().item() == pytest.approx(1, abs=1e-12)
    assert weights.max().item() <= 1 / min(k, n) + 1e-12


def test_softmax_breaks_that_cap():
    assert softmax_weights(torch.tensor([9.0, 1.0, 0.0])).max() > 0.5


def test_sigmoid_top_k_of_all_tokens_is_the_mean():
    assert torch.equal(sigmoid_topk_weights(draw(7), 7), torch.full((7,), 1 / 7, dtype=torch.float64))


def test_gradients_of_sigmoid_top_k_weights():
    scores = draw(2, 6).requires_grad_()
    k = torch.tensor([2.0, 3.5], dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([True, True, False, True, True, True])
    assert torch.autograd.gradcheck(lambda s, k: sigmoid_topk_weights(s, k, mask), (scores, k))


def test_gates_keep_their_proportions_when_all_are_nearly_closed():
    """The textbook quotient, clamped at 1e-8, returns 0 there."""
    logits = torch.tensor([-100.0, -100.0 - math.log(3)])
    torch.testing.assert_close(gate_weights(logits), torch.tensor([0.75, 0.25]))
    gates = torch.sigmoid(logits)
    assert (gates / gates.sum().clamp(min=1e-8)).sum() < 1e-6
    assert torch.equal(gate_weights(torch.tensor([-2000.0, -2000.0])), torch.tensor([0.5, 0.5]))


def test_weighted_mean_at_extreme_scales():
    x = torch.tensor([[1.0], [3.0]])
    for scale in (1e-38, 1e38):
        assert weighted_mean_pool(x, torch.tensor([1.0, 3.0]) * scale).item() == pytest.approx(2.5)


def test_log_sum_exp_normalised_is_the_mean_at_large_temperature():
    x = draw(9, 4).float()
    for temperature in (1e3, 1e6, 1e12):
        torch.testing.assert_close(
            log_sum_exp_pool(x, temperature=temperature, normalised=True), mean_pool(x), rtol=1e-6, atol=2e-3
        )
    textbook = 1e6 * ((x / 1e6).logsumexp(0) - math.log(9))
    assert (textbook - mean_pool(x)).abs().max() > 0.05


@pytest.mark.parametrize("normalised", [False, True])
def test_log_sum_exp_of_infinite_values_is_a_constant(normalised):
    """+inf is the answer of its dimension, -inf counts nothing unless it is all there is; no gradient is NaN."""
    inf = math.inf
    x = torch.tensor([[inf, -inf, -inf, 1.0], [0.5, 2.0, -inf, 3.0], [math.nan] * 4], requires_grad=True)
    y = log_sum_exp_pool(x, torch.tensor([True, True, False]), normalised=normalised)
    half = math.log(2) if normalised else 0.0
    assert y[:3].tolist() == pytest.approx([inf, 2.0 - half, -inf])
    y.sum().backward()
    slopes = torch.tensor([1.0, 3.0]).softmax(0).tolist()
    want = torch.tensor([[0.0, 0.0, 0.0, slopes[0]], [0.0, 1.0, 0.0, slopes[1]], [0.0] * 4])
    torch.testing.assert_close(x.grad, want)
    mapped = torch.func.vmap(lambda row: log_sum_exp_pool(row, normalised=normalised))(x.detach()[None, :2])
    torch.testing.assert_close(mapped[0], y.detach())


@pytest.mark.parametrize("function", [softmax_weights, gate_weights])
def test_bad_scores(function):
    with pytest.raises(ValueError, match="scores must"):
        function(torch.ones(3, dtype=torch.long))
    with pytest.raises(ValueError, match="mask must be a boolean"):
        function(torch.ones(3), torch.ones(3))


def test_bad_temperature():
    with pytest.raises(ValueError, match="temperature must be"):
        log_sum_exp_pool(torch.ones(3, 1), temperature=0.0)
    with pytest.raises(ValueError, match="temperature must be"):
        sigmoid_topk_weights(torch.ones(3), 2, temperature=-1.0)
