import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsek.nn import DualBias, HardTopK, Router, Sampled, SigmoidTopKGate, SoftmaxGate, SwitchLoss
from sparsek.nn._selection import top_indices
from sparsek.sampling import Pivotal, Poisson

GATES = [SigmoidTopKGate(), SigmoidTopKGate(temperature=0.3), SoftmaxGate(), SoftmaxGate(normalise=False)]


def make(gate=None, k=2, experts=8, **parts):
    torch.manual_seed(0)
    return Router(16, experts, k, gate=gate, **parts).double()


@pytest.mark.parametrize("gate", GATES)
def test_fields_have_the_shapes_and_ranges_that_they_document(gate):
    router = make(gate)
    routing = router(torch.randn(3, 5, 16, dtype=torch.float64))
    assert routing.indices.shape == routing.weights.shape == (3, 5, 2)
    assert routing.marginals.shape == routing.logits.shape == (3, 5, 8)
    total = 2.0 if gate.on_capped_simplex else 1.0
    torch.testing.assert_close(routing.marginals.sum(-1), torch.full((3, 5), total, dtype=torch.float64))
    assert (routing.indices[..., 0] != routing.indices[..., 1]).all()
    assert routing.stats["load"].sum() == 3 * 5 * 2
    assert routing.losses == {}


def test_hard_selection_takes_the_largest_and_ties_go_to_the_lowest_index():
    router = make()
    input = torch.randn(50, 16, dtype=torch.float64)
    routing = router(input)
    expected = routing.logits.topk(2).indices
    assert torch.equal(routing.indices, expected)
    with torch.no_grad():
        router.weight.zero_()
    assert torch.equal(router(input).indices, torch.tensor([0, 1]).expand(50, 2))


@settings(max_examples=50, deadline=None)
@given(data=st.data(), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_the_largest_are_those_of_a_stable_sort(data, dtype):
    numbers = st.sampled_from([-math.inf, -3e38, -1.5, -1e-45, -0.0, 0.0, 1e-45, 1.5, 3e38, math.inf]) | st.floats(
        width=32, allow_nan=False
    )
    experts = data.draw(st.integers(1, 7))
    rows = data.draw(st.lists(st.lists(numbers, min_size=experts, max_size=experts), max_size=4))
    scores = torch.tensor(rows, dtype=dtype).view(-1, experts)
    k = data.draw(st.integers(1, experts))
    expected = scores.sort(dim=-1, descending=True, stable=True).indices[:, :k]
    assert torch.equal(top_indices(scores, k), expected)


def test_the_bias_moves_the_choice_and_not_the_weights():
    router = make()
    input = torch.randn(20, 16, dtype=torch.float64)
    before = router(input)
    router.bias[7] = 100.0
    after = router(input)
    assert (after.indices == 7).any(-1).all()
    assert torch.equal(before.marginals, after.marginals)
    chosen = after.marginals.gather(-1, after.indices)
    assert torch.equal(after.weights, chosen)


@pytest.mark.parametrize("gate", [SigmoidTopKGate(), SoftmaxGate(normalise=False)])
def test_the_gradient_of_the_gate_is_alive_at_k_1(gate):
    router = make(gate, k=1)
    routing = router(torch.randn(30, 16, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(routing.weights.sum(), router.weight)
    assert gradient.norm() > 1e-2


def test_a_dead_gate_is_refused():
    with pytest.raises(ValueError, match="normalise must be False at k = 1"):
        Router(16, 8, 1, gate=SoftmaxGate())


@pytest.mark.parametrize("gate", GATES)
def test_weights_have_the_gradient_of_finite_differences(gate):
    router = make(gate)
    input = torch.randn(4, 16, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda x: router(x).weights, input)
    torch.autograd.gradcheck(lambda x: router(x).marginals, input)


def test_sampled_experts_have_the_marginals_as_frequencies():
    # 20,000 draws of 8 units: a z-bound at a false-alarm rate of 1e-6 over all 8, z = 5.4
    router = make(selection=Sampled())
    token = torch.randn(1, 16, dtype=torch.float64).expand(20_000, 16)
    routing = router(token, generator=torch.Generator().manual_seed(1))
    pi = routing.marginals[0].detach()
    frequency = routing.stats["load"] / 20_000
    bound = 5.4 * (pi * (1 - pi) / 20_000).sqrt()
    assert ((frequency - pi).abs() <= bound).all()
    sabotaged = torch.full_like(pi, 2 / 8)  # a sampler that ignored the scores
    assert ((frequency - sabotaged).abs() > bound).any()


def test_sampled_weights_are_one_forward_and_pi_backward():
    router = make(selection=Sampled(Pivotal()))
    input = torch.randn(10, 16, dtype=torch.float64)
    routing = router(input, generator=torch.Generator().manual_seed(0))
    assert torch.equal(routing.weights, torch.ones(10, 2, dtype=torch.float64))
    cotangent = torch.randn(10, 2, dtype=torch.float64)
    (mine,) = torch.autograd.grad((routing.weights * cotangent).sum(), router.weight, retain_graph=True)
    chosen = routing.marginals.gather(-1, routing.indices)
    (expected,) = torch.autograd.grad((chosen * cotangent).sum(), router.weight)
    torch.testing.assert_close(mine, expected)


def test_sampling_is_reproducible_in_training_and_absent_in_eval():
    router = make(selection=Sampled())
    input = torch.randn(200, 16, dtype=torch.float64)
    first = router(input, generator=torch.Generator().manual_seed(3)).indices
    again = router(input, generator=torch.Generator().manual_seed(3)).indices
    other = router(input, generator=torch.Generator().manual_seed(4)).indices
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    router.eval()
    hard = make(selection=HardTopK()).eval()
    assert torch.equal(router(input).indices, hard(input).indices)


@settings(max_examples=25, deadline=None)
@given(data=st.data(), tokens=st.integers(2, 12))
def test_padding_counts_nowhere_and_harms_nothing(data, tokens):
    kept = torch.tensor(data.draw(st.lists(st.booleans(), min_size=tokens, max_size=tokens)))
    router = make(balancer=SwitchLoss(1.0))
    input = torch.randn(tokens, 16, dtype=torch.float64)
    padded = input.masked_fill(~kept[:, None], math.nan)
    with_mask, alone = router(padded, kept), router(input[kept])
    assert torch.equal(with_mask.indices[kept], alone.indices)
    assert (with_mask.indices[~kept] == -1).all()
    assert (with_mask.weights[~kept] == 0).all()
    assert torch.equal(with_mask.stats["load"], alone.stats["load"])
    torch.testing.assert_close(with_mask.losses["switch"], alone.losses["switch"])
    (gradient,) = torch.autograd.grad(with_mask.losses["switch"] + with_mask.weights.sum(), router.weight)
    (expected,) = torch.autograd.grad(alone.losses["switch"] + alone.weights.sum(), router.weight)
    torch.testing.assert_close(gradient, expected)


def test_tokens_are_routed_independently_of_their_order():
    router = make().eval()
    input = torch.randn(40, 16, dtype=torch.float64)
    order = torch.randperm(40)
    assert torch.equal(router(input).indices[order], router(input[order]).indices)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_scored_in_float32(dtype):
    router = make().float()
    input = torch.randn(30, 16, dtype=dtype)
    routing = router(input)
    assert routing.logits.dtype == torch.float32
    assert routing.weights.dtype == dtype
    assert torch.equal(routing.indices, router(input.float()).indices)


def test_autocast_does_not_reach_the_scores():
    router = make().float()
    input = torch.randn(30, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = router(input).logits
    assert torch.equal(inside, router(input).logits)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Router(16, 8, 9), r"k must be a whole number in \[1, num_experts = 8\], got 9"),
        (lambda: Router(16, 8, 0), "k must be a whole number"),
        (lambda: Router(16, 8, 1.5), "k must be a whole number"),
        (lambda: Router(0, 8), "d_model must be at least 1, got 0"),
        (lambda: Router(16, 0), "num_experts must be at least 1, got 0"),
        (lambda: Router(16, 8, gate=SoftmaxGate(), selection=Sampled()), "SigmoidTopKGate"),
        (lambda: Sampled(Poisson()), "design must have a fixed size"),
        (lambda: SigmoidTopKGate(temperature=0.0), "temperature must be a finite number > 0"),
        (lambda: SwitchLoss(-1.0), "coefficient must be finite and >= 0, got -1.0"),
        (lambda: DualBias(0.0), "rate must be a finite number > 0"),
        (lambda: make()(torch.zeros(3, 15)), r"input must have shape \(..., 16\), got \(3, 15\)"),
        (lambda: make()(torch.zeros(3, 16, dtype=torch.long)), "input must be a floating-point tensor, got dtype"),
        (lambda: make()(torch.zeros(3, 16), torch.ones(3)), "mask must be boolean"),
        (lambda: make()(torch.zeros(3, 16), torch.ones(4, dtype=torch.bool)), r"mask must be boolean of shape \(3,\)"),
    ],
)
def test_bad_input_is_one_clear_error(build, message):
    with pytest.raises(ValueError, match=message):
        build()
