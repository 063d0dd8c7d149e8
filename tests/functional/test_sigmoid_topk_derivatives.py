"""Derivatives of sigmoid top-k: checked to second order in every argument, under transforms and compiled, at saturation."""

import pytest
import torch
from torch._dynamo.utils import counters
from torch.autograd import gradcheck, gradgradcheck

from sparsek.functional import sigmoid_topk

pytestmark = pytest.mark.usefixtures("execution")


def leaf(values):
    return torch.as_tensor(values, dtype=torch.float64).clone().requires_grad_()


def scores(*shape, seed=0):
    return leaf(torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))


def operator(x, k, temperature):
    return sigmoid_topk(x, k, temperature=temperature)


@pytest.mark.parametrize("shape", [(6,), (3, 6)])
@pytest.mark.parametrize("per_row", [False, True])
def test_first_and_second_order_in_input_k_and_temperature(shape, per_row):
    batch = shape[:-1]
    k = leaf([1.3, 2.0, 4.7][: batch[0]] if per_row and batch else 2.2)
    temperature = leaf([0.7, 1.0, 2.0][: batch[0]] if per_row and batch else 0.7)
    arguments = (scores(*shape), k, temperature)
    assert gradcheck(operator, arguments, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(operator, arguments, check_fwd_over_rev=True)


def test_along_another_dim_with_a_mask():
    mask = torch.tensor([[1, 1, 0, 1, 1, 1]]).bool().T
    arguments = (scores(6, 2), leaf(1.5))
    assert gradcheck(lambda x, k: sigmoid_topk(x, k, dim=0, mask=mask), arguments, check_forward_ad=True)
    assert gradgradcheck(lambda x, k: sigmoid_topk(x, k, dim=0, mask=mask), arguments)


def test_with_infinite_entries():
    x = torch.tensor([float("inf"), 0.3, -0.2, 1.0, -float("inf")], dtype=torch.float64)

    def function(free, k):
        return sigmoid_topk(torch.cat([x[:1], free, x[4:]]), k)

    assert gradcheck(function, (leaf(x[1:4]), leaf(2.3)))


def test_float32_gradients_against_float64_on_a_long_row():
    generator = torch.Generator().manual_seed(1)
    x, weight = torch.randn(200_000, generator=generator), torch.randn(200_000, generator=generator)
    for k, temperature in ((50.5, 1.0), (2000.0, 0.1), (100_000.0, 1.0)):
        results = []
        for dtype in (torch.float32, torch.float64):
            row = x.to(dtype, copy=True).requires_grad_()
            count = torch.tensor(k, dtype=torch.float64, requires_grad=True)
            heat = torch.tensor(temperature, dtype=torch.float64, requires_grad=True)
            loss = (sigmoid_topk(row, count, temperature=heat) * weight.to(dtype)).sum()
            results.append(torch.autograd.grad(loss, [row, count, heat]))
        for single, exact in zip(*results, strict=True):
            assert (single.double() - exact).norm() <= 2e-4 * exact.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("k", "at_the_gap"),
    [(0.0, [3]), (1.0, [2, 3]), (2.0, [1, 2]), (4.0, [0]), (1.5, [2])],
)
def test_saturated_rows_send_0_to_input_and_a_weight_of_1_to_k(dtype, k, at_the_gap):
    x = torch.tensor([0.0, 1000.0, 2000.0, 3000.0], dtype=dtype, requires_grad=True)
    count = torch.tensor(k, dtype=torch.float64, requires_grad=True)
    outputs = sigmoid_topk(x.detach(), count)
    jacobian = torch.stack([torch.autograd.grad(p, count, retain_graph=True)[0] for p in outputs]).to(dtype)
    expected = torch.zeros(4, dtype=dtype)
    expected[at_the_gap] = 1 / len(at_the_gap)
    assert torch.allclose(jacobian, expected, atol=1e-6)
    probs = sigmoid_topk(x, count)
    to_input, to_k = torch.autograd.grad((probs * torch.tensor([1.0, 2.0, 3.0, 4.0])).sum(), [x, count])
    assert (to_input.abs() < 1e-30).all()
    assert to_k.isfinite()


def test_second_derivatives_of_saturated_rows_are_finite():
    x = leaf([0.0, 1000.0, 2000.0, 3000.0])
    k = leaf(2.0)
    (gradient,) = torch.autograd.grad(sigmoid_topk(x, k).square().sum(), k, create_graph=True)
    second = torch.autograd.grad(gradient + (gradient * 0 + 1) * k, [x, k], allow_unused=True)
    assert all(g is None or g.isfinite().all() for g in second)


def test_equal_scores_at_the_kinks_of_designs():
    """The relaxation itself is smooth where all scores are equal and k/n is dyadic."""
    assert gradcheck(operator, (leaf(torch.zeros(8)), leaf(2.0), leaf(1.0)))
    assert gradgradcheck(operator, (leaf(torch.zeros(8)), leaf(4.0), leaf(1.0)))


def test_func_transforms():
    x, k = scores(3, 6).detach(), leaf([1.3, 2.0, 4.7]).detach()
    expected = sigmoid_topk(x, k)
    assert torch.allclose(torch.func.vmap(sigmoid_topk)(x, k), expected)
    assert torch.allclose(torch.func.vmap(sigmoid_topk, (1, 0), 1)(x.T, k), expected.T)
    several = torch.func.vmap(sigmoid_topk, (None, 0))(x, k)
    assert torch.allclose(several[1], sigmoid_topk(x, 2.0))
    nested = torch.func.vmap(torch.func.vmap(sigmoid_topk, (0, None)), (None, 0))(x, k)
    assert torch.allclose(nested, several)

    def loss(row, count):
        return sigmoid_topk(row, count).square().sum()

    per_row = torch.func.vmap(torch.func.grad(loss, argnums=(0, 1)))(x, k)
    together = torch.func.grad(lambda x, k: sigmoid_topk(x, k).square().sum(), argnums=(0, 1))(x, k)
    assert all(torch.allclose(a, b) for a, b in zip(per_row, together, strict=True))
    forward, reverse = (t(lambda s: sigmoid_topk(s, 2.5))(x[0]) for t in (torch.func.jacfwd, torch.func.jacrev))
    assert torch.allclose(forward, reverse)
    assert torch.allclose(torch.func.hessian(loss)(x[0], k[0]), torch.func.jacrev(torch.func.jacrev(loss))(x[0], k[0]))


def test_out_of_range_k_is_nan_in_its_row_alone_where_values_cannot_be_seen():
    x = torch.randn(3, 4)
    probs = torch.func.vmap(sigmoid_topk)(x, torch.tensor([1.0, 9.0, 2.0]))
    assert probs[1].isnan().all()
    assert torch.allclose(probs[[0, 2]].sum(-1), torch.tensor([1.0, 2.0]))


@pytest.fixture
def fresh_compiler():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_whole_once_for_tensor_k():
    compiled = torch.compile(operator, fullgraph=True, backend="aot_eager")
    x = torch.randn(4, 33)
    for number in (1.0, 2.5, 7.0, 30.9):
        arguments = [x.clone().requires_grad_(), torch.tensor(number, requires_grad=True)]
        arguments.append(torch.tensor(0.5, requires_grad=True))
        found, expected = (f(*arguments).square().sum() for f in (compiled, operator))
        assert torch.allclose(found, expected)
        pairs = zip(*(torch.autograd.grad(v, arguments) for v in (found, expected)), strict=True)
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in pairs)
    assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_at_most_twice_for_python_k():
    compiled = torch.compile(
        lambda x, k: sigmoid_topk(x, k, mask=x > -1, hard=True), fullgraph=True, backend="aot_eager"
    )
    x = torch.randn(4, 33)
    for number in (1.5, 2.25, 3.125, 4.75, 5.5):
        assert torch.allclose(compiled(x, number), sigmoid_topk(x, number, mask=x > -1, hard=True))
    assert counters["stats"]["unique_graphs"] <= 2


def test_a_row_without_units_moves_nothing_and_spoils_no_shared_parameter():
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    k = torch.tensor([0.0, 2.0, 1.0], dtype=torch.float64, requires_grad=True)
    temperature = torch.ones(3, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[False] * 4, [True] * 4, [True] * 4])
    scores = x.masked_fill(torch.tensor([[False], [False], [True]]), torch.nan)
    probs = sigmoid_topk(scores, k, temperature=temperature, mask=mask)
    assert (probs[0] == 0).all()
    assert probs[2].isnan().all()
    to_x, to_k, to_temperature = torch.autograd.grad((probs * torch.arange(4.0)).sum(), [x, k, temperature])
    for gradient in (to_x, to_k, to_temperature):
        assert (gradient[0] == 0).all()
        assert (gradient[1] != 0).any()
    assert to_k[2].isnan()  # a NaN among the scores is not hidden
