"""A mixture of experts by its laws, whatever multiplies, is dropped, or is shared."""

from functools import partial

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
    mixture = fixed([[0, 2], [2, -1], [3, 1]], dtype=torch.float32)
    input = torch.randn(3, 8)
    compiled = torch.compile(lambda x: mixture(x.sin()).output.cos(), backend="aot_eager")
    torch.testing.assert_close(compiled(input), mixture(input.sin()).output.cos())
