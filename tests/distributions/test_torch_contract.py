"""One contract of torch.distributions, looped over all distributions on k-hot vectors."""

import itertools

import pytest
import torch
from torch.distributions import Distribution, Independent, kl_divergence

from tests.distributions.cases import CASES, INFINITE, LOGITS, PROBS

EVERY = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
OTHERS = [case for case in CASES if case.name in ("KHot-Pivotal-whole", "ConditionalPoisson", "GumbelTopK")]
CORNERS = torch.tensor(list(itertools.product([0.0, 1.0], repeat=5)), dtype=torch.float64)


def exact_table(law: Distribution) -> tuple[torch.Tensor, torch.Tensor]:
    """All 32 vectors, (32, 1, 5), and their probabilities, (32, 2), those outside the support included."""
    law = law.expand(law.batch_shape)
    law._validate_args = False
    return CORNERS.unsqueeze(1), law.log_prob(CORNERS.unsqueeze(1)).exp()


@EVERY
def test_shapes(case):
    law = case.build(case.parameter)
    assert law.batch_shape == (2,)
    assert law.event_shape == (5,)
    for shape in [(), (3,), (4, 3)]:
        draw = law.sample(shape)
        assert draw.shape == (*shape, 2, 5)
        assert draw.dtype == case.parameter.dtype
        assert law.support.check(draw).all()
        assert law.log_prob(draw).shape == (*shape, 2)
        assert law.log_prob(draw).isfinite().all()
    assert law.mean.shape == law.variance.shape == law.mode.shape == (2, 5)
    assert law.covariance.shape == (2, 5, 5)
    assert law.entropy().shape == (2,)
    assert law.support.event_dim == type(law).support.event_dim == 1


@EVERY
def test_expand_is_the_same_law(case):
    law = case.build(case.parameter)
    wide = law.expand((3, 2))
    assert type(wide) is type(law)
    assert wide.batch_shape == (3, 2)
    assert wide.sample((4,)).shape == (4, 3, 2, 5)
    draw = law.sample()
    torch.testing.assert_close(wide.log_prob(draw), law.log_prob(draw).expand(3, 2), rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(wide.mean, law.mean.expand(3, 2, 5), rtol=0, atol=1e-14)
    torch.testing.assert_close(wide.entropy(), law.entropy().expand(3, 2), rtol=0, atol=1e-14)


@EVERY
def test_log_prob_sums_to_one_and_is_zero_outside_the_support(case):
    law = case.build(case.parameter)
    vectors, table = exact_table(law)
    assert not table[~law.support.check(vectors.expand(-1, 2, -1))].any()
    torch.testing.assert_close(table.sum(0), torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-12)
    outside = torch.full((2, 5), 0.5, dtype=torch.float64)
    with pytest.raises(ValueError, match="within the support"):
        law.log_prob(outside)


@EVERY
def test_enumerate_support_lists_every_vector_once(case):
    law = case.build(case.parameter)
    if "rows" in case.name:
        with pytest.raises(NotImplementedError, match="different k"):
            law.enumerate_support()
        return
    values = law.enumerate_support()
    allowed = CORNERS[law.support.check(CORNERS.unsqueeze(1).expand(-1, 2, -1))[:, 0]]
    assert values.shape == (len(allowed), 2, 5)
    assert values.dtype == case.parameter.dtype
    assert sorted(values[:, 1].tolist()) == sorted(allowed.tolist())
    narrow = law.enumerate_support(expand=False)
    assert narrow.shape == (len(allowed), 1, 5)
    assert torch.equal(narrow.expand_as(values), values)


@EVERY
def test_moments_and_mode_are_those_of_the_table(case):
    law = case.build(case.parameter)
    vectors, table = exact_table(law)
    mean = (table.unsqueeze(-1) * vectors).sum(0)
    joint = torch.einsum("mr,mi,mj->rij", table, CORNERS, CORNERS)
    near = {"rtol": 0, "atol": 1e-11}
    torch.testing.assert_close(law.mean, mean, **near)
    torch.testing.assert_close(law.variance, mean * (1 - mean), **near)
    torch.testing.assert_close(law.covariance, joint - mean.unsqueeze(-1) * mean.unsqueeze(-2), **near)
    best = law.expand((2,)).log_prob(law.mode).exp()
    torch.testing.assert_close(best, table.amax(0), **near)


@EVERY
def test_entropy_is_that_of_the_table(case):
    law = case.build(case.parameter)
    _, table = exact_table(law)
    torch.testing.assert_close(law.entropy(), torch.special.entr(table).sum(0), rtol=0, atol=1e-11)
    torch.testing.assert_close(law.perplexity(), law.entropy().exp())


@EVERY
def test_log_prob_mean_and_entropy_have_their_gradient(case):
    draw = case.build(case.parameter).sample(generator=torch.Generator().manual_seed(0))

    def along(shift):
        # Probabilities move along the capped simplex, since their sum is the size; infinite logits stay.
        law = case.build(case.parameter + shift - shift.mean(-1, keepdim=True))
        return law.log_prob(draw), law.mean, law.entropy()

    assert torch.autograd.gradcheck(
        along, torch.zeros_like(case.parameter).requires_grad_(), atol=1e-6, fast_mode=True, check_undefined_grad=False
    )


@EVERY
def test_kl_is_that_of_the_tables_and_zero_to_itself(case):
    law = case.build(case.parameter)
    torch.testing.assert_close(kl_divergence(law, law), torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-12)
    _, p = exact_table(law)
    for other in (case, *OTHERS):
        law_q = other.build(other.parameter.roll(1, 0) if "real" in other.name else other.parameter.flip(-1))
        _, q = exact_table(law_q)
        terms = torch.where(p > 0, p * (p.log() - q.log()), 0.0)
        torch.testing.assert_close(kl_divergence(law, law_q), terms.sum(0), rtol=1e-10, atol=1e-11)


@EVERY
def test_kl_to_more_rows_broadcasts(case):
    law, wide = case.build(case.parameter), case.build(case.parameter).expand((3, 2))
    assert kl_divergence(law, wide).shape == kl_divergence(wide, law).shape == (3, 2)


@EVERY
def test_independent_reads_rows_as_one_event(case):
    law = case.build(case.parameter)
    event = Independent(law, 1)
    draw = event.sample((3,))
    assert event.event_shape == (2, 5)
    assert torch.equal(event.log_prob(draw), law.log_prob(draw).sum(-1))
    assert torch.equal(event.entropy(), law.entropy().sum(-1))


@EVERY
def test_a_generator_repeats_the_draw_and_leaves_the_global_one(case):
    law = case.build(case.parameter)
    state = torch.get_rng_state()
    first, second = (law.sample((20,), generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)


@EVERY
def test_samples_carry_no_gradient_and_straight_through_carries_that_of_the_mean(case):
    parameter = case.parameter.clone().requires_grad_()
    law = case.build(parameter)
    assert not law.sample().requires_grad
    assert law.has_rsample == ("StraightThrough" in case.name)
    if law.has_rsample:
        weight = torch.linspace(-1, 1, 10, dtype=torch.float64).view(2, 5)
        draw = law.rsample((3,))
        assert law.support.check(draw.detach().round()).all()
        torch.testing.assert_close(draw.detach(), draw.detach().round(), rtol=0, atol=1e-15)
        (got,) = torch.autograd.grad((weight * draw).sum(), parameter)
        (expected,) = torch.autograd.grad(3 * (weight * law.mean).sum(), parameter)
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@EVERY
def test_lower_precision_in_lower_precision_out(case, dtype):
    eps = torch.finfo(dtype).eps
    if dtype == torch.bfloat16 and case.name.startswith("KHot"):
        exact = torch.tensor(
            [[0.375, 0.125, 0.75, 0.25, 0.5], [0.625, 0.25, 0.1875, 0.5625, 0.375]], dtype=torch.float64
        )
        law, double = case.build(exact.to(dtype)), case.build(exact)
    else:
        law, double = case.build(case.parameter.to(dtype)), case.build(case.parameter.to(dtype).double())
    draw = law.sample((2,))
    assert draw.dtype == law.mean.dtype == law.entropy().dtype == law.log_prob(draw).dtype == dtype
    torch.testing.assert_close(law.log_prob(draw).double(), double.log_prob(draw.double()), rtol=4 * eps, atol=eps)
    torch.testing.assert_close(law.mean.double(), double.mean, rtol=4 * eps, atol=eps)


@pytest.mark.parametrize("case", [case for case in CASES if "rows" not in case.name], ids=lambda case: case.name)
def test_vmap_over_rows_is_the_batch(case):
    law = case.build(case.parameter)
    draw = law.sample()
    Distribution.set_default_validate_args(False)
    try:
        rows = torch.func.vmap(lambda parameter, value: case.build(parameter).log_prob(value))(case.parameter, draw)
    finally:
        Distribution.set_default_validate_args(True)
    torch.testing.assert_close(rows, law.log_prob(draw), rtol=1e-12, atol=1e-13)


@EVERY
def test_the_name_is_shown(case):
    law = case.build(case.parameter)
    assert repr(law).startswith(type(law).__name__ + "(")
    assert "(2, 5)" in repr(law)


def test_inputs_stay_as_they_were():
    for case in CASES:
        before = case.parameter.clone()
        law = case.build(case.parameter)
        law.sample(), law.log_prob(law.sample()), law.mean, law.entropy(), law.mode
        assert torch.equal(case.parameter, before)
    assert LOGITS.isfinite().all()
    assert PROBS.isfinite().all()
    assert not INFINITE.isfinite().all()
