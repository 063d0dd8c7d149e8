"""Candidate terms, derivatives and integrals: against what calculus says, and what bad input is answered with."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsek.integrations.dynamics import (
    Differences,
    Functions,
    Lorenz,
    Polynomials,
    SavitzkyGolay,
    SmoothingSpline,
    Trajectory,
    Trigonometric,
    WeakForm,
)
from sparsek.integrations.dynamics._trajectories import trajectories


@given(degree=st.integers(1, 4), variables=st.integers(1, 3), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_a_polynomial_term_is_what_its_name_says(degree, variables, seed):
    library, names = Polynomials(degree), ["a", "b", "c"][:variables]
    states = torch.randn(5, variables, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    values = dict(zip(names, states.T.numpy(), strict=True))
    terms = library.names(names)
    assert len(set(terms)) == len(terms)
    for term, column in zip(terms, library(states).T.numpy(), strict=True):
        expected = eval(term.replace(" ", "*").replace("^", "**"), {"__builtins__": {}}, values)
        np.testing.assert_allclose(column, np.broadcast_to(expected, 5), rtol=1e-12)


def test_sums_and_functions_of_two_variables():
    library = Polynomials(1, constant=False) + Trigonometric((2.0,)) + Functions({"{}/{}": torch.div})
    assert library.names(["x", "y"]) == ["x", "y", "sin(2 x)", "cos(2 x)", "sin(2 y)", "cos(2 y)", "x/y", "y/x"]
    x, y = 0.3, 2.0
    expected = [x, y, np.sin(0.6), np.cos(0.6), np.sin(4), np.cos(4), x / y, y / x]
    np.testing.assert_allclose(library(torch.tensor([[x, y]], dtype=torch.float64))[0].numpy(), expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Polynomials(0), "degree must be a whole number"),
        (lambda: Trigonometric(()), "frequencies must be"),
        (lambda: Trigonometric((0.0,)), "frequencies must be"),
        (lambda: Functions({}), "at least one function"),
        (lambda: Functions({"exp": torch.exp}), "with a gap"),
        (lambda: Polynomials(1)(torch.zeros(3)), "states must have shape"),
        (lambda: SavitzkyGolay(window=4), "window must be odd"),
        (lambda: SavitzkyGolay(window=5, degree=5), "degree must lie in"),
        (lambda: SmoothingSpline(-1.0), "penalty must be"),
        (lambda: WeakForm(widths=()), "at least one radius"),
        (lambda: WeakForm(overlap=0), "overlap must be"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def wave(points=400, noise=0.0):
    t = np.linspace(0, 12, points)
    X = np.stack([np.sin(t), np.cos(t)], axis=1)
    return Trajectory(t, X + noise * np.random.default_rng(0).standard_normal(X.shape))


@pytest.mark.parametrize(("form", "error"), [(Differences(), 1e-3), (SavitzkyGolay(), 1e-4), (SmoothingSpline(), 1e-3)])
def test_derivatives_of_clean_waves(form, error):
    run = wave()
    states, slope = form.estimate(run)
    expected = np.stack([np.cos(run.times), -np.sin(run.times)], axis=1)
    inner = slice(10, -10)
    np.testing.assert_allclose(slope[inner], expected[inner], atol=error)
    np.testing.assert_allclose(states[inner], run.states[inner], atol=error)


def test_a_spline_smooths_more_than_differences_do():
    run, clean = wave(noise=0.1), wave()
    states, slope = SmoothingSpline().estimate(run)
    expected = np.stack([np.cos(run.times), -np.sin(run.times)], axis=1)
    assert np.abs(states - clean.states).mean() < 0.4 * np.abs(run.states - clean.states).mean()
    assert np.abs(slope - expected).mean() < 0.1 * np.abs(Differences().estimate(run)[1] - expected).mean()


def weak_residual(t, factor=1.0):
    """Share of the targets that Lorenz's equations, times a factor, leave."""
    X, library = Lorenz().trajectory(t, [1.0, 2.0, 25.0]), Polynomials(2)
    terms, targets, _ = WeakForm().system(Trajectory(t, X), library, states=X)
    return np.linalg.norm(targets - factor * terms @ Lorenz().coefficients(library).T) / np.linalg.norm(targets)


def test_the_weak_form_holds_for_a_solution_and_not_for_another_equation():
    t = np.linspace(0, 10, 1001)
    assert weak_residual(t) < 1e-3
    assert weak_residual(t, factor=1.1) > 0.05


def test_the_weak_form_is_of_second_order_where_steps_differ():
    place = np.linspace(0, 1, 1601)
    t = 10 * (place + 0.5 * np.sin(2 * np.pi * place) / (2 * np.pi))
    assert weak_residual(t) < 0.3 * weak_residual(t[::2])


def test_test_functions_vanish_at_the_ends_and_fit_on_short_series():
    for points in (5, 9, 50):
        run = wave(points)
        value, slope = WeakForm()._test_functions(run.times, 1.0)
        assert value.shape[0] >= 1
        np.testing.assert_allclose(value.toarray()[:, [0, -1]], 0, atol=1e-12)
        np.testing.assert_allclose(slope.toarray().sum(1), 0, atol=0.05)  # the integral of a derivative


@pytest.mark.parametrize(
    ("t", "X", "message"),
    [
        (np.arange(2.0), np.ones((2, 1)), "at least 3 points"),
        (np.arange(5.0), np.ones((5, 2)) * [[1.0, 0.0]], "constant columns"),
        (np.arange(5.0), np.full((5, 1), np.nan), "X must be finite"),
        ([0.0, 1.0, np.inf], np.arange(3.0)[:, None], "t must be finite"),
        ([0.0, 2.0, 1.0], np.arange(3.0)[:, None], "t must increase"),
        (np.arange(4.0), np.arange(3.0)[:, None], "a time for each"),
        (np.arange(3.0), np.arange(3.0), "X must have shape"),
        ([np.arange(3.0)], [np.eye(3), np.eye(3)], "a list of 2"),
        ([np.arange(3.0)] * 2, [np.eye(3), np.eye(3)[:, :2]], "the same variables"),
    ],
)
def test_bad_data_are_named(t, X, message):
    with pytest.raises(ValueError, match=message):
        trajectories(t, X)


def test_times_may_be_shared_by_several_trajectories():
    runs = trajectories(np.arange(3.0), [np.eye(3), 2 * np.eye(3)])
    assert [run.times.tolist() for run in runs] == [[0, 1, 2]] * 2


def test_forms_say_how_many_points_they_need():
    run = Trajectory(np.arange(4.0), np.arange(4.0)[:, None] ** 2)
    with pytest.raises(ValueError, match="at least 5 points"):
        SmoothingSpline().estimate(run)
    with pytest.raises(ValueError, match="at least 11 points"):
        SavitzkyGolay().estimate(run)
    with pytest.raises(ValueError, match="equal steps"):
        SavitzkyGolay(3, 1).estimate(Trajectory(np.array([0.0, 1, 3, 4]), run.states))
