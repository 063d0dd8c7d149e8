"""Gumbel variables given their maximum, and inclusion above a threshold."""

import math

import mpmath
import pytest
import torch
from scipy import stats

from sparsek.functional import gumbel_log_inclusion, gumbel_with_maximum

FALSE_ALARM = 1e-6


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_largest_is_the_maximum_exactly():
    phi = 5 * torch.randn(200, 30, generator=generator(), dtype=torch.float64)
    for maximum in (torch.full((200,), -40.0).double(), torch.linspace(-3, 700, 200).double()):
        gumbels = gumbel_with_maximum(phi, maximum, generator=generator(1))
        assert torch.equal(gumbels.amax(-1), maximum)
    assert gumbel_with_maximum(phi.float().T, maximum.float(), 0).shape == (30, 200)


def test_under_the_law_of_the_maximum_they_are_independent_gumbel_variables():
    rows, phi = 8000, torch.tensor([0.5, -1.0, 1.0, -3.0], dtype=torch.float64)
    maximum = torch.logsumexp(phi, 0) - torch.empty(rows, dtype=torch.float64).exponential_(generator=generator()).log()
    found = gumbel_with_maximum(phi.expand(rows, 4), maximum, generator=generator(1)) - phi
    for i in range(4):
        assert stats.kstest(found[:, i].numpy(), "gumbel_r").pvalue > FALSE_ALARM
    for i in range(1, 4):
        assert stats.pearsonr(found[:, 0].numpy(), found[:, i].numpy()).pvalue > FALSE_ALARM
    # the twin with a maximum that stays is not
    still = gumbel_with_maximum(phi.expand(rows, 4), torch.zeros(rows).double(), generator=generator(1)) - phi
    assert stats.kstest(still[:, 2].numpy(), "gumbel_r").pvalue < FALSE_ALARM


def test_below_a_given_maximum_they_are_truncated_and_the_argmax_is_categorical():
    rows, maximum, phi = 8000, 0.3, torch.tensor([0.5, -1.0, 1.0], dtype=torch.float64)
    found = gumbel_with_maximum(phi.expand(rows, 3), torch.full((rows,), maximum).double(), generator=generator(2))
    largest = found.argmax(-1)
    expected = phi.softmax(0) * rows
    assert stats.chisquare(torch.bincount(largest, minlength=3).numpy(), expected.numpy()).pvalue > FALSE_ALARM
    others = found[largest != 0, 0].numpy()
    whole = math.exp(-math.exp(0.5 - maximum))
    import numpy as np  # noqa: PLC0415 - for the distribution function alone

    assert stats.kstest(others, lambda g: np.exp(-np.exp(0.5 - g)) / whole).pvalue > FALSE_ALARM


def test_infinite_locations_and_half_precision():
    phi = torch.tensor([[0.0, -math.inf, 1.0], [-math.inf] * 3])
    found = gumbel_with_maximum(phi, torch.tensor([2.0, 1.0]))
    assert (found == -math.inf).tolist() == [[False, True, False], [True] * 3]
    assert gumbel_with_maximum(phi.half(), torch.tensor([2.0, 1.0])).dtype == torch.half
    nan = gumbel_with_maximum(torch.tensor([[math.nan, 0.0], [0.0, 0.0]]), torch.zeros(2))
    assert nan.isnan().any(-1).tolist() == [True, False]


def test_log_inclusion_is_exact_and_differentiable():
    apart = torch.cat((torch.linspace(-800, 5, 300), torch.tensor([-14.0, -13.999999, 40.0]))).double().requires_grad_()
    found = gumbel_log_inclusion(apart, torch.zeros(()).double())
    with mpmath.workdps(50):
        expected = [mpmath.log(-mpmath.expm1(-mpmath.exp(mpmath.mpf(float(a))))) for a in apart.detach()]
    torch.testing.assert_close(
        found.detach(), torch.tensor([float(e) for e in expected], dtype=torch.float64), rtol=1e-13, atol=1e-13
    )
    assert torch.autograd.gradcheck(gumbel_log_inclusion, (apart[::20], torch.zeros((), requires_grad=True).double()))


def test_log_inclusion_at_infinity():
    phi = torch.tensor([0.0, -math.inf, -math.inf], requires_grad=True)
    threshold = torch.tensor([-math.inf, 0.0, -math.inf])
    found = gumbel_log_inclusion(phi, threshold)
    assert found.tolist() == [0.0, -math.inf, -math.inf]
    (gradient,) = torch.autograd.grad(found[0], phi)
    assert gradient.tolist() == [0, 0, 0]


def test_bad_input_is_said():
    with pytest.raises(ValueError, match="maximum must have the shape of log_probs without dim"):
        gumbel_with_maximum(torch.zeros(2, 3), torch.zeros(3))
    with pytest.raises(ValueError, match="log_probs must be a floating-point tensor"):
        gumbel_with_maximum(torch.zeros(2, dtype=torch.long), torch.zeros(()))
    with pytest.raises(ValueError, match="threshold must be a floating-point tensor"):
        gumbel_log_inclusion(torch.zeros(2), 0.0)
