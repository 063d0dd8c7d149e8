"""Adaptive k: the budget of a batch exactly, and by a lagged threshold; who takes how many; what state moves when."""

import math

import pytest
import torch

from sparsek.functional import max_violation
from sparsek.nn import (
    AdaptiveTopK,
    BudgetBalance,
    BudgetGate,
    BudgetTopK,
    MixtureOfExperts,
    Router,
    SigmoidGate,
    SoftmaxGate,
)
from sparsek.nn._adaptive import threshold


def make(selection, k=2, experts=8, **options):
    torch.manual_seed(0)
    return Router(16, experts, k, gate=BudgetGate(), selection=selection, balancer=BudgetBalance(**options))


def stream(batches, size=2048, drift=0.0):
    """Skewed tokens; some experts are liked by all of them."""
    generator = torch.Generator().manual_seed(1)
    mean = torch.randn(16, generator=generator)
    for _ in range(batches):
        yield torch.randn(size, 16, generator=generator) + mean
        mean = mean + drift * torch.randn(16, generator=generator)


def learn(router, batches):
    for input in batches:
        router.observe(router(input))
        router.step()
    return router


def taken(routing):
    """(tokens, experts) bool."""
    hot = torch.zeros(*routing.marginals.shape[:-1], routing.marginals.shape[-1] + 1, dtype=torch.bool)
    return hot.scatter(-1, routing.indices.remainder(hot.shape[-1]), True)[..., :-1]


@pytest.mark.parametrize(("k", "experts", "most"), [(2, 8, 4), (1, 8, 8), (3, 5, 3), (4, 4, 4), (2, 8, 100)])
def test_the_budget_of_a_batch_is_met_exactly_by_its_best_scores(k, experts, most):
    router = make(BudgetTopK(most), k, experts)
    router.bias.copy_(torch.linspace(-1, 1, experts))
    input = 3 * torch.randn(2, 20, 16)
    input[0, 4, 1] = math.nan
    mask = torch.rand(2, 20) < 0.8
    routing = router(input, mask)
    real = mask & routing.logits.any(-1)
    assert int(routing.stats["load"].sum()) == k * int(real.sum())
    slots, scores = taken(routing), routing.logits.detach() + router.bias
    assert not bool(slots[~real].any())
    assert int(slots.sum(-1).max()) <= most
    rank = scores.argsort(descending=True, stable=True).argsort()
    rivals = scores.masked_fill((rank >= most) | ~real[..., None], -torch.inf)
    expected = torch.zeros(rivals.numel(), dtype=torch.bool)
    expected[sorted(range(rivals.numel()), key=lambda i: -float(rivals.flatten()[i]))[: k * int(real.sum())]] = True
    assert torch.equal(slots, expected.view(slots.shape))
    assert most < 4 or k == experts or slots.sum(-1)[real].unique().numel() > 2  # k varies


@pytest.mark.parametrize("training", [True, False])
def test_the_lagged_threshold_decides_for_every_token_by_itself(training):
    router = learn(make(AdaptiveTopK(4)), stream(3)).train(training)
    assert router.causal
    input = torch.randn(2, 20, 16)
    routing = router(input)
    scores = routing.logits + router.bias
    rank = scores.argsort(descending=True, stable=True).argsort()
    assert torch.equal(taken(routing), (scores > threshold(scores, 2)) & (rank < 4))
    torch.testing.assert_close(routing.marginals, (scores - threshold(scores, 2)).sigmoid())
    ranked = torch.where(routing.indices < 0, -torch.inf, scores.gather(-1, routing.indices.clamp_min(0)))
    assert torch.equal(ranked, ranked.sort(-1, descending=True).values)
    changed = router(torch.cat((input[:, :12], 5 * torch.randn(2, 8, 16)), 1))
    for field in ("indices", "weights", "marginals"):
        assert torch.equal(getattr(routing, field)[:, :12], getattr(changed, field)[:, :12])


def test_the_batch_decides_where_the_budget_is_exact_and_that_is_said():
    router = make(BudgetTopK(4)).eval()
    assert not router.causal
    input = torch.randn(40, 16)
    changed = router(torch.cat((input[:20], 5 * torch.randn(20, 16))))
    assert not torch.equal(router(input).indices[:20], changed.indices[:20])


@pytest.mark.parametrize("even", [True, False])
def test_a_lagged_threshold_holds_the_budget_up_to_the_noise_of_tokens(even):
    """Of each batch against k T, and of the threshold, which is an average of past batches with weights (1 - rate)^i."""
    router = learn(make(AdaptiveTopK(6), rate=0.5, even=even), stream(12))
    unmoved, z, factor = make(AdaptiveTopK(6)), 4.9, (1 + 0.5 / 1.5) ** 0.5  # two sides at 1e-6
    misses = []
    for input in list(stream(18))[12:]:
        routing = router(input)
        number = taken(routing).sum(-1).double()
        error = float(number.mean() / 2 - 1)
        assert abs(error) <= z * factor * float(number.std()) / (2 * len(number) ** 0.5)
        misses.append(abs(int(unmoved(input).stats["load"].sum()) / 4096 - 1))
        assert float(max_violation(routing.stats["load"])) < 0.2 or not even
        learn(router, [input])
    assert min(misses) > 0.15  # what the threshold prevents
    spread = router.bias.max() - router.bias.min()
    assert (spread > 0.5) == even


def test_it_follows_a_drift():
    router = learn(make(AdaptiveTopK(4), rate=1.0), stream(10, drift=0.05))
    for input in list(stream(16, drift=0.05))[10:]:
        assert abs(int(router(input).stats["load"].sum()) / 4096 - 1) < 0.1
        learn(router, [input])


def test_batches_of_a_step_count_as_one_and_nothing_moves_otherwise():
    whole, parts = make(AdaptiveTopK(4)), make(AdaptiveTopK(4))
    (input,) = stream(1)
    learn(whole, [input])
    for part in input.split(512):
        parts.observe(parts(part))
    parts.step()
    assert torch.equal(whole.bias, parts.bias)
    assert bool((whole.bias != 0).any())
    kept = whole.bias.clone()
    whole.step()
    learn(whole.eval(), [input])
    assert torch.equal(whole.bias, kept)
    fresh = make(AdaptiveTopK(4))
    fresh.load_state_dict(whole.state_dict())
    assert torch.equal(fresh.eval()(input).indices, whole(input).indices)


def test_padding_takes_no_slots_and_moves_nothing():
    padded, alone = make(AdaptiveTopK(4)), make(AdaptiveTopK(4))
    (input,) = stream(1, 256)
    mask = torch.arange(256) < 200
    dirty = input.masked_fill(~mask[:, None], math.nan)
    padded.observe(padded(dirty, mask))
    alone.observe(alone(input[mask]))
    padded.step()
    alone.step()
    assert torch.equal(padded.bias, alone.bias)
    assert bool((padded(dirty, mask).indices[~mask] == -1).all())


@pytest.mark.parametrize("selection", [AdaptiveTopK(4), BudgetTopK(4)], ids=repr)
def test_a_mixture_runs_and_the_gate_learns_at_k_1(selection):
    router = make(selection, k=1)
    mixture = MixtureOfExperts(16, 32, 8, router)
    output = mixture(torch.randn(3, 10, 16))
    assert output.routing.indices.shape == (3, 10, 4)
    output.output.square().sum().backward()
    assert bool(router.weight.grad.isfinite().all())
    assert bool((router.weight.grad != 0).any())


def test_every_expert_is_taken_at_k_equal_to_their_number():
    router = learn(make(AdaptiveTopK(4), 4, 4, rate=1.0), stream(12, 256))
    (input,) = stream(1, 256)
    assert int(router(input).stats["load"].sum()) > 0.98 * 4 * 256


@pytest.mark.parametrize("selection", [AdaptiveTopK, BudgetTopK])
def test_bad_parts_are_named(selection):
    with pytest.raises(ValueError, match="most must be a whole number"):
        selection(0)
    with pytest.raises(ValueError, match="most must be at least k = 3"):
        Router(4, 8, 3, gate=BudgetGate(), selection=selection(2))
    for gate in (SoftmaxGate(), SigmoidGate(False)):
        with pytest.raises(ValueError, match="gate must score by the logits"):
            Router(4, 8, 2, gate=gate, selection=selection(4))
    with pytest.raises(ValueError, match="temperature must be"):
        BudgetGate(0.0)
    with pytest.raises(ValueError, match="rate must be at most 1"):
        BudgetBalance(1.5)
