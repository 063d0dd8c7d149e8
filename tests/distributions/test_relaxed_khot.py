"""RelaxedKHot: on the capped simplex, differentiable in everything, and its limits."""

import pytest
import torch
from torch.distributions import Independent

from sparsek.constraints import capped_simplex
from sparsek.distributions import GumbelTopK, RelaxedKHot

LOGITS = torch.tensor([[0.3, -1.2, 2.0, 0.0, 0.7], [-0.4, 1.1, 0.9, -2.0, 0.2]], dtype=torch.float64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("k", [0, 2, 2.5, 5, torch.tensor([1.0, 3.25])])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_samples_lie_on_the_capped_simplex(k, dtype):
    law = RelaxedKHot(0.7, k, LOGITS.to(dtype))
    draw = law.sample((3, 4))
    assert draw.shape == (3, 4, 2, 5)
    assert draw.dtype == dtype
    assert isinstance(law.support, capped_simplex)
    assert law.support.check(draw).all()
    assert Independent(law, 1).event_shape == (2, 5)


def test_rsample_is_differentiable_in_logits_k_and_temperature():
    def draw(temperature, k, logits):
        return RelaxedKHot(temperature, k, logits).rsample((2,), generator=seeded())

    temperature = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    k = torch.tensor([1.3, 2.6], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(draw, (temperature, k, LOGITS.clone().requires_grad_()))
    assert not RelaxedKHot(temperature, k, LOGITS).sample().requires_grad


def test_small_temperatures_draw_from_gumbel_top_k():
    draws = 20_000
    relaxed = RelaxedKHot(1e-4, 2, LOGITS[0]).sample((draws,), generator=seeded(1))
    limit = GumbelTopK(2, LOGITS[0])
    observed, expected = relaxed.round().mean(0), limit.mean
    bound = 5 * (expected * (1 - expected) / draws).sqrt()  # five units: a false alarm in 3e5
    assert ((observed - expected).abs() < bound).all()
    twin = GumbelTopK(2, 0.9 * LOGITS[0]).mean  # the sabotaged twin
    assert ((observed - twin).abs() > bound).any()


def test_large_temperatures_draw_the_constant():
    draw = RelaxedKHot(1e9, 1.5, LOGITS).sample()
    torch.testing.assert_close(draw, torch.full_like(LOGITS, 0.3), rtol=0, atol=1e-7)


def test_two_units_are_a_relaxed_bernoulli():
    """P(π₁ < x) of the relaxed Bernoulli at temperature 2τ is σ(2τ logit(x) − θ₁ + θ₂)."""
    draws, temperature, logits = 20_000, 0.4, torch.tensor([0.5, -0.2], dtype=torch.float64)
    first = RelaxedKHot(temperature, 1, logits).sample((draws,), generator=seeded(2))[:, 0]
    for x in (0.1, 0.5, 0.9):
        point = torch.logit(torch.tensor(x, dtype=torch.float64))
        expected = torch.sigmoid(2 * temperature * point - logits[0] + logits[1])
        wrong = torch.sigmoid(temperature * point - logits[0])  # the sabotaged twin
        bound = 5 * (expected * (1 - expected) / draws).sqrt()
        assert ((first < x).double().mean() - expected).abs() < bound
        assert ((first < x).double().mean() - wrong).abs() > bound


def test_infinite_logits_are_in_or_out():
    logits = torch.tensor([torch.inf, 0.0, -torch.inf, 1.0])
    draw = RelaxedKHot(0.5, 1.5, logits).sample((50,))
    assert draw[:, 0].eq(1).all()
    assert draw[:, 2].eq(0).all()


def test_expand_and_generator():
    law = RelaxedKHot(0.5, torch.tensor([1, 2]), LOGITS)
    wide = law.expand((3, 2))
    assert wide.batch_shape == (3, 2)
    assert wide.rsample((4,)).shape == (4, 3, 2, 5)
    assert torch.equal(law.sample(generator=seeded()), law.sample(generator=seeded()))
    assert repr(law) == "RelaxedKHot(temperature: 0.5, k: (2,), logits: (2, 5))"


def test_what_is_not_known_is_refused_with_a_hint():
    law = RelaxedKHot(0.5, 2, LOGITS)
    for quantity in (
        lambda: law.log_prob(LOGITS),
        lambda: law.mean,
        lambda: law.variance,
        lambda: law.mode,
        law.entropy,
        law.enumerate_support,
    ):
        with pytest.raises(NotImplementedError, match="RelaxedKHot"):
            quantity()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0, 2, LOGITS), "temperature"),
        ((-1.0, 2, LOGITS), "temperature"),
        ((1.0, 6, LOGITS), "k must"),
        ((1.0, -0.5, LOGITS), "k must"),
        ((1.0, torch.ones(3), LOGITS), "broadcast"),
        ((1.0, 1, LOGITS.long()), "floating-point"),
        ((1.0, 1, LOGITS * float("nan")), "logits"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RelaxedKHot(*arguments)
