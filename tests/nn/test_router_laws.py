"""Laws that every combination of a router's parts obeys."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsek.functional import max_violation
from sparsek.nn import (
    AdaptiveL1,
    AdaptiveTopK,
    Balancers,
    BudgetGate,
    BudgetTopK,
    ConditionalPoissonGate,
    DefaultVector,
    DenseStraightThrough,
    DependentRounding,
    DoublyCappedGate,
    DoublyRobust,
    DualBias,
    ExpertChoice,
    HardTopK,
    HorvitzThompson,
    MixtureOfExperts,
    MoETransformer,
    NoBalance,
    Positive,
    QuantileBalance,
    ReLUGate,
    Routed,
    Router,
    Sampled,
    SampledNatural,
    SecondOrder,
    SigmoidGate,
    SigmoidTopKGate,
    SignBias,
    SoftmaxGate,
    SparseMixer,
    SuccessiveSoftmax,
    SwitchLoss,
    ZLoss,
)
from sparsek.sampling import ConditionalPoisson, Pivotal, Systematic

BALANCERS = [
    NoBalance(),
    DualBias(0.1),
    SignBias(0.1),
    QuantileBalance(),
    SwitchLoss(),
    ZLoss(),
    Balancers([QuantileBalance(), SwitchLoss(), ZLoss()]),
]
HARD = [
    {"gate": gate, "gradient": gradient}
    for gate in (SigmoidTopKGate(), SoftmaxGate(), SigmoidGate())
    for gradient in (None, DenseStraightThrough(), DefaultVector())
]
SAMPLED = [
    *({"selection": Sampled(design)} for design in (Pivotal(), Systematic(), ConditionalPoisson())),
    *({"selection": Sampled(), "gradient": gradient} for gradient in (HorvitzThompson(), DoublyRobust())),
    {"selection": Sampled(ConditionalPoisson()), "gradient": SecondOrder()},
    {"gate": ConditionalPoissonGate(), "selection": SampledNatural(), "gradient": SecondOrder()},
    {"gate": SoftmaxGate(False), "selection": SuccessiveSoftmax(), "gradient": SparseMixer()},
]
RELU = {"gate": ReLUGate(), "selection": Positive()}
ADAPTIVE = {"gate": BudgetGate(), "selection": AdaptiveTopK(4)}
CAUSAL = [*HARD, *SAMPLED, RELU, ADAPTIVE]
ALL = [
    *CAUSAL,
    {"selection": BudgetTopK(4), "gate": BudgetGate()},
    {"selection": DependentRounding(), "gate": DoublyCappedGate()},
    {"selection": ExpertChoice(), "gate": SoftmaxGate(False)},
]


def name(parts):
    return "-".join(type(part).__name__ for part in parts.values())


def make(k=2, experts=8, **parts):
    torch.manual_seed(0)
    router = Router(16, experts, k, balancer=QuantileBalance() if "selection" not in parts else None, **parts)
    router.bias.copy_(torch.linspace(-0.5, 0.5, experts))
    return router


def draw(router, input, mask=None):
    return router(input, mask, torch.Generator().manual_seed(7))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("parts", CAUSAL, ids=name)
def test_the_future_changes_no_bit_of_the_past(parts, training):
    router = make(**parts).train(training)
    assert router.causal
    input = torch.randn(2, 20, 16)
    changed = torch.cat([input[:, :12], 5 * torch.randn(2, 8, 16)], 1)
    before, after = draw(router, input), draw(router, changed)
    for field in ("marginals", "logits"):
        assert torch.equal(getattr(before, field)[:, :12], getattr(after, field)[:, :12])
    for one, other in zip(by_expert(before), by_expert(after), strict=True):
        assert torch.equal(one[:, :12], other[:, :12])
    assert not torch.equal(by_expert(before)[0][:, 12:], by_expert(after)[0][:, 12:])


def by_expert(routing):
    """Which experts run, and their weights, (..., 8): also if the number of slots varies."""
    place = routing.indices % 9  # −1 goes to a last column, which is cut off
    empty = torch.zeros(*place.shape[:-1], 9)
    taken = empty.scatter_add(-1, place, torch.ones_like(routing.weights))
    return taken[..., :8], empty.scatter_add(-1, place, routing.weights)[..., :8]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("parts", CAUSAL, ids=name)
def test_the_future_changes_no_bit_of_what_a_transformer_says_of_the_past(parts, training):
    torch.manual_seed(0)
    network = MoETransformer(16, 2, 2, 8, 4, lambda d, e: Router(d, e, 2, **parts)).train(training)
    tokens = torch.randint(0, 256, (2, 20))
    changed = torch.cat([tokens[:, :12], torch.randint(0, 256, (2, 8))], 1)
    one, other = (network(x, generator=torch.Generator().manual_seed(7)).logits for x in (tokens, changed))
    assert torch.equal(one[:, :12], other[:, :12])
    assert not torch.equal(one[:, 12:], other[:, 12:])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("parts", ALL, ids=name)
def test_the_backward_pass_is_linear_in_what_comes_from_above(parts, training):
    torch.manual_seed(0)
    mixture = MixtureOfExperts(16, 8, 8, Router(16, 8, 2, **parts)).double().train(training)
    input = torch.randn(10, 16, dtype=torch.float64, requires_grad=True)
    output = mixture(input, None, torch.Generator().manual_seed(7)).output
    above = torch.randn(2, 10, 16, dtype=torch.float64)
    leaves = (input, *mixture.parameters())
    one, other, both = (
        torch.autograd.grad(output, leaves, g, retain_graph=True, allow_unused=True)
        for g in (above[0], above[1], 2 * above[0] - 3 * above[1])
    )
    for a, b, c in zip(one, other, both, strict=True):
        torch.testing.assert_close(c, 2 * a - 3 * b, rtol=0, atol=1e-10)


def test_expert_choice_is_not_causal_and_says_so():
    router = make(selection=ExpertChoice(), gate=SoftmaxGate(False))
    assert not router.causal
    input = torch.randn(20, 16)
    changed = torch.cat([input[:12], 5 * torch.randn(8, 16)])
    before, after = router(input).indices, router(changed).indices
    width = min(before.shape[-1], after.shape[-1])
    assert not torch.equal(before[:12, :width], after[:12, :width])


@pytest.mark.parametrize("parts", [*HARD, SAMPLED[0], SAMPLED[-1], RELU, ALL[-1]], ids=name)
def test_renaming_the_experts_renames_the_choice(parts):
    router = make(**parts).eval()
    order = torch.randperm(8)
    renamed = make(**parts).eval()
    with torch.no_grad():
        renamed.weight.copy_(router.weight[order])
        renamed.bias.copy_(router.bias[order])
    input = torch.randn(30, 16)
    one, other = router(input), renamed(input)

    def dense(routing, names):
        table = torch.zeros(30, 9).scatter_add(1, names[routing.indices], routing.weights)
        return table[:, :8]  # the last column is the slots without an expert

    names, identity = torch.cat([order, torch.tensor([8])]), torch.arange(9)
    torch.testing.assert_close(dense(one, identity), dense(other, names), rtol=0, atol=1e-6)
    torch.testing.assert_close(one.stats["load"][order], other.stats["load"])


@pytest.mark.parametrize("parts", ALL, ids=name)
def test_evaluation_is_deterministic_and_ignores_the_generator(parts):
    router = make(**parts).eval()
    input = torch.randn(30, 16)
    first = router(input, None, torch.Generator().manual_seed(1))
    torch.manual_seed(5)
    again = router(input, None, torch.Generator().manual_seed(2))
    assert torch.equal(first.indices, again.indices)
    assert torch.equal(first.weights, again.weights)


@pytest.mark.parametrize("parts", ALL, ids=name)
def test_spoilt_tokens_leave_the_outputs_of_the_others_as_they_are_to_the_bit(parts):
    torch.manual_seed(0)
    mixture = MixtureOfExperts(16, 8, 8, Router(16, 8, 2, **parts))
    input = torch.randn(10, 16)
    spoilt = input.index_fill(0, torch.tensor([4]), math.nan)
    mask = torch.arange(10) != 4
    clean, other = (mixture(x, m, torch.Generator().manual_seed(7)).output for x, m in ((input, mask), (spoilt, None)))
    assert torch.equal(clean, other)
    assert (other[4] == 0).all()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("parts", ALL, ids=name)
def test_a_spoilt_token_is_reported_and_touches_no_other(parts, value):
    parts = {"balancer": Balancers([SwitchLoss(), ZLoss()])} | parts
    torch.manual_seed(0)
    router = Router(16, 8, 2, **parts)
    input = torch.randn(10, 16)
    spoilt = input.clone()
    spoilt[4, 3] = value
    mask = torch.arange(10) != 4
    clean, other = draw(router, input, mask), draw(router, spoilt)
    assert (other.stats["invalid"], other.stats["unrouted"]) == (1, 1 + clean.stats["unrouted"])
    assert clean.stats["invalid"] == 0
    assert (other.indices[4] == -1).all()
    assert (other.weights[4] == 0).all()
    for field in ("indices", "weights", "logits"):
        assert torch.equal(getattr(clean, field), getattr(other, field))
    assert torch.equal(clean.stats["load"], other.stats["load"])
    slopes = []
    for routing in (clean, other):
        objective = routing.weights.square().sum() + routing.marginals[mask].square().sum()
        slopes.append(torch.autograd.grad(objective + sum(routing.losses.values()), router.weight)[0])
    assert slopes[0].isfinite().all()
    torch.testing.assert_close(slopes[0], slopes[1])


@pytest.mark.parametrize("parts", ALL, ids=name)
def test_no_real_token_at_all(parts):
    router = make(**parts)
    kept = router.bias.clone()
    routing = draw(router, torch.randn(5, 16), torch.zeros(5, dtype=torch.bool))
    assert (routing.indices == -1).all()
    assert routing.stats["load"].sum() == routing.stats["unrouted"] == 0
    router.observe(routing)
    router.step()
    assert torch.equal(router.bias, kept)
    assert draw(router, torch.randn(0, 16)).indices.shape[0] == 0


@pytest.mark.parametrize("balancer", [*BALANCERS, AdaptiveL1(initial=1.0)], ids=lambda b: type(b).__name__)
def test_a_mask_that_hides_every_token_makes_losses_of_0_and_moves_nothing(balancer):
    torch.manual_seed(0)
    router = Router(16, 8, 2, balancer=balancer)
    kept = {name: value.clone() for name, value in router.state_dict().items()}
    routing = router(torch.full((5, 16), math.nan), torch.zeros(5, dtype=torch.bool))
    total = sum(routing.losses.values(), torch.zeros(())) + routing.weights.sum()
    assert total == 0
    assert (torch.autograd.grad(total, router.weight, allow_unused=True)[0] == 0).all()
    router.observe(routing)
    router.step()
    assert all(torch.equal(value, kept[name]) for name, value in router.state_dict().items())


@settings(max_examples=25, deadline=None)
@given(tokens=st.integers(1, 12), experts=st.integers(1, 6), data=st.data())
def test_expert_choice_is_each_expert_taking_its_best_tokens(tokens, experts, data):
    k = data.draw(st.integers(1, experts))
    mask = torch.tensor(data.draw(st.lists(st.booleans(), min_size=tokens, max_size=tokens)))
    router = make(k, experts, selection=ExpertChoice(), gate=SoftmaxGate(False))
    routing = router(torch.randn(tokens, 16), mask)
    real = mask.nonzero().flatten().tolist()
    capacity = min(-(-len(real) * k // experts), len(real))
    taken = {(t, e) for t, row in enumerate(routing.indices.tolist()) for e in row if e >= 0}
    for e in range(experts):
        best = sorted(real, key=lambda t: -routing.marginals[t, e].item())[:capacity]
        assert {t for t, expert in taken if expert == e} == set(best)
    assert (routing.stats["load"] == capacity).all()
    for t, row in enumerate(routing.indices.tolist()):
        weights = [routing.marginals[t, e].item() if e >= 0 else 0.0 for e in row]
        assert routing.weights[t].tolist() == weights


def test_a_mixture_computes_what_experts_chose():
    mixture = MixtureOfExperts(16, 8, 8, make(selection=ExpertChoice(), gate=SoftmaxGate(False))).double()
    input = torch.randn(12, 16, dtype=torch.float64)
    output, routing = mixture(input)
    hidden = mixture.experts.activation(torch.einsum("td,edh->teh", input, mixture.experts.up))
    outputs = torch.einsum("teh,ehd->ted", hidden, mixture.experts.down)
    weights = torch.zeros(12, 9, dtype=torch.float64).scatter_add(1, routing.indices % 9, routing.weights)[:, :8]
    torch.testing.assert_close(output, torch.einsum("te,ted->td", weights, outputs))


@pytest.mark.parametrize("balancer", BALANCERS, ids=lambda b: type(b).__name__)
def test_every_layer_has_losses_of_its_own(balancer):
    torch.manual_seed(0)
    network = MoETransformer(16, 3, 2, 8, 4, lambda d, e: Router(d, e, 2, balancer=balancer))
    routings = network(torch.randint(0, 256, (2, 12))).routings
    names = {"SwitchLoss": {"switch"}, "ZLoss": {"z"}, "Balancers": {"switch", "z"}}.get(type(balancer).__name__, set())
    assert [set(routing.losses) for routing in routings] == [names] * 3
    for layer, routing in enumerate(routings):
        for loss in routing.losses.values():
            slopes = torch.autograd.grad(
                loss, [router.weight for router in network.routers], retain_graph=True, allow_unused=True
            )
            assert slopes[layer].norm() > 0
            assert all(slope is None for slope in slopes[layer + 1 :])


@pytest.mark.parametrize("balancer", BALANCERS, ids=lambda b: type(b).__name__)
def test_accumulated_batches_and_padding_move_the_bias_like_one_batch(balancer):
    torch.manual_seed(0)
    whole, parts = (Router(16, 8, 2, balancer=balancer) for _ in range(2))
    parts.load_state_dict(whole.state_dict())
    mask = torch.rand(64) > 0.3
    for _ in range(3):
        tokens = torch.randn(64, 16) + 1
        whole.observe(whole(tokens[mask]))
        for part, kept in zip(tokens.chunk(4), mask.chunk(4), strict=True):
            parts.observe(parts(part, kept))
        whole.step()
        parts.step()
    torch.testing.assert_close(whole.bias, parts.bias, rtol=0, atol=0)
    assert abs(whole.bias.mean()) < 1e-6
    assert (whole.bias.abs().max() > 0) == balancer.moves_bias


def test_the_bias_stays_in_float32_and_moves_by_steps_that_bfloat16_would_lose():
    router = Router(16, 4, 1, balancer=SignBias(1e-3)).bfloat16()
    assert router.bias.dtype == torch.float32
    assert router.weight.dtype == torch.bfloat16
    router.bias.copy_(torch.tensor([1.0, -1.0, 0.0, 0.0]))
    router.observe(router(torch.randn(50, 16, dtype=torch.bfloat16)))
    before = router.bias.clone()
    router.step()
    assert not torch.equal(router.bias, before)
    assert not torch.equal(before.bfloat16() + 1e-3, before.bfloat16() + 0)  # 0 moves
    assert (before.bfloat16() + 1e-3)[0] == 1  # but 1 would not


def test_a_checkpoint_of_another_number_of_experts_is_refused():
    small = MixtureOfExperts(16, 8, 4, Router(16, 4, 2))
    large = MixtureOfExperts(16, 8, 8, Router(16, 8, 2))
    with pytest.raises(ValueError, match=r"router of 8 experts at 'router.weight', got 4"):
        large.load_state_dict(small.state_dict())


def skewed(generator):
    return torch.randn(2048, 16, generator=generator)


@pytest.mark.parametrize(
    ("gate", "scale"),
    [*((SigmoidTopKGate(), scale) for scale in (0.01, 1.0, 100.0)), (SigmoidGate(), 0.01), (SigmoidGate(), 1.0)],
    ids=str,
)
def test_quantile_balance_needs_no_rate_for_the_scale_of_the_logits(gate, scale):
    # 2048 · 2 / 8 = 512 tokens per expert: a share of Binomial noise, 1/sqrt(512) = 4.4 %; z = 4.4 for the largest of 8
    # at a false-alarm rate of 1e-4 gives 0.19 on a fresh batch
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    router = Router(16, 8, 2, gate=gate, balancer=QuantileBalance())
    offset = 2 * torch.randn(16, generator=generator)
    with torch.no_grad():
        router.weight.mul_(scale)
    before = max_violation(router(skewed(generator) + offset).stats["load"])
    for _ in range(12):
        router.observe(router(skewed(generator) + offset))
        router.step()
    after = max_violation(router(skewed(generator) + offset).stats["load"])
    assert before > 1
    assert after < 0.19


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), experts=st.integers(2, 6), data=st.data())
def test_one_full_quantile_step_of_one_expert_gives_it_its_share(seed, experts, data):
    k = data.draw(st.integers(1, experts - 1))
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(200, experts, generator=generator) + torch.randn(experts, generator=generator)
    balancer = QuantileBalance(1.0)
    moved = balancer.update(torch.zeros(experts), balancer.measure(routed(scores, k)))
    for e in range(experts):
        # the mean was taken off all biases: only differences count, so move expert e by its own step, seen from expert 0
        step = excess(balancer.measure(routed(scores, k)))[e]
        alone = scores.clone()
        alone[:, e] -= step
        number = (alone.topk(k).indices == e).sum().item()
        # bins are 21 % wide: between the counts at 1.22 times less and more of the step
        low, high = sorted(
            ((scores[:, e] - f * step)[:, None] > others(scores, e, k)[:, None]).sum().item() for f in (1 / 1.22, 1.22)
        )
        assert min(low, number) <= 200 * k / experts + 1
        assert max(high, number) >= 200 * k / experts - 1
        assert low <= number <= high
    assert abs(moved.mean()) < 1e-6


def routed(scores, k):
    return Routed(scores, scores, scores, torch.zeros(scores.shape[-1], dtype=torch.int64), k)


def excess(counts):
    from sparsek.nn._quantile import excess_margin  # noqa: PLC0415 - the step before it is centred

    return excess_margin(counts)


def others(scores, expert, k):
    """The k-th largest score of the other experts: what this one has to beat."""
    rest = scores.clone()
    rest[:, expert] = -torch.inf
    return rest.topk(k).values[:, -1]


def test_balanced_counts_leave_the_bias_alone():
    bias = torch.tensor([0.5, -0.25, -0.25])
    torch.testing.assert_close(SignBias(0.1).update(bias, torch.tensor([7, 7, 7])), bias)
    scores = torch.eye(3).repeat(4, 1)  # every expert wins four tokens
    counts = QuantileBalance().measure(routed(scores, 1))
    assert counts.sum() == 36
    torch.testing.assert_close(QuantileBalance().update(bias, counts), bias)
    everything = QuantileBalance().measure(routed(scores, 3))
    torch.testing.assert_close(QuantileBalance().update(bias, everything), bias)


def test_z_loss_is_its_formula():
    logits = torch.randn(6, 4, dtype=torch.float64)
    mask = torch.tensor([True, True, False, True, True, False])
    term = ZLoss(0.5).losses(Routed(logits, logits.softmax(-1), logits, torch.zeros(4), 2, mask))["z"]
    torch.testing.assert_close(term, 0.5 * logits[mask].exp().sum(-1).log().square().mean())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Balancers([]), "parts must be balancers of different classes"),
        (
            lambda: Balancers([DualBias(), SignBias()]),
            r"one at most moves a bias or a coefficient, got \['DualBias', 'SignBias'\]",
        ),
        (lambda: Balancers([ZLoss(), ZLoss(0.1)]), "parts must be balancers of different classes"),
        (lambda: ZLoss(-1.0), "coefficient must be finite and >= 0, got -1.0"),
        (lambda: SignBias(0.0), "rate must be a finite number > 0"),
        (lambda: QuantileBalance(1.5), "rate must be at most 1, got 1.5"),
        (lambda: ExpertChoice(0.0), "factor must be a finite number > 0"),
        (lambda: SigmoidGate(scale=0.0), "scale must be a finite number > 0"),
        (lambda: Router(8, 4, 1, gate=SigmoidGate()), "normalise must be False at k = 1"),
        (lambda: Router(8, 4, selection=ExpertChoice(), gate=SoftmaxGate()), "normalise = False under expert choice"),
        (
            lambda: Router(8, 4, selection=ExpertChoice(), balancer=DualBias()),
            "balancer must not move a bias under ExpertChoice",
        ),
        (lambda: Router(8, 4, selection=Sampled(), gate=SigmoidGate()), "inclusion probabilities that sum to k = 2"),
    ],
)
def test_bad_input_is_one_clear_error(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_selections_agree_with_hard_top_k_in_evaluation():
    input = torch.randn(30, 16)
    hard, drawn = (make(selection=s).eval() for s in (HardTopK(), Sampled()))
    assert torch.equal(hard(input).indices, drawn(input).indices)
