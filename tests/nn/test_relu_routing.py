"""ReLU routing is continuous, and its penalty brings the number of experts to k."""

import math

import pytest
import torch

from sparsek.nn import AdaptiveL1, Balancers, DualBias, MixtureOfExperts, Positive, ReLUGate, Router, ZLoss

E, D = 6, 8


def make(k=2, **balance):
    torch.manual_seed(0)
    return Router(D, E, k, gate=ReLUGate(), selection=Positive(), balancer=AdaptiveL1(**balance))


def test_a_token_runs_the_experts_with_positive_scores():
    router = make()
    routing = router(torch.randn(40, D))
    for row, weights, logits in zip(routing.indices.tolist(), routing.weights, routing.logits.tolist(), strict=True):
        taken = [e for e in row if e >= 0]
        assert taken == [e for e in range(E) if logits[e] > 0]
        assert row[len(taken) :] == [-1] * (len(row) - len(taken))
        assert weights[: len(taken)].tolist() == pytest.approx([logits[e] for e in taken])
        assert (weights[len(taken) :] == 0).all()
    assert routing.stats["load"].tolist() == (routing.logits > 0).sum(0).tolist()
    assert routing.stats["unrouted"] == (routing.logits <= 0).all(-1).sum()


def test_the_mixture_is_continuous_where_an_expert_comes_in():
    mixture = MixtureOfExperts(D, 4, E, make()).double()
    input = torch.randn(1, D, dtype=torch.float64)
    direction = torch.randn(1, D, dtype=torch.float64)
    sizes = torch.linspace(-2, 2, 4001, dtype=torch.float64)[:, None]
    output, routing = mixture(input + sizes * direction)
    number = (routing.indices >= 0).sum(-1)
    assert (number.diff() != 0).sum() >= 3
    steps = output.diff(dim=0).norm(dim=-1)
    assert steps.max() < 0.01 * output.norm(dim=-1).max()


def test_the_gradient_is_exact():
    mixture = MixtureOfExperts(D, 4, E, make(initial=0.1)).double()
    input = torch.randn(5, D, dtype=torch.float64, requires_grad=True)

    def outcome(input, weight):
        routed = torch.func.functional_call(mixture, {"router.weight": weight}, (input,))
        return routed.output, routed.routing.losses["l1"]

    torch.autograd.gradcheck(outcome, (input, mixture.router.weight.detach().requires_grad_()))


@pytest.mark.parametrize("balance", [True, False])
def test_the_loss_is_its_formula(balance):
    router = make(initial=0.5, balance=balance).double()
    mask = torch.rand(30) > 0.3
    routing = router(torch.randn(30, D, dtype=torch.float64), mask)
    marginals = routing.logits[mask].clamp_min(0)
    load = (marginals > 0).sum(0)
    press = load * E / (2 * mask.sum()) if balance else torch.ones(E)
    torch.testing.assert_close(routing.losses["l1"], 0.5 * (marginals * press).sum() / mask.sum())


def test_the_coefficient_follows_the_number_of_experts():
    balancer = AdaptiveL1(factor=2.0)
    one = torch.tensor(1.0)
    for slots, moved in ((9, 2.0), (8, 1.0), (7, 0.5)):
        counts = torch.zeros(4, 2, dtype=torch.int64)
        counts[:, 0] = torch.tensor([slots, 0, 0, 0]) * 4
        counts[:, 1] = 4 * 2  # 4 tokens, k = 2
        assert balancer.adapt(one, counts) == moved
    assert balancer.adapt(one, torch.zeros(4, 2, dtype=torch.int64)) == 1
    low, high = (balancer.adapt(torch.tensor(size), slots * counts.sign()) for size, slots in ((1e-20, -1), (1e20, 1)))
    assert low.isfinite()
    assert low >= 1e-20 * 0.99
    assert high.isfinite()


def test_training_reaches_k_experts_per_token_on_average():
    mixture = MixtureOfExperts(D, 8, E, make(initial=3e-3))
    optimizer = torch.optim.Adam(mixture.parameters(), lr=0.01)
    generator = torch.Generator().manual_seed(0)
    maps, numbers = torch.randn(2, D, D, generator=generator), []
    offset = (
        torch.arange(D) > 2
    ).float()  # without one, half of the scores of a linear map are positive whatever it is
    for _ in range(100):
        input = torch.randn(128, D, generator=generator) + offset
        output, routing = mixture(input)
        error = (output - torch.where(input[:, :1] > 0, input @ maps[0], input @ maps[1])).square().mean()
        optimizer.zero_grad()
        (error + routing.losses["l1"]).backward()
        mixture.router.observe(routing)
        optimizer.step()
        mixture.router.step()
        numbers.append(routing.stats["load"].sum().item() / 128)
    assert numbers[0] > 3
    assert abs(sum(numbers[-60:]) / 60 - 2) < 0.3


def test_the_coefficient_moves_in_step_alone_and_is_saved():
    router = make()
    router.observe(router(torch.randn(50, D)))
    assert router.coefficient == torch.tensor(1e-8)
    router.step()
    assert router.coefficient == torch.tensor(1e-8) * 1.2
    router.step()
    assert router.coefficient == torch.tensor(1e-8) * 1.2
    fresh = make()
    fresh.load_state_dict(router.state_dict())
    assert fresh.coefficient == router.coefficient
    router.eval().observe(router(torch.randn(50, D)))
    router.step()
    assert router.coefficient == fresh.coefficient
    assert router.bfloat16().coefficient.dtype == torch.float32


def test_it_composes_with_a_loss_and_not_with_a_bias():
    router = make()
    router.balancer = Balancers([ZLoss(0.1), AdaptiveL1()])
    routing = router(torch.randn(20, D))
    assert set(routing.losses) == {"z", "l1"}
    router.observe(routing)
    router.step()
    assert router.coefficient > 1e-8
    with pytest.raises(ValueError, match="one at most moves a bias or a coefficient"):
        Balancers([AdaptiveL1(), DualBias()])
    with pytest.raises(ValueError, match="balancer must not move a bias under Positive"):
        Router(D, E, gate=ReLUGate(), selection=Positive(), balancer=DualBias())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: AdaptiveL1(factor=1.0), "factor must be above 1, got 1.0"),
        (lambda: AdaptiveL1(factor=math.inf), "factor must be a finite number"),
        (lambda: AdaptiveL1(initial=0.0), r"initial must lie in \[1e-20, 1e\+20\], got 0.0"),
    ],
)
def test_bad_input_is_one_clear_error(build, message):
    with pytest.raises(ValueError, match=message):
        build()
