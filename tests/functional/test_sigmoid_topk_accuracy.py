"""Sigmoid top-k against float64 and mpmath references: sums, every element, log-odds, and the number of passes."""

import math

import pytest
import scipy.optimize
import torch
from sigmoid_oracle import KINDS, exact, reference, scores

from sparsek.functional import MAX_PASSES, sigmoid_topk
from sparsek.functional import _saturated as saturated_stage
from sparsek.functional import _threshold as plain_stage

pytestmark = pytest.mark.usefixtures("execution")

SIZES = [1, 2, 3, 8, 64, 1000, 5000, 30_000]


def errors(probs, expected, x, k, temperature):
    """Error of the sum over max(k, 1); elementwise |π − π*| − 1e-10 over π*; spread of logit π − x/T inside (1e-3, 1 − 1e-3)."""
    probs, x = probs.double(), x.double()
    total = abs(probs.sum().item() - k) / max(k, 1)
    element = ((probs - expected).abs() - 1e-10).clamp_min(0).div(expected.clamp_min(1e-300)).max().item()
    inside = (expected > 1e-3) & (expected < 1 - 1e-3)
    spread = 0.0
    if int(inside.sum()) > 1:
        shift = torch.logit(probs[inside]) - (x[inside] - x[inside][0]) / temperature
        spread = (shift.max() - shift.min()).item() / 2
    return total, element, spread


def budgets(n):
    return sorted(k for k in {0.001, 0.5, 1, 1.5, n // 3, n / 2, min(10, n / 2), n - 1, n - 0.001} if 0 < k < n)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", SIZES)
def test_float32_is_the_float64_solution_of_the_same_tensor(kind, n):
    x, temperature = scores(kind, n, seed=n)
    for k in budgets(n):
        probs = sigmoid_topk(x, k, temperature=temperature)
        total, element, spread = errors(probs, reference(x, k, temperature), x, k, temperature)
        assert total <= 5e-7, (k, total)
        assert element <= 2e-5, (k, element)
        assert spread <= 1e-4, (k, spread)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_a_batch_are_as_accurate_as_one_row(kind):
    x, temperature = scores(kind, 6 * 257, seed=5)
    x = x.view(6, 257)
    k = torch.tensor([0.001, 1.0, 2.5, 85.0, 200.0, 256.9], dtype=torch.float64)
    probs = sigmoid_topk(x, k, temperature=temperature)
    for row in range(6):
        expected = reference(x[row], k[row].item(), temperature)
        total, element, spread = errors(probs[row], expected, x[row], k[row].item(), temperature)
        assert total <= 5e-7, (row, total)
        assert element <= 2e-5, (row, element)
        assert spread <= 1e-4, (row, spread)


MILLIONS = [("all equal", 1), ("normal", 1000.5), ("plus 1e6", 1_150_000)]
MORE_MILLIONS = [(kind, k) for kind in KINDS for k in (0.001, 1, 1000.5, 1_150_000, 2_299_999.999)]


@pytest.mark.parametrize(("kind", "k"), [*MILLIONS, *(pytest.param(*c, marks=pytest.mark.slow) for c in MORE_MILLIONS)])
def test_at_2_3_million_units(kind, k):
    x, temperature = scores(kind, 2_300_000)
    probs = sigmoid_topk(x, k, temperature=temperature)
    total, element, spread = errors(probs, fast_reference(x, k, temperature), x, k, temperature)
    assert total <= 5e-7
    assert element <= 2e-5
    assert spread <= 1e-4


def fast_reference(x, k, temperature):
    """Brent's method on the signed residual, from the always-valid bracket."""
    z = (x.double() - x.double().median()) / temperature

    def excess(shift):
        logits = z + shift
        small = torch.sigmoid(-logits.abs())
        above = logits > 0
        return (int(above.sum()) - k) + (small * ~above).sum().item() - (small * above).sum().item()

    centre = math.log(k) - math.log(z.numel() - k)
    low, high = centre - z.max().item() - 1e-6, centre - z.min().item() + 1e-6
    return torch.sigmoid(z + scipy.optimize.brentq(excess, low, high, xtol=1e-12, rtol=1e-15, maxiter=300))


@pytest.mark.parametrize("kind", KINDS)
def test_float64_sums_and_elements(kind):
    x, temperature = scores(kind, 3000)
    x = x.double()
    for k in (0.001, 1.5, 1000.0, 2999.999):
        probs = sigmoid_topk(x, k, temperature=temperature)
        assert abs(probs.sum().item() - k) <= 1e-13 * max(k, 1)
        expected = reference(x, k, temperature)
        assert ((probs - expected).abs() <= 1e-11 * expected + 1e-15).all()


@pytest.mark.parametrize("k", [0.001, 1, 2.5, 4.999])
def test_float64_against_mpmath(k):
    row = [3.25, -1.5, 0.125, 40.0, -40.0]
    probs = sigmoid_topk(torch.tensor(row, dtype=torch.float64), k)
    assert torch.allclose(probs, torch.tensor(exact(row, k), dtype=torch.float64), rtol=1e-12, atol=1e-18)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_solved_in_float32(dtype):
    x = torch.randn(4, 1000, generator=torch.Generator().manual_seed(0)).to(dtype)
    probs = sigmoid_topk(x, 30)
    assert probs.dtype == dtype
    expected = torch.stack([reference(row, 30) for row in x])
    assert ((probs.double() - expected).abs() <= expected * torch.finfo(dtype).eps).all()


ADVERSARIAL = {
    "extremes": [3.4e38, -3.4e38, 0.0, 1e30, -1e30, 1e-38],
    "geometric": [float(s * 10.0**e) for e in range(-30, 38, 2) for s in (-1, 1)],
    "one outlier": [1e38] + [0.0] * 500,
    "gap of 20": [0.0] * 50 + [20.0] * 50,
    "gap of 80": [0.0] * 50 + [80.0] * 50,
    "gap of 170": [0.0] * 50 + [170.0] * 50,
    "gap of 1e9": [0.0] * 50 + [1e9] * 50,
    "staircase": [100.0 * i for i in range(300)],
    "dense and far": [1e6 + 0.0625 * (i % 7) for i in range(300)] + [-1e30] * 3,
    "subnormal": [1e-45 * i for i in range(100)],
}


@pytest.mark.parametrize("name", ADVERSARIAL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_passes_are_bounded_and_the_answer_is_right(name, dtype, monkeypatch):
    """Counts every evaluation of the sums of the full row; each stage's pass is one call."""
    calls = 0

    def counted(function):
        def wrapper(*args, **kwargs):
            nonlocal calls
            calls += 1
            return function(*args, **kwargs)

        return wrapper

    monkeypatch.setattr(plain_stage, "_pass_row", counted(plain_stage._pass_row))
    monkeypatch.setattr(saturated_stage, "_residual", counted(saturated_stage._residual))
    x = torch.tensor(ADVERSARIAL[name], dtype=dtype)
    n = x.numel()
    for temperature in (1.0, 1e-3):
        for k in budgets(n):
            calls = 0
            probs = sigmoid_topk(x, k, temperature=temperature)
            assert calls <= MAX_PASSES
            assert calls <= 64, "the bound of MAX_PASSES is generous; measured rows stay far below it"
            tolerance = 5e-7 if dtype == torch.float32 else 1e-13
            assert abs(probs.double().sum().item() - k) <= tolerance * max(k, 1), (k, temperature)
            ordered = probs[x.argsort()]
            # torch.sigmoid differs by an ulp between its vector lanes and its tail.
            assert (ordered.diff() >= -2 * torch.finfo(dtype).eps * ordered[1:]).all()


def test_the_reference_sees_a_wrong_shift():
    """The sabotaged twin: a shift wrong by 1e-4 fails the same comparison."""
    x, _ = scores("normal", 1000)
    probs = torch.sigmoid(torch.logit(sigmoid_topk(x, 100).double()) + 1e-4)
    total, element, _ = errors(probs, reference(x, 100), x, 100, 1.0)
    assert total > 5e-7
    assert element > 2e-5
    assert math.isfinite(element)
