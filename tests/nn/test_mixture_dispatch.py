"""A mixture of experts by its laws, whatever multiplies, is dropped, or is shared."""

import copy
import re
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from sparsek.nn import (
    Capacity,
    Experts,
    FeedForward,
    FusedProduct,
    LoopProduct,
    MixtureOfExperts,
    PaddedProduct,
    Router,
    Routing,
)

HAS_GROUPED_MM = hasattr(torch.nn.functional, "grouped_mm")
PRODUCTS = [LoopProduct(), PaddedProduct(), *([FusedProduct()] if HAS_GROUPED_MM else [])]


class Fixed(nn.Module):
    """A router that decided before."""

    def __init__(self, indices, weights):
        super().__init__()
        self.indices, self.weights = indices, weights

    def forward(self, input, mask=None, generator=None):
        return Routing(self.indices, self.weights.to(input.dtype), self.weights, self.weights, {}, {})


def fixed(indices, experts=4, d=8, hidden=12, dtype=torch.float64, **parts):
    torch.manual_seed(0)
    indices = torch.as_tensor(indices)
    router = Fixed(indices, torch.rand(indices.shape, dtype=torch.float64))
    return MixtureOfExperts(d, hidden, experts, router, **parts).to(dtype)


def definition(mixture, input, kept):
    """Slot by slot."""
    experts, router = mixture.experts, mixture.router
    output = torch.zeros_like(input)
    for token, slot in kept.nonzero().tolist():
        expert = int(router.indices[token, slot])
        hidden = experts.activation(input[token] @ experts.up[expert]) @ experts.down[expert]
        output[token] = output[token] + router.weights[token, slot].to(input.dtype) * hidden
    return output


def gradients(output, mixture, input):
    cotangent = torch.randn(output.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    leaves = [input, *mixture.experts.parameters()]
    return torch.autograd.grad((output * cotangent.to(output.dtype)).sum(), leaves, materialize_grads=True)


INDICES = {
    "mixed": [[0, 2], [2, -1], [3, 1], [-1, -1], [2, 0]],
    "one expert gets all": [[1, 1]] * 5,
    "nothing is routed": [[-1, -1]] * 5,
    "one slot": [[3], [3], [0], [-1], [1]],
}


@pytest.mark.parametrize("product", PRODUCTS, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("indices", INDICES.values(), ids=INDICES)
def test_equals_the_definition_slot_by_slot(indices, product):
    dtype = torch.float32 if isinstance(product, FusedProduct) else torch.float64
    mixture = fixed(indices, dtype=dtype)
    mixture.experts.product = product
    input = torch.randn(5, 8, dtype=dtype, requires_grad=True)
    expected = definition(mixture, input, mixture.router.indices >= 0)
    output = mixture(input).output
    tolerance = 100 * torch.finfo(dtype).eps
    torch.testing.assert_close(output, expected, rtol=0, atol=tolerance)
    if expected.requires_grad:
        for mine, theirs in zip(gradients(output, mixture, input), gradients(expected, mixture, input), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("dtype", "d", "eps"),
    [(torch.float64, 8, 1e-14), (torch.float32, 6, 1e-5), (torch.float32, 8, 1e-5), (torch.bfloat16, 6, 0.3)],
)
def test_whatever_the_dtype_and_the_width_some_product_takes_them(dtype, d, eps):
    # 24 and 12 bytes a row are no multiple of 16, and grouped_mm takes no float64
    mixture = fixed(torch.randint(-1, 4, (300, 2), generator=torch.Generator().manual_seed(2)), d=d, dtype=dtype)
    input = torch.randn(300, d, dtype=dtype, requires_grad=True)
    exact = copy.deepcopy(mixture).double()
    wide = input.detach().double().requires_grad_()
    expected = definition(exact, wide, mixture.router.indices >= 0)
    output = mixture(input).output
    assert output.dtype == dtype
    torch.testing.assert_close(output.double(), expected, rtol=0, atol=eps)
    scale = len(input) ** 0.5  # of a sum over rows
    for mine, theirs in zip(gradients(output, mixture, input), gradients(expected, exact, wide), strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=0, atol=scale * eps)


def test_one_expert_is_a_dense_layer_times_its_weight():
    torch.manual_seed(0)
    mixture = MixtureOfExperts(8, 12, 1, Router(8, 1, 1))
    layer = FeedForward(8, 12)
    layer.up.data, layer.down.data = mixture.experts.up[0], mixture.experts.down[0]
    input = torch.randn(5, 8)
    output, routing = mixture(input)
    assert (routing.indices == 0).all()
    torch.testing.assert_close(output, routing.weights * layer(input))


@pytest.mark.parametrize("experts", [2, 4, 32])
def test_every_slot_is_multiplied_twice_forward_and_four_times_backward_whatever_the_number_of_experts(experts):
    seen = []

    class Watched(LoopProduct):
        def rows(self, input, weight, groups):
            seen.append(len(input))
            return super().rows(input, weight, groups)

        def outer(self, left, right, groups):
            seen.append(len(left))
            return super().outer(left, right, groups)

    mixture = fixed(torch.randint(0, experts, (50, 2)), experts=experts)
    mixture.experts.product = Watched()
    output = mixture(torch.randn(50, 8, dtype=torch.float64, requires_grad=True)).output
    assert seen == [100] * 2
    seen.clear()
    output.sum().backward()
    assert seen == [100] * 4


@pytest.mark.parametrize("capacity", [None, Capacity(slots=5)])
def test_functional_transforms_give_the_same_derivatives(capacity):
    mixture = fixed(torch.randint(-1, 4, (20, 2), generator=torch.Generator().manual_seed(2)), capacity=capacity)
    input, tangent = torch.randn(2, 20, 8, dtype=torch.float64)
    parameters = dict(mixture.named_parameters())

    def loss(parameters, input):
        return torch.func.functional_call(mixture, parameters, (input,)).output.square().sum()

    ours, input_gradient = torch.func.grad(loss, argnums=(0, 1))(parameters, input)
    leaf = input.clone().requires_grad_()
    expected = torch.autograd.grad(mixture(leaf).output.square().sum(), [leaf, *parameters.values()])
    for mine, theirs in zip([input_gradient, *ours.values()], expected, strict=True):
        torch.testing.assert_close(mine, theirs)
    _, moved = torch.func.jvp(lambda x: loss(parameters, x), (input,), (tangent,))
    torch.testing.assert_close(moved, (expected[0] * tangent).sum())


@pytest.mark.parametrize("product", [None, *PRODUCTS], ids=lambda p: type(p).__name__)
def test_no_token_at_all(product):
    mixture = fixed(torch.zeros(0, 2, dtype=torch.int64), dtype=torch.float32)
    mixture.experts.product = product
    input = torch.randn(0, 8, requires_grad=True)
    output = mixture(input).output
    assert output.shape == (0, 8)
    assert all((gradient == 0).all() for gradient in gradients(output, mixture, input))


@pytest.mark.parametrize("product", PRODUCTS, ids=lambda p: type(p).__name__)
def test_bfloat16_is_as_exact_as_its_roundings(product):
    torch.manual_seed(0)
    mixture = fixed(torch.randint(0, 4, (40, 2)), d=16, hidden=16, dtype=torch.bfloat16)
    exact = MixtureOfExperts(16, 16, 4, mixture.router).double()
    exact.load_state_dict({name: value.double() for name, value in mixture.state_dict().items()})
    mixture.experts.product = product
    input = torch.randn(40, 16, dtype=torch.bfloat16)
    # input, hidden twice, output, weight and sum are rounded: six relative errors of eps/2 and sums of 16 of size about 1
    error = (mixture(input).output.double() - exact(input.double()).output).norm()
    assert error <= 6 * torch.finfo(torch.bfloat16).eps * exact(input.double()).output.norm()


def test_the_order_of_experts_is_a_name():
    torch.manual_seed(0)
    indices = torch.randint(-1, 4, (30, 2))
    mixture = fixed(indices)
    input = torch.randn(30, 8, dtype=torch.float64)
    before = mixture(input).output
    order = torch.tensor([2, 0, 3, 1])
    mixture.experts.up.data, mixture.experts.down.data = mixture.experts.up[order], mixture.experts.down[order]
    mixture.router.indices = torch.where(indices >= 0, order.argsort()[indices], -1)
    torch.testing.assert_close(mixture(input).output, before)


def test_what_is_dropped_is_reported_and_adds_nothing():
    indices = torch.tensor([[0, 1], [0, -1], [0, 2], [0, 1]])
    mixture = fixed(indices, capacity=Capacity(slots=2))
    input = torch.randn(4, 8, dtype=torch.float64, requires_grad=True)
    output, routing = mixture(input)
    expected_drops = torch.tensor([[False, False], [False, False], [True, False], [True, False]])
    assert torch.equal(routing.dropped, expected_drops)
    assert int(routing.stats["dropped"]) == 2
    assert torch.equal(routing.indices, indices)
    expected = definition(mixture, input, (indices >= 0) & ~expected_drops)
    torch.testing.assert_close(output, expected)
    for mine, theirs in zip(gradients(output, mixture, input), gradients(expected, mixture, input), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_reports_have_the_leading_shape_and_without_capacity_there_are_none():
    mixture = MixtureOfExperts(8, 12, 4, Router(8, 4, 2), capacity=Capacity(factor=1.0))
    routing = mixture(torch.randn(3, 5, 8)).routing
    assert routing.dropped.shape == (3, 5, 2)
    assert int(routing.stats["dropped"]) == int((routing.stats["load"] - 8).clamp_min(0).sum())  # ⌈30/4⌉ = 8
    free = MixtureOfExperts(8, 12, 4, Router(8, 4, 2))(torch.randn(3, 5, 8)).routing
    assert free.dropped is None
    assert "dropped" not in free.stats


def test_a_capacity_in_the_order_of_tokens_is_causal_and_one_by_weight_is_not():
    torch.manual_seed(0)
    inputs = torch.randn(40, 8), torch.randn(40, 8)
    changed = torch.cat((inputs[0][:20], 3 * inputs[1][20:]))

    def early(by_weight):
        torch.manual_seed(1)
        mixture = MixtureOfExperts(8, 12, 4, Router(8, 4, 2), capacity=Capacity(slots=12, by_weight=by_weight))
        return [mixture(x).output[:20] for x in (inputs[0], changed)]

    torch.testing.assert_close(*early(by_weight=False), rtol=0, atol=1e-6)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(*early(by_weight=True), rtol=0, atol=1e-6)


def test_the_shared_expert_is_added_to_every_real_token():
    torch.manual_seed(0)
    shared = FeedForward(8, 24)
    mixture = MixtureOfExperts(8, 12, 4, Router(8, 4, 2), shared=shared)
    alone = MixtureOfExperts(8, 12, 4, mixture.router)
    alone.experts = mixture.experts
    input, mask = torch.randn(6, 8), torch.tensor([True, True, False, True, True, False])
    torch.testing.assert_close(mixture(input).output, alone(input).output + shared(input))
    input[~mask] = torch.nan
    output = mixture(input, mask).output
    expected = alone(input, mask).output[mask] + shared(input[mask])
    torch.testing.assert_close(output[mask], expected)
    assert (output[~mask] == 0).all()
    output.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in mixture.parameters())


def test_two_shared_experts_are_one_of_twice_the_width():
    torch.manual_seed(0)
    wide, one, other = FeedForward(8, 24), FeedForward(8, 12), FeedForward(8, 12)
    wide.up.data, wide.down.data = torch.cat((one.up, other.up), 1), torch.cat((one.down, other.down), 0)
    input = torch.randn(5, 8)
    torch.testing.assert_close(wide(input), one(input) + other(input))


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_recomputed_activations_give_the_same_gradients(use_reentrant):
    torch.manual_seed(0)
    mixture = MixtureOfExperts(
        8, 12, 4, Router(8, 4, 2), shared=FeedForward(8, 4), capacity=Capacity(factor=1.0)
    ).double()
    input = torch.randn(30, 8, dtype=torch.float64, requires_grad=True)
    leaves = [input, *mixture.parameters()]

    def grads(output):
        for leaf in leaves:
            leaf.grad = None
        output.square().sum().backward()
        return [leaf.grad for leaf in leaves]

    direct = grads(mixture(input).output)
    again = grads(torch.utils.checkpoint.checkpoint(lambda x: mixture(x).output, input, use_reentrant=use_reentrant))
    for mine, theirs in zip(again, direct, strict=True):
        assert torch.equal(mine, theirs)


def test_under_autocast_the_products_are_in_its_dtype():
    seen = []

    class Watched(LoopProduct):
        def rows(self, input, weight, groups):
            seen.append((input.dtype, weight.dtype))
            return super().rows(input, weight, groups)

    mixture = fixed([[0, 2], [2, -1]], dtype=torch.float32)
    mixture.experts.product = Watched()
    input = torch.randn(2, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        output = mixture(input).output
    output.sum().backward()
    assert set(seen) == {(torch.bfloat16, torch.bfloat16)}
    assert input.grad.dtype == mixture.experts.up.grad.dtype == torch.float32


def test_the_first_example_of_the_page_runs(capsys):
    page = (Path(__file__).parents[2] / "docs" / "experts.md").read_text(encoding="utf-8")
    block = re.search(r"```python\n(.*?)```", page, re.DOTALL)[1]
    exec(compile(block, "docs/experts.md", "exec"), {})
    assert capsys.readouterr().out.splitlines() == re.findall(r"^print\(.*\)  # (.*)$", block, re.MULTILINE)


def test_the_product_is_chosen_where_the_experts_are_made():
    mixture = fixed([[0, 1]], d=8, experts=4)
    assert mixture.experts.product is None
    chosen = MixtureOfExperts(8, 12, 4, Router(8, 4), experts=partial(Experts, product=PaddedProduct()))
    assert chosen.experts.product == PaddedProduct()


def test_an_index_out_of_range_is_one_clear_error():
    with pytest.raises(ValueError, match=r"indices must lie in \[-1, 3\], got values from 0 to 7"):
        fixed([[0, 7]])(torch.zeros(1, 8, dtype=torch.float64))


def test_a_checkpoint_of_another_number_of_experts_is_refused():
    with pytest.raises(RuntimeError, match=r"size mismatch for up: copying a param with shape torch\.Size\(\[5"):
        Experts(8, 12, 4).load_state_dict(Experts(8, 12, 5).state_dict())


@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor:UserWarning"
)  # Dynamo looks at what crosses its break
def test_a_graph_compiled_around_the_mixture_computes_the_same():
    torch.manual_seed(0)
    mixture = MixtureOfExperts(8, 12, 4, Router(8, 4, 2), shared=FeedForward(8, 4), capacity=Capacity(factor=1.0))
    layer = nn.Sequential(nn.Linear(8, 8), nn.Tanh())
    input = torch.randn(20, 8)

    def loss(x):
        output, routing = mixture(layer(x))
        return output.cos().sum(), routing.stats["dropped"]

    expected, dropped = loss(input)
    leaves = [*mixture.parameters(), *layer.parameters()]
    theirs = torch.autograd.grad(expected, leaves)
    output, same = torch.compile(loss, backend="aot_eager")(input)
    torch.testing.assert_close(output, expected)
    assert same == dropped > 0
    for mine, other in zip(torch.autograd.grad(output, leaves), theirs, strict=True):
        torch.testing.assert_close(mine, other)
