"""A router that draws the experts of a batch together: loads, laws, evaluation, what it refuses."""

import math

import pytest
import torch
from scipy.stats import binom

from sparsek.functional import max_violation
from sparsek.nn import (
    DependentRounding,
    DoublyCappedGate,
    HardTopK,
    HorvitzThompson,
    QuantileBalance,
    Router,
    Sampled,
    SigmoidTopKGate,
    SoftmaxGate,
)

GATES = [SigmoidTopKGate(), DoublyCappedGate(), DoublyCappedGate(factor=1.1)]


def make(gate, k=2, experts=8, **parts):
    torch.manual_seed(0)
    router = Router(16, experts, k, gate=gate, selection=DependentRounding(), **parts)
    router.bias.copy_(torch.linspace(-0.5, 0.5, experts))
    return router


def tokens(seed=1):
    """30 tokens of a skewed stream, of which 5 are padding and one is spoilt; and which of them are to be routed."""
    input = torch.randn(30, 16, generator=torch.Generator().manual_seed(seed)) + 0.5
    input[3, 2] = math.nan
    mask = torch.arange(30) < 25
    return input, mask, mask & (torch.arange(30) != 3)


@pytest.mark.parametrize("gate", GATES, ids=repr)
def test_loads_are_the_expected_ones_rounded(gate):
    input, mask, real = tokens()
    routing = make(gate)(input, mask)
    expected = routing.marginals[real].double().sum(0)
    load = routing.stats["load"]
    assert bool(((load >= (expected - 1e-4).floor()) & (load <= (expected + 1e-4).ceil())).all())
    chosen = routing.indices[real].sort(-1).values
    assert bool((chosen[:, :-1] < chosen[:, 1:]).all())
    assert bool((routing.indices[~real] == -1).all())
    assert bool((routing.weights == real[:, None]).all())
    assert routing.stats["invalid"] == 1


def test_doubly_capped_marginals_give_every_expert_its_share():
    input, mask, real = tokens()
    share = 2 * int(real.sum()) / 8
    assert make(DoublyCappedGate())(input, mask).stats["load"].tolist() == [share] * 8
    capped = make(DoublyCappedGate(factor=1.1))(input, mask)
    assert capped.stats["load"].max() <= math.ceil(1.1 * share)
    assert make(SigmoidTopKGate())(input, mask).stats["load"].max() > math.ceil(1.1 * share)
    torch.testing.assert_close(capped.marginals.sum(-1)[~real], torch.full((6,), 2.0))


def test_every_token_draws_with_its_marginals():
    draws, (input, mask, real) = 2_000, tokens()
    marginals = make(DoublyCappedGate())(input, mask).marginals.detach()
    count = torch.zeros(30, 8)
    for seed in range(draws):
        generator = torch.Generator().manual_seed(seed)
        indices = DependentRounding()(marginals, marginals, 2, mask=real, training=True, generator=generator)
        count.scatter_add_(1, indices, torch.ones(30, 2))
    tail = 1e-6 / (2 * int(real.sum()) * 8)

    def fits(chances):
        low, high = (torch.from_numpy(binom.isf(q, draws, chances[real].numpy())) for q in (1 - tail, tail))
        return bool(((count[real] >= low) & (count[real] <= high)).all())

    assert fits(marginals.double())
    assert not fits(marginals.double().flip(1))


def test_evaluation_takes_the_k_largest_of_each_token_by_itself():
    router = make(DoublyCappedGate()).eval()
    input, mask, _ = tokens()
    hard = Router(16, 8, 2, selection=HardTopK()).eval()
    hard.load_state_dict(router.state_dict())
    assert torch.equal(router(input, mask).indices, hard(input, mask).indices)
    changed = torch.cat((input[:12], 5 * torch.randn(18, 16)))
    for field in ("indices", "weights", "marginals"):
        assert torch.equal(getattr(router(input), field)[4:12], getattr(router(changed), field)[4:12])


@pytest.mark.parametrize("gate", GATES[:2], ids=repr)
def test_training_is_not_causal_and_says_so(gate):
    router = make(gate)
    assert not router.causal
    input = torch.randn(40, 16)
    changed = torch.cat((input[:20], 5 * torch.randn(20, 16)))
    one, other = (router(x, None, torch.Generator().manual_seed(0)).indices[:20] for x in (input, changed))
    assert not torch.equal(one, other)


def test_a_gate_that_looks_at_the_batch_makes_any_router_not_causal():
    assert not Router(4, 4, 2, gate=DoublyCappedGate()).causal
    assert Router(4, 4, 2).causal


@pytest.mark.parametrize("gradient", [None, HorvitzThompson()], ids=repr)
@pytest.mark.parametrize("gate", GATES[:2], ids=repr)
def test_the_gate_learns_at_k_1(gate, gradient):
    router = make(gate, k=1, gradient=gradient)
    input, mask, _ = tokens()
    routing = router(input, mask)
    (routing.weights[:, 0] * torch.randn(30)).sum().backward()
    assert bool(router.weight.grad.isfinite().all())
    assert bool((router.weight.grad != 0).any())


def test_padding_leaves_inclusion_probabilities_for_other_selections():
    input, mask, real = tokens()
    router = Router(16, 8, 2, gate=DoublyCappedGate(), selection=Sampled())
    assert bool(((router(input, mask).indices >= 0).sum(-1) == 2 * real).all())
    nothing = make(DoublyCappedGate())(input, torch.zeros_like(mask))
    assert int(nothing.stats["load"].sum()) == 0


def test_quantile_balancing_keeps_evaluation_as_even_as_training():
    torch.manual_seed(0)
    router = make(DoublyCappedGate(), balancer=QuantileBalance(0.5))
    router.bias.zero_()
    input = torch.randn(2048, 16) + 1
    before = max_violation(router.eval()(input).stats["load"])
    router.train()
    for _ in range(12):
        router.observe(router(input))
        router.step()
    assert max_violation(router(input).stats["load"]) == 0
    assert before > 1
    assert max_violation(router.eval()(input).stats["load"]) < 0.05


def test_bad_parts_are_named():
    with pytest.raises(ValueError, match="gate must give inclusion probabilities"):
        Router(4, 4, 2, gate=SoftmaxGate(), selection=DependentRounding())
    for options, message in (
        ({"factor": 0.9}, "factor"),
        ({"iterations": 0}, "iterations"),
        ({"temperature": 0.0}, "temp"),
    ):
        with pytest.raises(ValueError, match=message):
            DoublyCappedGate(**options)
    with pytest.raises(NotImplementedError, match="ConditionalPoisson"):
        DependentRounding().log_prob(torch.ones(1), torch.ones(1).bool(), 1)
