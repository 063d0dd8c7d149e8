"""Gradients of log-probabilities and joint inclusion probabilities."""

import pytest
import torch

from sparsek.sampling import Pivotal, Poisson, Systematic
from tests.sampling import oracles

SCORED = (Pivotal(), Systematic(), Poisson())
scored = pytest.mark.parametrize("design", SCORED, ids=str)


def on_the_plane(n, k, seed):
    """Return (z, map): free numbers and a smooth map to probabilities whose sum stays k."""
    base = oracles.random_probs(n, k, seed)
    return torch.zeros(
        n - 1, dtype=torch.float64, requires_grad=True
    ), lambda z: base + torch.cat((z, -z.sum(-1, keepdim=True)))


@scored
@pytest.mark.parametrize(("n", "k"), [(5, 2), (8, 3), (7, 6)])
def test_gradient_of_log_prob_and_joint_at_whole_k(design, n, k):
    z, probs = on_the_plane(n, k, seed=n)
    samples = design.sample(probs(z), (6,), k=k, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(lambda z: design.log_prob(probs(z), samples, k=k), z)
    assert torch.autograd.gradcheck(lambda z: design.joint(probs(z), k=k), z)


@scored
def test_gradient_at_real_k_flows_through_the_phantom(design):
    probs = oracles.random_probs(6, 2.4, seed=2).requires_grad_()
    samples = design.sample(probs, (40,), generator=torch.Generator().manual_seed(0)).unique(dim=0)
    assert samples.sum(-1).unique().numel() > 1
    assert torch.autograd.gradcheck(lambda p: design.log_prob(p, samples), probs)
    assert torch.autograd.gradcheck(design.joint, probs)


@pytest.mark.parametrize("design", [Pivotal(shuffle=True), Systematic(shuffle=True)], ids=str)
def test_gradient_given_the_order(design):
    z, probs = on_the_plane(6, 3, seed=4)
    draw = design.draw(probs(z), (4,), k=3, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(lambda z: design.log_prob(probs(z), draw, k=3), z)


@scored
def test_second_derivative(design):
    z, probs = on_the_plane(5, 2, seed=5)
    sample = design.sample(probs(z), k=2, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradgradcheck(lambda z: design.log_prob(probs(z), sample, k=2), z)


@scored
def test_expected_score_is_zero_along_the_plane(design):
    """Σ_s P(s) ∂log P(s) = ∂ Σ_s P(s) = 0: a law that loses mass would show here."""
    z, probs = on_the_plane(7, 3, seed=6)
    samples = oracles.subsets(7)
    log_prob = design.log_prob(probs(z), samples, k=3)
    weight = log_prob.detach().exp()
    (score,) = torch.autograd.grad((weight * torch.where(weight > 0, log_prob, 0)).sum(), z)
    assert score.abs().max() < 1e-12


@scored
def test_impossible_samples_have_no_gradient_and_no_nan(design):
    probs = torch.tensor([0.0, 1.0, 0.5, 0.5, 0.0, 0.0, 1.0, 1.0], dtype=torch.float64, requires_grad=True)
    log_prob = design.log_prob(probs, oracles.subsets(8))
    assert (log_prob == -torch.inf).sum() >= 252
    possible = log_prob > -torch.inf
    torch.testing.assert_close(log_prob[possible].exp().sum().item(), 1.0)
    (impossible,) = torch.autograd.grad(log_prob[~possible].sum(), probs, retain_graph=True)
    assert torch.equal(impossible, torch.zeros(8, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(log_prob.sum(), probs)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("design", [Pivotal(), Poisson()], ids=str)
def test_gradient_at_a_million_units_in_float32(design):
    n, k = 1_000_000, 62_500
    x = torch.randn(n, generator=torch.Generator().manual_seed(0))
    probs = (x.exp() * (k / x.double().exp().sum().item())).clamp(max=1)
    k = probs.double().sum().item()
    probs.requires_grad_()
    draw = design.draw(probs, k=k, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad(design.log_prob(probs, draw, k=k), probs)
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0


def test_kinks_of_the_pivotal_law():
    """At 8 equal scores, k = 4, pairs sum to 1: the one-sided derivatives of a probability differ. `smooth` says so."""
    sample = torch.tensor([1.0, 0, 1, 0, 1, 0, 1, 0], dtype=torch.float64)
    step = torch.tensor([1.0, 1, -1, -1, 0, 0, 0, 0], dtype=torch.float64) * 1e-6
    centre = torch.full((8,), 0.5, dtype=torch.float64)
    here, up, down = (Pivotal().log_prob(centre + s * step, sample, k=4).exp().item() for s in (0, 1, -1))
    assert abs((up - here) - (here - down)) > 1e-2 * 1e-6
    assert not Pivotal.smooth
    assert not Systematic.smooth
