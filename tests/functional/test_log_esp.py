"""log_esp and the conditional Poisson quantities against mpmath and enumeration."""

import itertools
import math

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, hessian, jacfwd, vmap

from sparsek.functional import (
    conditional_poisson_covariance,
    conditional_poisson_marginals,
    conditional_poisson_sample,
    log_esp,
)
from tests.sampling.oracles import misfits

INF = math.inf
# torch's own forward mode loads its decompositions with torch.jit.script
forward_mode = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")


def scores(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def exact_log_esp(logits, k):
    """The recursion e_j ← e_j + w e_{j-1} in 50 digits."""
    with mpmath.workdps(50):
        e = [mpmath.mpf(1)] + [mpmath.mpf(0)] * k
        for logit in logits.tolist():
            weight = mpmath.exp(mpmath.mpf(logit))
            for j in range(k, 0, -1):
                e[j] += weight * e[j - 1]
        return float(mpmath.log(e[k]))


def enumerated_law(logits, k):
    """All k-subsets and their probabilities."""
    n = logits.shape[-1]
    samples = torch.tensor([[float(i in c) for i in range(n)] for c in itertools.combinations(range(n), k)]).double()
    return samples, (samples @ logits).softmax(0)


@pytest.mark.parametrize(
    ("n", "k"), [(1, 1), (2, 1), (8, 3), (56, 28), (57, 56), (200, 1), (200, 100), (200, 199), (1000, 20)]
)
@pytest.mark.parametrize("scale", [0.1, 3.0, 100.0])
def test_value_to_fifty_digits(n, k, scale):
    logits = scores(n, seed=n + k, scale=scale)
    truth = exact_log_esp(logits, k)
    size = abs(truth) + logits.abs().sum().item()  # rounding of the input itself moves e_k by this times eps
    assert abs(log_esp(logits, k).item() - truth) <= 1e-14 * size
    assert abs(log_esp(logits.float(), k).item() - exact_log_esp(logits.float(), k)) <= 1e-7 * abs(truth) + 1e-30


@pytest.mark.parametrize("n", [1000, 5000])
def test_equal_logits_give_the_binomial_coefficient(n):
    for k in (1, n // 10, n // 2, n - 1):
        truth = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) + 0.3 * k
        value = log_esp(torch.full((n,), 0.3, dtype=torch.float64), k).item()
        assert abs(value - truth) <= 1e-15 * (n * math.log(n) + 0.3 * k)  # lgamma rounds values of n log n


def test_a_million_units_match_stirling_and_the_marginals_sum_to_k():
    n, k = 10**6, 12_345
    logits = scores(n).float().requires_grad_()
    (probs,) = torch.autograd.grad(log_esp(logits, k), logits)
    assert abs(probs.double().sum().item() - k) <= 1e-6 * k
    with mpmath.workdps(40):
        truth = float(mpmath.log(mpmath.binomial(n, k)))
    assert abs(log_esp(torch.zeros(n, dtype=torch.float64), k).item() - truth) <= 1e-13 * truth


@given(st.integers(1, 8), st.integers(0, 8), st.integers(0, 10**6), st.floats(0, 20))
@settings(max_examples=25, deadline=None)
def test_moments_by_enumeration(n, k, seed, scale):
    k = min(k, n)
    logits = scores(n, seed=seed, scale=scale)
    samples, law = enumerated_law(logits, k)
    probs = law @ samples
    covariance = torch.einsum("s,si,sj->ij", law, samples - probs, samples - probs)
    torch.testing.assert_close(conditional_poisson_marginals(logits, k), probs, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(conditional_poisson_covariance(logits, k), covariance, rtol=1e-10, atol=1e-14)
    assert abs(log_esp(logits, k) - (samples @ logits).logsumexp(0)) <= 1e-14 * (1 + n * scale * 8)


def test_long_rows_against_the_recursion_for_every_marginal():
    logits, k = scores(300, scale=4), 40
    probs = conditional_poisson_marginals(logits, k)
    total = exact_log_esp(logits, k)
    for i in (0, 7, 150, 299):
        others = torch.cat((logits[:i], logits[i + 1 :]))
        truth = math.exp(logits[i].item() + exact_log_esp(others, k - 1) - total)
        assert abs(probs[i].item() - truth) <= 1e-11 * truth + 1e-16


@forward_mode
def test_derivatives_of_all_outputs():
    logits = scores(2, 5, scale=2).requires_grad_()
    k = torch.tensor([2, 4])
    assert gradcheck(lambda x: log_esp(x, k), logits, check_forward_ad=True)
    assert gradgradcheck(lambda x: log_esp(x, k), logits)
    assert gradcheck(lambda x: conditional_poisson_marginals(x, k), logits, check_forward_ad=True)
    assert gradgradcheck(lambda x: conditional_poisson_marginals(x, k), logits)
    assert gradcheck(lambda x: conditional_poisson_covariance(x, k), logits)


@forward_mode
def test_transforms_agree():
    logits = scores(3, 6)
    probs, covariance = conditional_poisson_marginals(logits, 2), conditional_poisson_covariance(logits, 2)
    torch.testing.assert_close(vmap(grad(lambda x: log_esp(x, 2)))(logits), probs)
    torch.testing.assert_close(vmap(hessian(lambda x: log_esp(x, 2)))(logits), covariance)
    torch.testing.assert_close(vmap(jacfwd(lambda x: conditional_poisson_marginals(x, 2)))(logits), covariance)


# torch._dynamo instantiates a custom function to trace it, and warns of that itself
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiles_without_breaks():
    compiled = torch.compile(lambda x: log_esp(x, 2).sum(), fullgraph=True, backend="aot_eager")
    logits = scores(3, 6).requires_grad_()
    (probs,) = torch.autograd.grad(compiled(logits), logits)
    torch.testing.assert_close(probs, conditional_poisson_marginals(logits.detach(), 2))


def test_edges_and_infinities():
    logits = torch.tensor([[1.0, -INF, 2.0, 0.5, INF], [0.0, 1.0, 2.0, 3.0, 4.0], [0.0, 1.0, 2.0, 3.0, 4.0]]).double()
    logits.requires_grad_()
    value = log_esp(logits, torch.tensor([2, 0, 5]))
    assert value.tolist() == [INF, 0.0, 10.0]
    (probs,) = torch.autograd.grad(value.sum(), logits, create_graph=True)
    one_of_three = torch.tensor([1.0, 2.0, 0.5]).double().softmax(0)
    torch.testing.assert_close(probs[0, [0, 2, 3]], one_of_three)
    assert probs[0, [1, 4]].tolist() == [0, 1]
    assert probs[1].tolist() == [0] * 5
    assert probs[2].tolist() == [1] * 5
    (second,) = torch.autograd.grad(probs.square().sum(), logits)
    assert second.isfinite().all()
    crowded = conditional_poisson_marginals(torch.tensor([INF, 3.0, INF, INF]), 2)
    torch.testing.assert_close(crowded, torch.tensor([2 / 3, 0, 2 / 3, 2 / 3]))
    torch.testing.assert_close(log_esp(torch.tensor([-INF, -INF]), 0), torch.tensor(0.0))


def test_nan_stays_in_its_row_and_dim_and_dtype_are_kept():
    logits = scores(3, 4)
    broken = logits.clone()
    broken[1, 2] = math.nan
    value = log_esp(broken, 2)
    assert value.isnan().tolist() == [False, True, False]
    assert torch.equal(value[::2], log_esp(logits, 2)[::2])
    assert torch.equal(log_esp(logits.T, 2, dim=0), log_esp(logits, 2))
    assert log_esp(logits.bfloat16(), 2).dtype == torch.bfloat16


@pytest.mark.parametrize("k", [-1, 5, 1.5, math.nan, torch.tensor([1, 5, 2]), torch.tensor(1.5)])
def test_bad_k_is_refused(k):
    with pytest.raises(ValueError, match="k "):
        log_esp(torch.zeros(3, 4), k)


def test_k_above_the_units_that_count_is_refused_or_minus_infinity():
    logits = torch.tensor([0.0, -INF, 1.0])
    with pytest.raises(ValueError, match="valid units"):
        log_esp(logits, 3)
    unseen = vmap(lambda x: log_esp(x, 3))(logits[None])
    assert unseen.tolist() == [-INF]


def test_draws_follow_the_law():
    logits, k, draws = scores(7, scale=1.5), 3, 200_000
    samples, law = enumerated_law(logits, k)
    drawn = conditional_poisson_sample(logits, k, (draws,), torch.Generator().manual_seed(1))
    code = 2.0 ** torch.arange(7, dtype=torch.float64)
    counts = [(drawn @ code == c).sum().item() for c in (samples @ code).tolist()]
    assert sum(counts) == draws
    assert not misfits(counts, law.tolist(), draws)
    assert misfits(counts, (samples @ (logits + 0.05 * scores(7, seed=3))).softmax(0).tolist(), draws)


def test_draws_across_block_sizes_and_infinities():
    generator = torch.Generator().manual_seed(2)
    for n, k in ((1, 1), (33, 5), (700, 200), (1025, 1024)):
        logits = scores(2, n, scale=30)
        assert (conditional_poisson_sample(logits, k, (4,), generator).sum(-1) == k).all()
    logits = scores(500)
    logits[:100], logits[100:150] = -INF, INF
    drawn = conditional_poisson_sample(logits, 200, (300,), generator)
    assert (drawn.sum(-1) == 200).all()
    assert drawn[:, :100].sum() == 0
    assert drawn[:, 100:150].min() == 1
    probs = conditional_poisson_marginals(logits, 200)
    assert not misfits(drawn.sum(0).tolist(), probs.clamp(0, 1).tolist(), 300)
