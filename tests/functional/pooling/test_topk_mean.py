"""Top-k mean: the maximum and the mean at its ends exactly, continuous in k between, with the derivative of that."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsek.functional.pooling import max_pool, mean_pool, topk_mean_pool, topk_mean_weights


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("as_k", [int, float, torch.tensor])
def test_the_ends_are_maximum_and_mean_bit_for_bit(dtype, as_k):
    x = draw(3, 37, 5, dtype=torch.float64).to(dtype)
    mask = torch.rand(3, 37, generator=torch.Generator().manual_seed(0)) < 0.5
    for keep in (None, mask):
        assert torch.equal(topk_mean_pool(x, as_k(1), keep), max_pool(x, keep))
        assert torch.equal(topk_mean_pool(x, as_k(37), keep), mean_pool(x, keep))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 8), st.floats(1, 10), st.integers(0, 5))
def test_equals_the_sorted_sum_and_falls_with_k(n, k, seed):
    x = draw(n, 2, seed=seed)
    ordered = x.sort(0, descending=True).values
    size = min(k, n)
    counts = (size - torch.arange(n)).clamp(0, 1).unsqueeze(-1)
    torch.testing.assert_close(topk_mean_pool(x, k), (counts * ordered).sum(0) / size)
    assert (topk_mean_pool(x, k + 0.5) <= topk_mean_pool(x, k) + 1e-12).all()
    torch.testing.assert_close(topk_mean_weights(x, k).sum(0), torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize("k", [1.3, 2.0, 2.7, 4.5])
def test_derivative_in_k(k):
    """At whole k the right-hand one: towards the next value."""
    x = draw(6, 3)
    size = torch.tensor(k, dtype=torch.float64, requires_grad=True)
    output = topk_mean_pool(x, size)
    (slope,) = torch.autograd.grad(output.sum(), size)
    ahead = (topk_mean_pool(x, k + 1e-7) - output).sum() / 1e-7
    assert slope.item() == pytest.approx(ahead.item(), rel=1e-5)


def test_gradient_to_tokens_is_one_over_k_at_the_selected():
    x = draw(6, 3).requires_grad_()
    topk_mean_pool(x, 2.5).sum().backward()
    torch.testing.assert_close(x.grad, topk_mean_weights(x, 2.5))
    assert torch.autograd.gradcheck(lambda x: topk_mean_pool(x, 2.5), x)


@pytest.mark.parametrize("start", [0.2, 9.5])
def test_a_size_outside_its_limits_is_that_of_the_limit_and_comes_back(start):
    """The target is the top-3 mean of 6 tokens."""
    x = draw(6, 8)
    target, k = topk_mean_pool(x, 3), torch.tensor(start, dtype=torch.float64, requires_grad=True)
    limit = 1 if start < 1 else 6
    assert torch.equal(topk_mean_pool(x, k).detach(), topk_mean_pool(x, limit))
    optimizer = torch.optim.Adam([k], lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        (topk_mean_pool(x, k) - target).square().sum().backward()
        optimizer.step()
    assert k.item() == pytest.approx(3, abs=0.05)


def test_k_per_row():
    x, k = draw(3, 6, 2), torch.tensor([1.0, 2.5, 6.0], dtype=torch.float64)
    for row, size, got in zip(x, k.tolist(), topk_mean_pool(x, k), strict=True):
        torch.testing.assert_close(got, topk_mean_pool(row, size))


def test_k_above_the_number_of_kept_tokens_is_that_number():
    x, mask = draw(2, 5, 3), torch.tensor([[True] * 2 + [False] * 3, [True] * 5])
    torch.testing.assert_close(topk_mean_pool(x, 4, mask)[0], x[0, :2].mean(0))
    torch.testing.assert_close(topk_mean_pool(x, 4, mask)[1], topk_mean_pool(x[1], 4))


def test_ties_go_to_the_first_and_infinite_values_are_values():
    x = torch.tensor([[1.0], [1.0], [0.0]])
    assert topk_mean_weights(x, 1).flatten().tolist() == [1, 0, 0]
    assert topk_mean_pool(torch.tensor([[torch.inf], [torch.inf], [1.0]]), 1).item() == torch.inf
    assert topk_mean_pool(torch.tensor([[-torch.inf], [2.0], [1.0]]), 2).item() == 1.5
    assert topk_mean_pool(torch.tensor([[-torch.inf], [2.0]]), 2).item() == -torch.inf
    assert topk_mean_pool(torch.tensor([[torch.nan], [2.0]]), 1).isnan()


def test_tokens_are_chosen_whole_by_their_scores():
    x = torch.tensor([[1.0, 0.0], [4.0, 1.0], [2.0, 6.0]])
    scores = torch.tensor([3.0, 1.0, 2.0])
    assert topk_mean_pool(x, 2, scores=scores).tolist() == [1.5, 3.0]
    assert topk_mean_weights(x, 1.5, scores=scores).tolist() == pytest.approx([2 / 3, 0, 1 / 3])
    mask = torch.tensor([False, True, True])
    assert topk_mean_pool(x, 1, mask, scores=torch.tensor([torch.nan, 1.0, 2.0])).tolist() == [2.0, 6.0]


@pytest.mark.parametrize(
    "k", [2, torch.tensor(2.0), torch.tensor(2.0, requires_grad=True)], ids=["int", "tensor", "learnt"]
)
@pytest.mark.parametrize("held", [torch.nan, torch.inf, -torch.inf])
def test_a_token_that_is_not_chosen_may_hold_anything(k, held):
    x = torch.tensor([[1.0, 0.0], [held, 1.0], [2.0, 6.0]], requires_grad=True)
    y = topk_mean_pool(x, k, scores=torch.tensor([3.0, 1.0, 2.0]))
    assert y.tolist() == [1.5, 3.0]
    y.sum().backward()
    assert x.grad.tolist() == [[0.5, 0.5], [0.0, 0.0], [0.5, 0.5]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "k must be a finite number >= 1"),
        ({"k": 0.5}, "k must be a finite number >= 1"),
        ({"k": float("nan")}, "k must be a finite number >= 1"),
        ({"k": True}, "k must be a finite number >= 1"),
        ({"k": torch.tensor(torch.nan)}, "k must be finite"),
        ({"k": torch.ones(7)}, "k must be real and broadcast"),
        ({"k": 1, "scores": torch.ones(4)}, r"scores must have shape \(3,\)"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        topk_mean_pool(torch.ones(3, 2), **arguments)
