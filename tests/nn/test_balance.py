import pytest
import torch

from sparsek.functional import load_cv, max_violation
from sparsek.nn import DualBias, NoBalance, Routed, Router, SigmoidTopKGate, SoftmaxGate, SwitchLoss


def skewed_tokens(count=512):
    """Tokens with a common offset, so that without balance the same experts win for all of them."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 16, generator=generator) + 2 * torch.randn(16, generator=generator)


def trained_router(balancer, batches=1):
    torch.manual_seed(0)
    router = Router(16, 8, 2, balancer=balancer)
    for _ in range(batches):
        router.observe(router(skewed_tokens()))
        router.step()
    return router


def test_switch_loss_is_its_formula_and_one_when_even():
    balancer = SwitchLoss(coefficient=0.5)
    marginals = torch.rand(6, 4, dtype=torch.float64)
    load = torch.tensor([5, 1, 4, 2])
    shares = marginals / marginals.sum(-1, keepdim=True)
    expected = 0.5 * 4 * sum(load[e] / 12 * shares[:, e].mean() for e in range(4))
    torch.testing.assert_close(
        balancer.losses(Routed(marginals.log(), marginals, marginals, load, 2))["switch"], expected
    )
    ones = torch.ones(6, 4)
    even = SwitchLoss(1.0).losses(Routed(ones, ones, ones, torch.full((4,), 3), 2))["switch"]
    torch.testing.assert_close(even, torch.tensor(1.0))


@pytest.mark.parametrize("gate", [SoftmaxGate(), SigmoidTopKGate()])
def test_the_gradient_of_the_switch_loss_lowers_the_busiest_expert(gate):
    torch.manual_seed(0)
    router = Router(16, 8, 2, gate=gate, balancer=SwitchLoss(1.0))
    routing = router(skewed_tokens())
    (gradient,) = torch.autograd.grad(routing.losses["switch"], routing.logits)
    assert gradient.sum(0)[routing.stats["load"].argmax()] > 0


def test_switch_loss_of_no_token_is_zero():
    mask = torch.zeros(3, dtype=torch.bool)
    routing = Router(16, 8, 2, balancer=SwitchLoss(1.0))(torch.randn(3, 16), mask)
    assert routing.losses["switch"] == 0


def test_dual_bias_evens_the_load():
    unbalanced = trained_router(NoBalance())
    balanced = trained_router(DualBias(rate=0.2), batches=100)
    before, after = (r(skewed_tokens()).stats["load"] for r in (unbalanced, balanced))
    assert max_violation(before) > 1.0
    assert max_violation(after) < 0.15
    assert load_cv(after) < 0.1


def test_dual_bias_moves_against_the_load_and_keeps_mean_zero():
    bias = DualBias(rate=0.1).update(torch.zeros(4), torch.tensor([10, 0, 4, 2]))
    assert torch.equal(bias.argsort(), torch.tensor([0, 2, 3, 1]))
    assert bias.isfinite().all()
    torch.testing.assert_close(bias.mean(), torch.tensor(0.0))
    still = torch.tensor([0.3, -0.1, -0.2])
    torch.testing.assert_close(DualBias().update(still, torch.tensor([7, 7, 7])), still)
    torch.testing.assert_close(DualBias().update(still, torch.tensor([0, 0, 0])), still)


def test_the_bias_moves_in_step_alone():
    router = trained_router(DualBias(rate=0.1), batches=2)
    kept = router.bias.clone()
    routing = router(skewed_tokens())
    assert torch.equal(router.bias, kept)
    router.observe(routing)
    assert torch.equal(router.bias, kept)
    router.step()
    assert not torch.equal(router.bias, kept)
    moved = router.bias.clone()
    router.step()  # no batch since: nothing to learn from
    torch.testing.assert_close(router.bias, moved)


def test_nothing_is_observed_in_eval():
    router = trained_router(DualBias(rate=0.1)).eval()
    router.observe(router(skewed_tokens()))
    assert router.load.sum() == 0


def test_accumulated_batches_count_like_one():
    torch.manual_seed(0)
    whole, parts = (Router(16, 8, 2, balancer=DualBias(rate=0.1)) for _ in range(2))
    parts.load_state_dict(whole.state_dict())
    tokens = skewed_tokens()
    whole.observe(whole(tokens))
    for part in tokens.chunk(4):
        parts.observe(parts(part))
    whole.step()
    parts.step()
    assert torch.equal(whole.bias, parts.bias)


def test_the_bias_comes_from_earlier_batches_only():
    router = trained_router(DualBias(rate=0.5), batches=3)
    tokens = skewed_tokens(64)
    changed = torch.cat([tokens[:32], tokens[32:].flip(-1)])
    assert torch.equal(router(tokens).indices[:32], router(changed).indices[:32])


def test_the_bias_is_saved():
    router = trained_router(DualBias(rate=0.1), batches=3)
    assert router.bias.abs().max() > 0
    fresh = Router(16, 8, 2, balancer=DualBias(rate=0.1))
    fresh.load_state_dict(router.state_dict())
    assert torch.equal(fresh.bias, router.bias)
