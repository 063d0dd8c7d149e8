"""Supports: against every subset, and collocation against derivatives and a solver."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsek.estimators import MuProp, ScoreFunction, SecondOrder, StraightThrough
from sparsek.integrations.dynamics import (
    Exhaustive,
    GateSearch,
    Lorenz,
    LotkaVolterra,
    Polynomials,
    System,
    Trajectory,
)
from sparsek.integrations.dynamics._collocation import Joint, Weights, _linearised, _misfit, joint_fit
from sparsek.integrations.dynamics._moments import Moments, explained, moments, penalised
from sparsek.integrations.dynamics._search import coefficients
from sparsek.integrations.dynamics._subsets import exchange, neighbours


def system(seed, terms=7, equations=2, k=2, noise=0.1, rows=40):
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((rows, terms)) * np.geomspace(0.01, 100, terms)
    W = np.zeros((terms, equations))
    for column in W.T:
        chosen = rng.choice(terms, k, replace=False)
        column[chosen] = rng.uniform(1, 2, k) / np.linalg.norm(A[:, chosen], axis=0)
    B = A @ W
    return System(A, B + noise * B.std(0) * rng.standard_normal(B.shape), A)


def brute_force(parts, equation, k):
    def left(subset):
        A = parts.terms[:, subset]
        return np.square(parts.targets[:, equation] - A @ np.linalg.lstsq(A, parts.targets[:, equation])[0]).sum()

    return min(map(list, itertools.combinations(range(parts.terms.shape[1]), k)), key=left)


@given(seed=st.integers(0, 10_000), k=st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_exhaustive_search_and_its_coefficients_are_those_of_brute_force(seed, k):
    parts = system(seed, k=k)
    known = moments([parts])
    found = Exhaustive()(known, [k, k], torch.Generator())
    fitted = coefficients(known, found).numpy()
    for equation, support in enumerate(found):
        expected = brute_force(parts, equation, k)
        assert support.tolist() == expected
        np.testing.assert_allclose(
            fitted[equation, expected],
            np.linalg.lstsq(parts.terms[:, expected], parts.targets[:, equation])[0],
            rtol=1e-6,
        )


def test_a_share_of_gates_of_0_and_1_is_that_of_the_subset():
    known = moments([system(0)])
    subsets = torch.combinations(torch.arange(7), 3)
    gates = torch.zeros(len(subsets), 7, dtype=torch.float64).scatter_(1, subsets, 1.0)
    shares, _ = explained(known.gram, known.cross[0], subsets)
    torch.testing.assert_close(penalised(known.gram, known.cross[0], gates, 1e-11), 1 - shares, atol=1e-8, rtol=0)


def test_the_relaxed_loss_is_convex_and_its_gradient_right():
    known = moments([system(1)])
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 100, 7, dtype=torch.float64, generator=generator)
    middle, first, last = (penalised(known.gram, known.cross[0], gates, 0.1) for gates in ((a + b) / 2, a, b))
    assert (middle <= (first + last) / 2 + 1e-12).all()
    gates = a[:3].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda s: penalised(known.gram, known.cross[0], s, 0.1), gates)


SEARCHES = [
    GateSearch(),
    GateSearch(ScoreFunction(vectorize=True), steps=30, restarts=2),
    GateSearch(MuProp(), steps=10),
    GateSearch(SecondOrder(), steps=30),
    GateSearch(StraightThrough(), steps=30, swap=False),
]


@pytest.mark.parametrize("search", SEARCHES, ids=lambda search: type(search.estimator).__name__)
def test_every_gate_gives_exactly_k_terms_the_same_for_the_same_seed_and_leaves_the_global_generator(search):
    known = moments([system(2)])
    before = torch.get_rng_state()
    one, two = (search(known, [1, 3], torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    for support, again, k in zip(one, two, [1, 3], strict=True):
        assert len(set(support.tolist())) == len(support) == k
        assert torch.equal(support, again)


def test_sigmoid_top_k_alone_finds_the_best_subset_where_terms_are_not_alike():
    for seed in range(5):
        known = moments([system(seed, terms=12, k=3, rows=200)])
        exact = Exhaustive()(known, [3, 3], torch.Generator())
        found = GateSearch(swap=False)(known, [3, 3], torch.Generator())
        assert [each.tolist() for each in found] == [each.tolist() for each in exact]


def test_k_may_be_every_term():
    known = moments([system(3)])
    assert GateSearch(steps=5)(known, [7, 1], torch.Generator())[0].tolist() == list(range(7))


@given(seed=st.integers(0, 10_000), k=st.integers(1, 6))
@settings(max_examples=25, deadline=None)
def test_an_exchange_ends_where_no_swap_explains_more(seed, k):
    known = moments([system(seed)])
    start = torch.randperm(7, generator=torch.Generator().manual_seed(seed))[:k]
    end = exchange(known.gram, known.cross[0], start)
    shares, _ = explained(known.gram, known.cross[0], neighbours(end, 7))
    assert len(neighbours(end, 7)) == 1 + k * (7 - k)
    assert shares[0] >= shares.max() - 1e-12
    assert shares[0] >= explained(known.gram, known.cross[0], start.unsqueeze(0))[0] - 1e-12


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GateSearch(steps=1), "steps must be"),
        (lambda: GateSearch(samples=0), "samples must be"),
        (lambda: GateSearch(ridge=(1e-3, 1e-2)), "ridge must be"),
        (lambda: GateSearch("sampled"), "estimator must be"),
        (lambda: Exhaustive(limit=3)(Moments(*[torch.eye(4)] * 3), [2] * 4, torch.Generator()), "limit must be"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_derivatives_of_the_steps_are_those_of_finite_differences():
    torch.manual_seed(0)
    t, library = np.array([0.0, 0.1, 0.25, 0.3]), Polynomials(2)
    states, values = torch.randn(4, 2, dtype=torch.float64), torch.randn(2, 6, dtype=torch.float64)
    use = values.nonzero()

    def defect(x, w):
        return _linearised(t, library, x, w, use).defect

    steps = _linearised(t, library, states, values, use)
    by_states, by_values = torch.autograd.functional.jacobian(defect, (states, values))
    for i in range(3):
        torch.testing.assert_close(steps.start[i], by_states[i, :, i])
        torch.testing.assert_close(steps.end[i], by_states[i, :, i + 1])
    torch.testing.assert_close(steps.values, by_values[:, :, use[:, 0], use[:, 1]])


def test_a_solution_has_no_misfit_and_a_joint_fit_comes_back_to_it():
    t, library, known = np.linspace(0, 8, 161), Polynomials(2), LotkaVolterra()
    X = known.trajectory(t, [2.0, 1.0])
    runs = [Trajectory(t, X), Trajectory(t, known.trajectory(t, [3.0, 2.0]))]
    weights = Weights(torch.ones(2, dtype=torch.float64), torch.full((2,), 1e4, dtype=torch.float64))
    truth = torch.from_numpy(known.coefficients(library))
    states = tuple(torch.from_numpy(run.states) for run in runs)
    assert _misfit(runs, library, Joint(states, truth, 0.0), weights) < 1e-6
    moved = tuple(each + 0.02 * torch.sin(9 * each) for each in states)
    start = Joint(moved, 1.1 * truth, np.inf)
    found = joint_fit(runs, library, start, weights, 20, 1e-10)
    torch.testing.assert_close(found.coefficients, truth, atol=1e-4, rtol=0)
    assert ((found.coefficients != 0) == (truth != 0)).all()
    assert found.misfit < 1e-5 < _misfit(runs, library, start, weights)


def test_a_joint_fit_of_noisy_data_is_nearer_to_the_truth_than_smoothing():
    from sparsek.integrations.dynamics import SmoothingSpline  # noqa: PLC0415 - read with what it is compared to

    t, library, known = np.linspace(0, 4, 201), Polynomials(2), Lorenz()
    clean = known.trajectory(t, [1.0, 2.0, 25.0])
    noisy = clean + 0.05 * clean.std(0) * np.random.default_rng(0).standard_normal(clean.shape)
    run = Trajectory(t, noisy)
    smooth = SmoothingSpline().smooth(run)
    weights = Weights(torch.from_numpy(1 / (noisy - smooth).var(0)), torch.full((3,), 10.0, dtype=torch.float64))
    start = Joint((torch.from_numpy(smooth),), torch.from_numpy(known.coefficients(library)), np.inf)
    found = joint_fit([run], library, start, weights, 10, 1e-6)
    assert np.square(found.states[0].numpy() - clean).mean() < 0.5 * np.square(smooth - clean).mean()
