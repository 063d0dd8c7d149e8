"""GeM against 130 digits: value, gradient and derivative in p at every p, through 0, in every dtype."""

import math

import mpmath
import pytest
import torch
from torch.autograd import forward_ad

from sparsek.functional.pooling import (
    AbsoluteValue,
    ClampNegative,
    SignedPower,
    gem_pool,
    gem_weights,
    max_pool,
    mean_pool,
)
from sparsek.functional.pooling._plain_power import plain_exponent

POWERS = (-1, -0.5, -1e-3, -1e-9, 0, 1e-30, 1e-12, 1e-7, 1e-4, 1e-2, 0.3, 1, 2, 3, 10, 30, 100)

ACTIVATIONS = {
    "unit": torch.tensor([0.3, 0.9, 0.05, 0.6, 0.61, 0.2, 1.0]),
    "wide": torch.tensor([1e4, 3e-5, 2e-6, 0.7, 120.0, 9.9e3, 0.02]),
    "near": 1000 * (1 + 1e-3 * torch.tensor([0.3, 0.9, 0.05, 0.6, 0.61, 0.2, 1.0])),
    "outlier": torch.tensor([*[1.0] * 30, 2e-6]),
    "equal": torch.full((5,), 10.0),
}


def exact(values, p):
    """Power mean, its gradient, and its derivative in p."""
    with mpmath.workdps(130):
        x, n, p = [mpmath.mpf(v) for v in values], len(values), mpmath.mpf(p)
        logs = [mpmath.log(v) for v in x]
        center = sum(logs) / n
        if p == 0:
            y = mpmath.exp(center)
            return y, [y / n / v for v in x], y * sum((log - center) ** 2 for log in logs) / n / 2
        total = sum(v**p for v in x)
        y = (total / n) ** (1 / p)
        shares = [v**p / total for v in x]
        divergence = sum(s * mpmath.log(s * n) for s in shares)
        return y, [s * y / v for s, v in zip(shares, x, strict=True)], y * divergence / p**2


def errors(values, p, function=gem_pool):
    """Error of the value over it, of the gradient over its largest entry, and of d/dp over it (1 if it is 0)."""
    x = values.unsqueeze(-1).clone().requires_grad_()
    power = torch.tensor(float(p), dtype=values.dtype, requires_grad=True)
    y = function(x, power)
    y.backward(torch.ones_like(y))
    want, to_x, to_p = exact(values.tolist(), power.item())
    largest = max(to_x)
    return (
        abs(y.item() - want) / want,
        max(abs(a - b) for a, b in zip(x.grad.flatten().tolist(), to_x, strict=True)) / largest,
        abs(power.grad.item() - to_p) / (to_p if to_p > 1e-60 else 1),
    )


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize(("dtype", "units"), [(torch.float32, 24), (torch.float64, 24)])
def test_value_gradient_and_derivative_are_right_to_the_precision_of_the_dtype(name, dtype, units):
    """Within 24 units of rounding: the logarithm of 1e10, which the range of the widest row has, is 23."""
    for p in POWERS:
        assert max(errors(ACTIVATIONS[name].to(dtype), p)) < units * torch.finfo(dtype).eps, p


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("p", [1.0001, 1.5, 2, 3, 7.7, 8])
def test_without_logarithms_where_the_power_is_known(name, dtype, p):
    """At most 4 + 4p roundings: a rounded quotient to a power."""
    values = ACTIVATIONS[name].to(dtype)
    x = values.unsqueeze(-1).clone().requires_grad_()
    assert plain_exponent(p) == plain_exponent(torch.tensor(float(p), dtype=torch.float64)) == p
    y = gem_pool(x, p)
    y.sum().backward()
    want, to_x, _ = exact(values.tolist(), p)
    tolerance = (4 + 4 * p) * torch.finfo(dtype).eps
    assert abs(y.item() - want) <= tolerance * want
    worst = max(abs(a - b) / max(b, mpmath.mpf("1e-30")) for a, b in zip(x.grad.flatten().tolist(), to_x, strict=True))
    assert worst <= tolerance


def test_logarithms_are_taken_where_a_derivative_in_the_power_is_wanted():
    p = torch.tensor(3.0, requires_grad=True)
    assert plain_exponent(p) is None
    with torch.no_grad():
        assert plain_exponent(p) == 3
    with forward_ad.dual_level():
        assert plain_exponent(forward_ad.make_dual(p.detach(), torch.tensor(1.0))) is None
    assert plain_exponent(torch.full((2,), 3.0)) is plain_exponent(1) is plain_exponent(9) is plain_exponent(-3) is None


def test_without_logarithms_at_zeros_signs_masks_and_infinities():
    x = torch.tensor([[0.0, -2.0, torch.inf], [0.0, 2.0, 1.0], [torch.nan, torch.inf, torch.nan]], dtype=torch.float64)
    x.requires_grad_()
    y = gem_pool(x, 3, torch.tensor([True, True, False]), signed=SignedPower())
    assert y.tolist() == [0, 0, math.inf]
    y.sum().backward()
    assert x.grad.count_nonzero() == 0
    assert gem_pool(torch.full((3, 1), 3e38), 3).item() == pytest.approx(3e38)
    assert gem_pool(torch.full((3, 1), 1e-30), 8, eps=1e-38).item() == pytest.approx(1e-30)


def test_the_textbook_formula_fails_the_same_test():
    def textbook(x, p):
        return x.pow(p).mean(-2).pow(1 / p)

    assert not all(map(math.isfinite, errors(ACTIVATIONS["wide"], 100, textbook)))
    assert max(errors(ACTIVATIONS["unit"], 1e-4, textbook)) > 1e-3


@pytest.mark.parametrize("p", [0, 0.0, 1e-6, -1e-6, 3, -1.0, 25.0])
def test_derivatives_of_first_and_second_order(p):
    x = torch.tensor([[0.4, 1.3], [2.2, 0.7], [0.9, 1.1]], dtype=torch.float64, requires_grad=True)
    power = torch.tensor([float(p), float(p) + 0.5], dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([True, True, False])
    for keep in (None, mask):
        assert torch.autograd.gradcheck(lambda x, p, keep=keep: gem_pool(x, p, keep), (x, power), check_forward_ad=True)
        assert torch.autograd.gradgradcheck(lambda x, p, keep=keep: gem_pool(x, p, keep), (x, power))


def test_second_derivative_at_zero():
    """∂²y/∂p² of the power mean at p = 0, by 130 digits."""
    values = [0.4, 2.2, 0.9, 1.7]

    def mean(p):
        return (
            mpmath.exp(sum(mpmath.log(v) for v in values) / 4)
            if p == 0
            else (sum(mpmath.mpf(v) ** p for v in values) / 4) ** (1 / p)
        )

    with mpmath.workdps(130):
        h = mpmath.mpf(10) ** -30
        want = float((mean(h) - 2 * mean(0) + mean(-h)) / h**2)
    x = torch.tensor(values, dtype=torch.float64).unsqueeze(-1)
    power = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(gem_pool(x, power).sum(), power, create_graph=True)
    (second,) = torch.autograd.grad(first, power)
    assert second.item() == pytest.approx(want, rel=1e-12)


def test_a_learnt_power_crosses_zero():
    """The target is the harmonic mean; p begins at 1."""
    x = torch.rand(6, 50, 1, generator=torch.Generator().manual_seed(0)) + 0.1
    target = 1 / (1 / x).mean(-2)
    p = torch.ones((), requires_grad=True)
    optimizer = torch.optim.Adam([p], lr=0.05)
    path = []
    for _ in range(200):
        loss = (gem_pool(x, p) - target).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        path.append(p.item())
    assert min(abs(v) for v in path) < 0.03
    assert p.item() == pytest.approx(-1, abs=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("p", [-1, 0, 3, 100])
def test_half_precision_does_not_overflow(dtype, p):
    """10,000 cubed is no float16; the mean of the powers is formed in float32 logarithms."""
    x = torch.tensor([[1e4], [8e3], [0.25], [64.0]], dtype=dtype)
    want = exact(x.double().clamp(min=1e-6).flatten().tolist(), p)[0]
    got = gem_pool(x, p)
    assert got.dtype == dtype
    assert got.item() == pytest.approx(float(want), rel=0.51 * torch.finfo(dtype).eps + 1e-5)


def test_limits_and_equal_activations():
    x = torch.rand(9, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.1
    torch.testing.assert_close(gem_pool(x, 1), mean_pool(x))
    torch.testing.assert_close(gem_pool(x, 1e6), max_pool(x), rtol=1e-5, atol=0)
    torch.testing.assert_close(gem_pool(x, -1e6), -max_pool(-x), rtol=1e-5, atol=0)
    for p in POWERS:
        assert gem_pool(torch.full((3, 1), 10.0), p).item() == 10.0


def test_shares_sum_to_one_and_are_not_equal_at_one():
    x = torch.tensor([[1.0], [0.5], [2.0], [0.3]], dtype=torch.float64)
    for p in POWERS:
        assert gem_weights(x, p).sum().item() == pytest.approx(1, abs=1e-14)
    torch.testing.assert_close(gem_weights(x, 1), x / x.sum())
    torch.testing.assert_close(gem_weights(x, 0), torch.full_like(x, 0.25))


def test_per_sample_transforms():
    x = torch.rand(5, 7, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.1
    p = torch.tensor(2.0, dtype=torch.float64)
    per_sample = torch.func.vmap(torch.func.grad(lambda x, p: gem_pool(x, p).sum(), argnums=(0, 1)), in_dims=(0, None))(
        x, p
    )
    for row, to_x, to_p in zip(x, *per_sample, strict=True):
        want = torch.func.grad(lambda x, p: gem_pool(x, p).sum(), argnums=(0, 1))(row, p)
        torch.testing.assert_close((to_x, to_p), want)


def test_sign_policies():
    x = torch.tensor([[-3.0], [1.0], [2.0]], dtype=torch.float64)
    assert gem_pool(x, 1, signed=SignedPower()).item() == 0
    assert gem_pool(x, 3, signed=SignedPower()).item() == pytest.approx(-((18 / 3) ** (1 / 3)))
    assert gem_pool(x, 2, signed=AbsoluteValue()).item() == pytest.approx((14 / 3) ** 0.5)
    assert gem_pool(x, 2, signed=ClampNegative()).item() == pytest.approx((5 / 3) ** 0.5)
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: gem_pool(x, 3, signed=SignedPower()), x)
    assert torch.autograd.gradcheck(lambda x: gem_pool(x, 2.5, signed=AbsoluteValue()), x)
    shares = gem_weights(x, 3, signed=SignedPower())
    assert shares.sum().item() == pytest.approx(1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"p": math.nan}, "p must be a finite number"),
        ({"p": math.inf}, "p must be a finite number"),
        ({"p": "3"}, "p must be a finite number"),
        ({"p": torch.tensor(math.inf)}, "p must be finite"),
        ({"p": torch.ones(5)}, r"p of shape \(5,\)"),
        ({"eps": 0.0}, "eps must be"),
        ({"signed": "clamp"}, "signed must be a SignPolicy"),
        ({"p": 0, "signed": SignedPower()}, "p must be > 0 with SignedPower"),
        ({"x": -torch.ones(3, 2)}, "x must be >= 0 for a power mean, got values down to -1"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        gem_pool(**{"x": torch.ones(3, 2), **arguments})


def test_a_negative_activation_is_nan_where_values_are_not_looked_at():
    x = torch.tensor([[1.0, 1.0], [-1.0, 1.0]])
    output = torch.func.vmap(lambda row: gem_pool(row, 3))(x.unsqueeze(0))
    assert output.isnan().tolist() == [[True, False]]


def test_a_negative_activation_beside_nan_is_refused():
    with pytest.raises(ValueError, match="got values down to -1"):
        gem_pool(torch.tensor([[math.nan, 1.0], [1.0, -1.0]]), 3)
    assert gem_pool(torch.tensor([[math.nan, 1.0], [1.0, 1.0]]), 3).isnan().tolist() == [True, False]


def test_masked_negative_activations_are_not_refused():
    x = torch.tensor([[1.0], [-1.0]])
    assert gem_pool(x, 3, torch.tensor([True, False])).item() == 1


INFINITE = torch.tensor([[1.0, 4.0], [math.inf, 2.0], [3.0, 5.0]], dtype=torch.float64)


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0, 3.0, 100.0])
def test_an_infinite_activation_is_the_answer_for_powers_from_zero_and_a_constant(p):
    x, power = INFINITE.clone().requires_grad_(), torch.tensor(p, dtype=torch.float64, requires_grad=True)
    y = gem_pool(x, power)
    assert y[0].item() == math.inf
    torch.testing.assert_close(y[1:], gem_pool(INFINITE[:, 1:], p))
    y.sum().backward()
    alone = INFINITE[:, 1:].clone().requires_grad_()
    other = torch.tensor(p, dtype=torch.float64, requires_grad=True)
    gem_pool(alone, other).sum().backward()
    assert (x.grad[:, 0] == 0).all()
    torch.testing.assert_close(x.grad[:, 1:], alone.grad)
    torch.testing.assert_close(power.grad, other.grad)
    assert gem_pool(INFINITE.float().half(), p)[0].item() == math.inf


@pytest.mark.parametrize("p", [-0.01, -0.5, -1.0, -3.0])
def test_an_infinite_activation_counts_nothing_for_powers_below_zero(p):
    """The limit, by 130 digits: ((1 + 3^p + ∞^p)/3)^(1/p), and its derivatives."""
    x, power = INFINITE[:, :1].clone().requires_grad_(), torch.tensor(p, dtype=torch.float64, requires_grad=True)
    y = gem_pool(x, power)
    y.backward(torch.ones_like(y))
    with mpmath.workdps(130):
        exact_p = mpmath.mpf(power.item())

        def mean(a, q):
            return ((a**q + mpmath.mpf(3) ** q) / 3) ** (1 / q)

        want = [float(v) for v in (mean(mpmath.mpf(1), exact_p), mpmath.diff(lambda a: mean(a, exact_p), 1))]
        to_p = float(mpmath.diff(lambda q: mean(mpmath.mpf(1), q), exact_p))
    assert y.item() == pytest.approx(want[0], rel=1e-12)
    assert x.grad[0].item() == pytest.approx(want[1], rel=1e-12)
    assert x.grad[1].item() == 0
    assert power.grad.item() == pytest.approx(to_p, rel=1e-9)
    (first,) = torch.autograd.grad(gem_pool(x, power).sum(), power, create_graph=True)
    assert torch.autograd.grad(first, power)[0].isfinite()


def test_activations_that_are_all_infinite_and_what_is_masked():
    x = torch.tensor([[math.inf], [math.inf], [1.0]])
    assert gem_pool(x, -1, torch.tensor([True, True, False])).item() == math.inf
    assert gem_pool(x, 3, torch.tensor([False, False, True])).item() == 1
    assert gem_pool(x, -1).item() == pytest.approx(3)


def test_signs_of_infinite_activations():
    def signed(*values):
        return gem_pool(torch.tensor(values).unsqueeze(-1), 3, signed=SignedPower()).item()

    assert signed(1.0, -math.inf) == -math.inf
    assert signed(-1.0, math.inf) == math.inf
    assert math.isnan(signed(-math.inf, math.inf, 1.0))
    assert gem_pool(torch.tensor([[-math.inf], [1.0]]), 3, signed=AbsoluteValue()).item() == math.inf


def test_shares_of_infinite_activations_are_their_limits():
    x = torch.tensor([[1.0], [math.inf], [math.inf]], dtype=torch.float64)
    for p, want in ((3, [0, 0.5, 0.5]), (1e-9, [0, 0.5, 0.5]), (0, [1 / 3] * 3), (-2, [1, 0, 0])):
        torch.testing.assert_close(gem_weights(x, p).squeeze(-1), torch.tensor(want, dtype=torch.float64))
    torch.testing.assert_close(gem_weights(x[1:], -2), torch.full((2, 1), 0.5, dtype=torch.float64))
