"""SINDy: known systems come back from noise, exactly k terms an equation, and the conventions of scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from sparsek.integrations.dynamics import (
    Differences,
    Exhaustive,
    Functions,
    GateSearch,
    Lorenz,
    LotkaVolterra,
    Polynomials,
    Refinement,
    SavitzkyGolay,
    SINDy,
    SmoothingSpline,
    Trigonometric,
    VanDerPol,
)
from sparsek.integrations.dynamics_table import DynamicsTable


def data(known, start, t, noise, seed=0):
    clean = known.trajectory(t, start)
    return clean, clean + noise * clean.std(0) * np.random.default_rng(seed).standard_normal(clean.shape)


CASES = {
    "Lotka-Volterra": (LotkaVolterra(), [2.0, 1.0], np.linspace(0, 20, 200), [2, 2]),
    "van der Pol": (VanDerPol(), [1.0, 0.5], np.linspace(0, 20, 200), [1, 3]),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_every_term_is_found_with_noise(name, noise):
    known, start, t, k = CASES[name]
    clean, X = data(known, start, t, noise)
    library = Polynomials(3)
    model = SINDy(library, k).fit(t, X)
    truth = known.coefficients(library)
    assert (model.support_ == (truth != 0)).all()
    np.testing.assert_allclose(model.coefficients_, truth, atol=0.1 if noise else 1e-3)
    assert np.square(model.states_ - clean).mean() < max(0.1 * np.square(X - clean).mean(), 1e-8)
    again = model.simulate(clean[0], t)
    assert np.abs(again - clean).max() < (1.5 if noise else 0.05) * clean.std()


def test_lorenz_needs_the_comparison_by_trajectories():
    t = np.linspace(0, 10, 500)
    _, X = data(Lorenz(), [1.0, 2.0, 25.0], t, 0.1)
    library, k = Polynomials(3), [2, 3, 2]
    truth = Lorenz().coefficients(library) != 0
    alone = SINDy(library, k, refinement=None).fit(t, X)
    assert not (alone.support_ == truth).all()
    assert (alone.support_.sum(1) == k).all()
    assert (SINDy(library, k).fit(t, X).support_ == truth).all()


def test_several_trajectories_are_used_together():
    t = np.linspace(0, 3, 40)
    runs = [
        data(LotkaVolterra(), start, t, 0.05, seed)[1] for seed, start in enumerate([(1, 1), (3, 1), (1, 4), (2, 3)])
    ]
    model = SINDy(Polynomials(2), 2).fit(t, runs)
    assert (model.support_ == (LotkaVolterra().coefficients(Polynomials(2)) != 0)).all()
    assert [states.shape for states in model.states_] == [(40, 2)] * 4
    assert model.score([t] * 4, runs) > 0.8


@pytest.mark.parametrize("form", [Differences(), SavitzkyGolay(), SmoothingSpline()])
def test_derivatives_do_where_there_is_no_noise(form):
    t = np.linspace(0, 12, 400)
    X = np.stack([np.sin(2 * t), 2 * np.cos(2 * t)], axis=1)
    model = SINDy(Polynomials(2), 1, form=form, search=Exhaustive(), refinement=None).fit(t, X)
    assert model.equations(2) == ["x' = 1.00 y", "y' = -4.00 x"]


def test_a_pendulum_is_found_among_sines_and_functions_of_ones_own():
    from scipy.integrate import solve_ivp  # noqa: PLC0415 - for this system alone

    t = np.linspace(0, 15, 300)
    X = solve_ivp(lambda _, s: [s[1], -2 * np.sin(s[0])], (0, 15), [2.0, 0.0], t_eval=t, rtol=1e-9, atol=1e-9).y.T
    library = Polynomials(3) + Trigonometric() + Functions({"tanh({})": torch.tanh})
    model = SINDy(library, 1, names=["angle", "speed"]).fit(t, X)
    assert model.equations(2) == ["angle' = 1.00 speed", "speed' = -2.00 sin(angle)"]


def test_a_run_away_is_nan_from_there_on():
    t = np.linspace(0, 1, 50)
    model = SINDy(Polynomials(2), 1).fit(t, 1 / (2 - t)[:, None])  # x' = x²
    assert model.equations(1) == ["x' = 1.0 x^2"]
    states = model.simulate([0.5], np.linspace(0, 4, 41))
    assert np.isfinite(states[:19]).all()
    assert np.isnan(states[-1]).all()


def global_state():
    return np.random.get_state()[1].copy()  # noqa: NPY002 - the generator that nothing may touch


def test_parameters_clone_and_state_are_those_of_scikit_learn():
    model = SINDy(Polynomials(2), k=(2, 2), search=GateSearch(steps=20), refinement=None)
    assert set(model.get_params(deep=False)) == {
        "library",
        "k",
        "form",
        "search",
        "refinement",
        "names",
        "random_state",
    }
    copy = clone(model)
    assert copy is not model
    assert copy.k == (2, 2)
    assert not vars(copy).keys() - vars(model).keys()
    with pytest.raises(NotFittedError):
        model.predict(np.zeros((1, 2)))
    known, start, t, _ = CASES["Lotka-Volterra"]
    X = data(known, start, t, 0.05)[1]
    kept, states = X.copy(), (torch.get_rng_state(), global_state())
    first, second = model.fit(t, X).coefficients_, copy.fit(t, X).coefficients_
    assert np.array_equal(first, second)
    assert np.array_equal(X, kept)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(global_state(), states[1])
    np.testing.assert_allclose(model.predict(X[:3]), Polynomials(2)(torch.from_numpy(X[:3])).numpy() @ first.T)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 7}, "k must be a whole number from 1 to the number of terms, 6"),
        ({"k": 0}, "k must be a whole number"),
        ({"k": True}, "k must be a whole number"),
        ({"k": 1.5}, "k must be a whole number"),
        ({"k": (1, 2, 3)}, "one for each of 2 variables"),
        ({"names": ["a"]}, "names must hold 2"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    t = np.linspace(0, 1, 20)
    with pytest.raises(ValueError, match=message):
        SINDy(Polynomials(2), **arguments).fit(t, np.stack([t, t**2], axis=1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"library": 3}, "library must be a Library or None, got 3"),
        ({"form": "weak"}, "form must be a Form or None, got 'weak'"),
        ({"search": "gates"}, "search must be a SupportSearch or None, got 'gates'"),
        ({"refinement": "yes"}, "refinement must be a Refinement or \"auto\" or None, got 'yes'"),
        ({"library": Functions({"log({})": torch.log, "{}": torch.clone})}, r"finite .* infinite \['log\(y\)'\]"),
    ],
)
def test_parts_of_other_kinds_and_terms_without_values_are_named(arguments, message):
    t = np.linspace(0, 1, 20)
    with pytest.raises(ValueError, match=message):
        SINDy(**{"k": 1, **arguments}).fit(t, np.stack([np.exp(t), -np.exp(-t)], axis=1))


def test_bad_calls_are_named():
    t = np.linspace(0, 1, 20)
    model = SINDy(Polynomials(1), 1, refinement=None).fit(t, np.stack([np.exp(t), np.exp(-t)], axis=1))
    for call, message in [
        (lambda: model.predict(np.zeros((2, 3))), "X must have shape"),
        (lambda: model.simulate([1.0], t), "start must hold 2"),
        (lambda: model.simulate([1.0, np.nan], t), "start must be finite"),
        (lambda: model.simulate([1.0, 1.0], [0.0]), "two increasing times"),
        (lambda: model.fit(t[:2], np.eye(2)), "at least 3 points"),
        (lambda: model.fit(t, np.full((20, 2), np.nan)), "finite"),
        (lambda: Refinement(candidates=0), "candidates must be"),
        (lambda: Lorenz().coefficients(Polynomials(1)), "must have the term 'x z'"),
        (lambda: DynamicsTable(equation=3), "equation must lie"),
        (lambda: DynamicsTable(start=(1.0,)), "start must hold"),
        (lambda: DynamicsTable(noise=-1.0), "noise must be"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
