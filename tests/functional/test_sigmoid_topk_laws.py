"""Laws of sigmoid top-k: order, shift, limits, optimality, its Jacobian, its inverse, its edges and its refusals."""

import math

import numpy as np
import pytest
import scipy.optimize
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsek.functional import capped_logit, sigmoid_topk, topk_mask

pytestmark = pytest.mark.usefixtures("execution")

inf = math.inf
finite = st.floats(-30, 30, width=32)
rows = st.lists(finite, min_size=1, max_size=24)
share = st.floats(0.0, 1.0)


def double(values):
    return torch.tensor(values, dtype=torch.float64)


@settings(max_examples=60, deadline=None)
@given(rows, share)
def test_order_shift_and_permutation(values, share):
    x, k = double(values), share * len(values)
    probs = sigmoid_topk(x, k)
    order = x.argsort()
    assert (probs[order].diff() >= -1e-15).all()
    assert torch.allclose(sigmoid_topk(x + 7.5, k), probs, rtol=1e-9, atol=1e-13)
    assert torch.allclose(sigmoid_topk(x[order], k), probs[order], rtol=1e-12, atol=1e-15)
    assert probs.min() >= 0
    assert probs.max() <= 1
    assert abs(probs.sum().item() - k) <= 1e-13 * max(k, 1)


@settings(max_examples=40, deadline=None)
@given(rows, share, share)
def test_monotone_in_k(values, first, second):
    x = double(values)
    low, high = sorted((first * len(values), second * len(values)))
    assert (sigmoid_topk(x, high) - sigmoid_topk(x, low) >= -1e-13).all()


@settings(max_examples=25, deadline=None)
@given(st.lists(finite, min_size=2, max_size=8), st.floats(0.05, 0.95))
def test_complement(values, share):
    """Choosing k of x is leaving n - k of -x."""
    x, k = double(values), share * len(values)
    assert torch.allclose(sigmoid_topk(x, k), 1 - sigmoid_topk(-x, len(values) - k), rtol=0, atol=1e-12)


def test_two_units_are_softmax_of_half():
    x = torch.randn(100, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 5
    assert torch.allclose(sigmoid_topk(x, 1), (x / 2).softmax(-1), rtol=1e-12, atol=1e-15)


def test_temperature_limits():
    x = torch.randn(50, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for k in (1, 7, 20.25):
        assert torch.allclose(sigmoid_topk(x, k, temperature=1e-6), topk_mask(x, k), atol=1e-9)
        assert torch.allclose(sigmoid_topk(x, k, temperature=1e9), torch.full_like(x, k / 50), atol=1e-8)


@pytest.mark.parametrize(("k", "temperature"), [(1.0, 1.0), (2.5, 0.5), (4.0, 2.0)])
def test_it_is_the_entropy_regularised_optimum(k, temperature):
    """Against scipy's constrained optimiser, which knows neither the sigmoid nor the threshold."""
    x = np.array([1.5, 0.2, -0.3, 0.9, -1.2, 0.0])

    def negative(p):
        entropy = -(p * np.log(p) + (1 - p) * np.log(1 - p)).sum()
        return -(x @ p + temperature * entropy)

    found = scipy.optimize.minimize(
        negative,
        np.full(6, k / 6),
        method="SLSQP",
        bounds=[(1e-9, 1 - 1e-9)] * 6,
        constraints={"type": "eq", "fun": lambda p: p.sum() - k},
        options={"ftol": 1e-14, "maxiter": 500},
    )
    probs = sigmoid_topk(torch.from_numpy(x), k, temperature=temperature).numpy()
    assert np.abs(found.x - probs).max() < 1e-5
    assert negative(probs) <= negative(found.x) + 1e-10


def test_jacobian_is_symmetric_positive_semidefinite_with_rows_summing_to_0():
    x = torch.randn(9, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    jacobian = torch.func.jacrev(lambda s: sigmoid_topk(s, 3.5, temperature=0.7))(x)
    assert torch.allclose(jacobian, jacobian.T, atol=1e-15)
    assert torch.allclose(jacobian.sum(-1), torch.zeros(9, dtype=torch.float64), atol=1e-14)
    assert torch.linalg.eigvalsh(jacobian).min() >= -1e-14


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-8, 8), min_size=2, max_size=12), st.floats(0.05, 0.95))
def test_capped_logit_inverts_it(values, share):
    x = double(values)
    back = capped_logit(sigmoid_topk(x, share * len(values)))
    assert torch.allclose(back, x - x.mean(), atol=1e-8)
    assert abs(back.mean().item()) < 1e-12


def test_capped_logit_at_0_and_1_and_along_a_dim():
    probs = torch.tensor([[0.0, 1.0, 0.25, 0.75], [1.0, 1.0, 0.0, 0.5]])
    expected = torch.tensor([[-inf, inf, -math.log(3), math.log(3)], [inf, inf, -inf, 0.0]])
    assert torch.allclose(capped_logit(probs), expected)
    assert torch.allclose(capped_logit(probs.T, dim=0), expected.T)
    with pytest.raises(ValueError, match=r"probs must lie in \[0, 1\]"):
        capped_logit(torch.tensor([0.5, 1.5]))


def test_infinite_masked_and_nan_entries():
    nan = math.nan
    x = torch.tensor([[1.0, 2.0, 3.0, -inf], [inf, 0.0, 1.0, 2.0], [nan, 1.0, 2.0, 3.0], [5.0, 5.0, 5.0, 5.0]])
    probs = sigmoid_topk(x, 2)
    assert probs[0, 3] == 0
    assert torch.allclose(probs[0, :3], sigmoid_topk(x[0, :3], 2))
    assert probs[1, 0] == 1
    assert torch.allclose(probs[1, 1:], sigmoid_topk(x[1, 1:], 1))
    assert probs[2].isnan().all()
    assert (probs[3] == 0.5).all()


@pytest.mark.parametrize("hidden", [math.nan, inf, -inf, 1e30])
def test_what_lies_under_the_mask_is_harmless(hidden):
    x = torch.tensor([[1.0, hidden, 0.5, 2.0], [hidden, hidden, 1.0, 0.0]], requires_grad=True)
    mask = torch.tensor([[True, False, True, True], [False, False, True, True]])
    probs = sigmoid_topk(x, 1.5, mask=mask)
    assert (probs[~mask] == 0).all()
    assert torch.allclose(probs[0][mask[0]], sigmoid_topk(x[0][mask[0]], 1.5))
    (probs * torch.arange(8.0).view(2, 4)).sum().backward()
    assert x.grad.isfinite().all()
    assert (x.grad[~mask] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_k_at_its_limits(dtype):
    x = torch.tensor([[1.0, -inf, 0.0], [3.0, 1.0, 2.0]], dtype=dtype)
    assert (sigmoid_topk(x, 0) == 0).all()
    assert sigmoid_topk(x, torch.tensor([2.0, 3.0])).tolist() == [[1, 0, 1], [1, 1, 1]]
    assert sigmoid_topk(torch.zeros(0, dtype=dtype), 0).shape == (0,)
    assert sigmoid_topk(torch.zeros(0, 3, dtype=dtype), 2).shape == (0, 3)
    assert sigmoid_topk(torch.zeros(2, 0, dtype=dtype), 0).shape == (2, 0)
    assert math.isclose(
        sigmoid_topk(torch.zeros(1, dtype=dtype), 0.25).item(), 0.25, rel_tol=2 * torch.finfo(dtype).eps
    )


def test_hard_forward_is_topk_and_its_gradient_the_relaxed_one():
    x = torch.randn(3, 7, requires_grad=True, generator=torch.Generator().manual_seed(3))
    k = torch.tensor([2.0, 1.0, 3.5], requires_grad=True)
    weight = torch.randn(3, 7, generator=torch.Generator().manual_seed(4))
    hard = sigmoid_topk(x, k, hard=True)
    assert torch.equal(hard.detach(), topk_mask(x, k))
    gradients = torch.autograd.grad((hard * weight).sum(), [x, k])
    expected = torch.autograd.grad((sigmoid_topk(x, k) * weight).sum(), [x, k])
    assert all(torch.equal(a, b) for a, b in zip(gradients, expected, strict=True))


@pytest.mark.parametrize("dim", [0, 1, 2, -1, -2, -3])
def test_any_dim_and_strides(dim):
    x = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(5)).transpose(0, 2)
    moved = sigmoid_topk(x, 1.5, dim=dim)
    assert moved.shape == x.shape
    assert torch.allclose(moved, sigmoid_topk(x.movedim(dim, -1).contiguous(), 1.5).movedim(-1, dim))
    assert torch.allclose(sigmoid_topk(torch.tensor(0.5).expand(6), 2), torch.full((6,), 1 / 3))


def test_nothing_is_changed_in_place():
    x = torch.randn(4, 9)
    before, version = x.clone(), x._version
    sigmoid_topk(x, 2, mask=x > -1, temperature=0.3, hard=True)
    assert torch.equal(x, before)
    assert x._version == version


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda x: (x, 5), "k must be at most the number of valid units, 4, got 5"),
        (lambda x: (x, -1), "k must be finite and >= 0, got -1"),
        (lambda x: (x, math.nan), "k must be finite"),
        (lambda x: (x, inf), "k must be finite"),
        (lambda x: (x, "2"), "k must be a number or a tensor, got str"),
        (lambda x: (x, True), "k must be a number or a tensor, got bool"),
        (lambda x: (x, torch.tensor(4.5)), r"k must lie in \[0, 4\]"),
        (lambda x: (x, torch.tensor(math.nan)), r"k must lie in \[0, 4\]"),
        (lambda x: (x, torch.ones(3)), "k of shape .* does not broadcast"),
        (lambda x: (x.long(), 1), "input must be a floating-point tensor, got dtype torch.int64"),
        (lambda x: ([1.0, 2.0], 1), "input must be a floating-point tensor, got list"),
        (lambda x: (torch.tensor(1.0), 1), "input must have at least one dimension"),
        (lambda x: (x, 1, 2), r"dim must lie in \[-2, 1\]"),
        (lambda x: (torch.tensor([1.0, -inf, 0.0]), 3), "k must lie in .* got k = 3 with 2 valid units"),
        (lambda x: (torch.tensor([inf, inf, 0.0]), 1), r"at most k entries of \+inf .* got 2 with k = 1"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        sigmoid_topk(*arguments(torch.zeros(2, 4)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask": torch.zeros(2, 4)}, "mask must be a boolean tensor"),
        ({"mask": torch.ones(3, dtype=torch.bool)}, "mask of shape .* does not broadcast"),
        ({"mask": torch.zeros(4, dtype=torch.bool)}, "k must lie in .* got k = 1 with 0 valid units"),
        ({"temperature": 0}, "temperature must be .*finite.* > 0, got 0"),
        ({"temperature": -1.0}, "temperature must be .*finite.* > 0"),
        ({"temperature": torch.tensor([1.0, -1.0])}, "temperature must be .*finite.* > 0"),
        ({"temperature": torch.ones(3)}, "temperature of shape .* does not broadcast"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        sigmoid_topk(torch.zeros(2, 4), 1, **options)
