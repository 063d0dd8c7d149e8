"""Conditional Poisson sampling against its two defining properties: log-linear in the sample, and inclusion probabilities π."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

from sparsek.functional import sigmoid_topk
from sparsek.sampling import ConditionalPoisson, Pivotal
from tests.sampling import oracles

DESIGN = ConditionalPoisson()
HARD = (
    [1e-8, 0.5, 0.5 - 1e-8, 1 - 1e-6, 1e-6],
    [1 - 1e-6, 1e-6 - 1e-8, 1e-8],
    [1 - 1e-6, 1 - 1e-6, 1 - 1e-6, 3e-6],
    [1 - 1e-6, 1 - 1e-4, 0.9, 1e-6, 1e-4, 0.1],
    [0.999, 1e-6, 1e-3 - 1e-6],
    [0.0, 1.0, 0.25, 0.75, 1.0],
    [0.5] * 8,
    [1.0, 1.0],
    [0.0, 0.0],
)


def assert_maximum_entropy(probs):
    """The law of a row, whole k: it sums to 1, has inclusion probabilities π, and log P is linear in the sample."""
    samples, pmf = oracles.enumerate_pmf(DESIGN, probs)
    torch.testing.assert_close(pmf.sum(), torch.tensor(1.0, dtype=torch.float64), rtol=1e-12, atol=0)
    torch.testing.assert_close(oracles.first_order(samples, pmf), probs, rtol=1e-9, atol=1e-15)
    inside = pmf > 0
    free = samples[inside]
    fit = torch.linalg.lstsq(free, pmf[inside].log().unsqueeze(-1), driver="gelsd").solution
    torch.testing.assert_close((free @ fit).squeeze(-1), pmf[inside].log(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(DESIGN.joint(probs), oracles.second_order(samples, pmf), rtol=1e-9, atol=1e-15)


def test_law_on_hard_rows():
    for row in HARD:
        assert_maximum_entropy(torch.tensor(row, dtype=torch.float64))


@given(st.integers(2, 8), st.data(), st.integers(0, 10**6), st.floats(0.1, 6))
@settings(max_examples=25, deadline=None)
def test_law_on_random_rows(n, data, seed, spread):
    k = data.draw(st.integers(1, n - 1))
    assert_maximum_entropy(oracles.random_probs(n, k, seed, spread))


def test_entropy_is_above_every_other_design():
    probs = oracles.random_probs(8, 3, 5)
    entropies = [oracles.entropy(oracles.enumerate_pmf(d, probs)[1]) for d in (DESIGN, Pivotal())]
    assert entropies[0] > entropies[1] + 0.01


def test_real_sums():
    probs = oracles.random_probs(6, 2.3, 1)
    samples, pmf = oracles.enumerate_pmf(DESIGN, probs)
    torch.testing.assert_close(oracles.first_order(samples, pmf), probs, rtol=1e-9, atol=0)
    sizes = samples.sum(-1)
    torch.testing.assert_close(pmf[sizes == 3].sum().item(), 0.3, rtol=1e-9, atol=0)
    torch.testing.assert_close(pmf[sizes == 2].sum().item(), 0.7, rtol=1e-9, atol=0)


def test_gradients_through_the_calibration():
    logits = torch.randn(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    sample = torch.tensor([[1, 0, 1, 0, 0, 0], [0, 1, 0, 0, 1, 0]])
    for k in (2, 2.4):
        score = lambda x, k=k: DESIGN.log_prob(sigmoid_topk(x, k), sample, k=k)  # noqa: E731  # one expression per k
        assert gradcheck(score, logits)
        assert gradgradcheck(score, logits)
    long = torch.randn(80, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    taken = DESIGN.sample(sigmoid_topk(long.detach(), 5), generator=torch.Generator().manual_seed(2))
    assert gradcheck(lambda x: DESIGN.log_prob(sigmoid_topk(x, 5), taken, k=5), long, fast_mode=True)
    assert gradgradcheck(lambda x: DESIGN.log_prob(sigmoid_topk(x, 5), taken, k=5), long, fast_mode=True)


def test_score_has_mean_zero_and_bounded_variance_at_equal_scores():
    for n, k in ((8, 2), (8, 4)):
        logits = torch.zeros(n, dtype=torch.float64, requires_grad=True)
        samples = oracles.subsets(n)
        samples = samples[samples.sum(-1) == k]
        log_prob = DESIGN.log_prob(sigmoid_topk(logits, k).expand(len(samples), n), samples)
        scores = torch.stack([torch.autograd.grad(p, logits, retain_graph=True)[0] for p in log_prob])
        law = log_prob.detach().exp()
        torch.testing.assert_close(law @ scores, torch.zeros(n, dtype=torch.float64), rtol=0, atol=1e-12)
        assert (law @ scores.square()).max() <= 1


def test_certain_units_get_no_gradient_and_forbid_other_samples():
    probs = torch.tensor([1.0, 0.0, 0.25, 0.75], dtype=torch.float64, requires_grad=True)
    value = DESIGN.log_prob(probs, torch.tensor([[1, 0, 1, 0], [0, 1, 1, 0], [0, 0, 1, 1]]))
    assert value[1:].tolist() == [-torch.inf] * 2
    (gradient,) = torch.autograd.grad(value[0], probs)
    assert gradient.isfinite().all()
    assert gradient[:2].tolist() == [0, 0]


def test_frequencies():
    probs, draws = oracles.random_probs(7, 3, 4), 100_000
    pmf = oracles.enumerate_pmf(DESIGN, probs)[1]
    counts = oracles.sample_counts(DESIGN.sample(probs, (draws,), generator=torch.Generator().manual_seed(0)), 7)
    assert not oracles.misfits(counts, pmf.tolist(), draws)
    other = oracles.enumerate_pmf(Pivotal(), probs)[1]
    assert oracles.misfits(counts, other.tolist(), draws)


def test_rows_of_different_size_and_half_precision():
    logits = torch.randn(3, 40, generator=torch.Generator().manual_seed(0))
    k = torch.tensor([1.0, 20.0, 39.0])
    for dtype in (torch.float32, torch.bfloat16):
        probs = sigmoid_topk(logits, k).to(dtype)
        sample = DESIGN.sample(probs, (5,), k=k, generator=torch.Generator().manual_seed(1))
        assert sample.dtype == dtype
        assert torch.equal(sample.sum(-1).float(), k.expand(5, 3))
        assert DESIGN.log_prob(probs, sample, k=k).isfinite().all()


def test_a_hundred_thousand_units_in_float32():
    n, k = 100_000, 10_000
    logits = torch.randn(n, generator=torch.Generator().manual_seed(0))
    probs = sigmoid_topk(logits, k).requires_grad_()
    sample = DESIGN.sample(probs, generator=torch.Generator().manual_seed(1))
    assert sample.sum() == k
    log_prob = DESIGN.log_prob(probs, sample)
    (gradient,) = torch.autograd.grad(log_prob, probs)
    assert gradient.isfinite().all()
    # Conditional Poisson: log P = log-likelihood of independent picks less log P(size = k), 1/sqrt(2π Var) to O(1/Var);
    # θ is logit π to O(1/Var) for each of the n terms, which changes the entropy by O(1).
    exact = probs.detach().double()
    picks = torch.where(sample > 0, exact, 1 - exact).log().sum()
    size = 0.5 * torch.log(2 * torch.pi * (exact * (1 - exact)).sum())
    assert abs(log_prob.double() - picks - size) < 0.1
