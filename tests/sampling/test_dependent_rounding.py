"""Dependent rounding: rows of size k, loads that are their expectations rounded, exact marginals; by C++ and by Python."""

import itertools
import math

import oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsek.functional import doubly_capped, sigmoid_topk
from sparsek.kernels import Backend, native, use_backends
from sparsek.sampling import Systematic, _cycles, dependent_rounding

EXECUTIONS = [Backend.NATIVE, Backend.EAGER]


@pytest.fixture(params=EXECUTIONS, ids=lambda backend: backend.value)
def execution(request):
    if request.param is Backend.NATIVE and native.load("dependent_rounding") is None:
        pytest.skip("no C++ compiler")
    with use_backends(request.param):
        yield request.param


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def relaxed(seed, tokens, experts, k, scale=1.0, dtype=torch.float32):
    """Sigmoid top-k of skewed scores."""
    scores = torch.randn(tokens, experts, generator=seeded(seed)) + torch.randn(experts, generator=seeded(seed + 1))
    return sigmoid_topk((scale * scores).to(dtype), k)


def near(dtype):
    return 1e-12 if dtype == torch.float64 else 2e-6


def unrounded(sums, loads, dtype):
    """Which sums are not the expected ones rounded down or up, where nearly whole expectations count as whole."""
    whole = loads.round()
    rounding = (loads - whole).abs() <= near(dtype) * loads.clamp(min=1)
    low, high = torch.where(rounding, whole, loads.floor()), torch.where(rounding, whole, loads.ceil())
    return ((sums < low) | (sums > high)).nonzero().flatten().tolist()


def assert_sums(sample, probs):
    assert set(sample.unique().tolist()) <= {0.0, 1.0}
    assert sample.dtype == probs.dtype
    sample, probs = sample.double(), probs.double()
    for dim in (-1, -2):
        assert not unrounded(sample.sum(dim), probs.sum(dim), torch.float32)
    assert not unrounded(sample.sum()[None], probs.sum()[None], torch.float32)
    assert bool((sample[probs == 0] == 0).all())
    assert bool((sample[probs == 1] == 1).all())


@given(
    st.integers(0, 10**6),
    st.integers(1, 40),
    st.integers(1, 12),
    st.floats(0, 1),
    st.sampled_from([0.0, 1.0, 6.0, 40.0]),
)
@settings(max_examples=40, deadline=None)
def test_sizes_are_k_and_loads_their_expectations_rounded(seed, tokens, experts, part, scale):
    for k in (round(part * experts), part * experts):
        probs = relaxed(seed, tokens, experts, k, scale)
        for backend in EXECUTIONS:
            with use_backends(backend):
                sample = dependent_rounding(probs, generator=seeded(seed))
            assert_sums(sample, probs)
            assert bool((sample.sum(-1) == k).all()) or k != int(k)


@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 8))
@settings(max_examples=40, deadline=None)
def test_any_matrix_is_rounded(seed, tokens, experts):
    """Neither sums are whole; entries are dyadic, so that they are exact; many are 0 or 1."""
    probs = torch.randint(-4, 13, (tokens, experts), generator=seeded(seed)).clamp(0, 8).double() / 8
    for backend in EXECUTIONS:
        with use_backends(backend):
            assert_sums(dependent_rounding(probs, generator=seeded(seed)), probs)


def test_cycles_of_the_later_entries_of_rows_are_rounded_too(execution):
    """Rows of which the first two fractional entries make no cycle, though all entries do."""
    probs = torch.tensor([[0.2, 0.3, 0.5, 0], [0.8, 0, 0.5, 0.7], [0, 0.7, 0, 0.3]], dtype=torch.float64)
    for order in itertools.permutations(range(4)):
        assert_sums(dependent_rounding(probs[:, order], generator=seeded(0)), probs[:, order])


def test_loads_of_a_batch_in_float32(execution):
    tokens = 4096 if execution is Backend.NATIVE else 256
    scores = torch.randn(tokens, 64, generator=seeded(0)) + torch.randn(64, generator=seeded(1))
    for probs in (sigmoid_topk(scores, 8), doubly_capped(scores, 8, iterations=2).probs):
        assert bool((probs.double().sum(-1) != 8).any())  # not exactly integral
        sample = dependent_rounding(probs, generator=seeded(2))
        assert_sums(sample, probs)
        assert bool((sample.sum(-1) == 8).all())
        assert unrounded(
            Systematic().sample(probs, generator=seeded(3)).sum(0).double(), probs.double().sum(0), probs.dtype
        )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_equal_entries_that_no_format_holds_exactly_give_even_loads(execution, dtype):
    probs = torch.full((70, 7), 3 / 7).to(dtype)
    sample = dependent_rounding(probs, k=3, generator=seeded(0))
    assert bool((sample.sum(1) == 3).all())
    assert bool((sample.sum(0) == 30).all())


@pytest.mark.parametrize("k", [2, 1.75])
def test_marginals_are_exact(execution, k):
    draws = 20_000 if execution is Backend.NATIVE else 4_000
    probs = relaxed(3, 5, 4, k, dtype=torch.float64)
    sample = dependent_rounding(probs.expand(draws, 5, 4), generator=seeded(4))
    assert_sums(sample[0], probs)
    counts = sample.sum(0).flatten().tolist()
    assert not oracles.misfits(counts, probs.flatten().tolist(), draws)
    assert oracles.misfits(counts, probs.flip(0).flatten().tolist(), draws)


def test_a_fair_coin_for_every_cycle_would_show_in_the_marginals(monkeypatch):
    """The sabotaged twin: sums hold as before, but both ends of a move are equally likely."""

    def fair(seed):
        generator = seeded(seed % 2**31)
        while True:
            yield (2**64 - 1) * int(torch.randint(2, (), generator=generator))

    monkeypatch.setattr(_cycles, "_random_words", fair)
    draws, probs = 4_000, relaxed(3, 5, 4, 2, dtype=torch.float64)
    with use_backends(Backend.EAGER):
        sample = dependent_rounding(probs.expand(draws, 5, 4), generator=seeded(4))
    assert_sums(sample[0], probs)
    assert oracles.misfits(sample.sum(0).flatten().tolist(), probs.flatten().tolist(), draws)


def test_a_matrix_of_two_outcomes_has_both_alike(execution):
    draws = 4_000
    sample = dependent_rounding(torch.full((draws, 2, 2), 0.5), generator=seeded(5))
    assert bool((sample[:, 0, 0] == sample[:, 1, 1]).all())
    assert bool((sample[:, 0, 0] != sample[:, 0, 1]).all())
    assert not oracles.misfits([sample[:, 0, 0].sum().item()], [0.5], draws)


def test_cpp_and_python_draw_the_same():
    if native.load("dependent_rounding") is None:
        pytest.skip("no C++ compiler")
    probs = torch.stack([relaxed(seed, 60, 9, 2.5, scale) for seed, scale in ((0, 1), (1, 5), (2, 0.1))])
    samples = []
    for backend in EXECUTIONS:
        with use_backends(backend):
            samples.append(dependent_rounding(probs, generator=seeded(6)))
    assert torch.equal(*samples)


def test_leading_dimensions_are_drawn_by_themselves(execution):
    draws = 2_000
    probs = torch.full((draws, 2, 3, 2), 0.5)
    sample = dependent_rounding(probs, generator=seeded(7))[..., 0, 0]
    assert not oracles.misfits([(sample[:, 0] == sample[:, 1]).sum().item()], [0.5], draws)
    assert oracles.misfits([(sample[:, 0] == sample[:, 0]).sum().item()], [0.5], draws)


def test_rows_of_another_size_and_rows_of_zeros(execution):
    k = torch.tensor([0.0, 1, 2, 3, 4])
    probs = sigmoid_topk(torch.randn(5, 4, generator=seeded(8)), k)
    sample = dependent_rounding(probs, k=k, generator=seeded(9))
    assert torch.equal(sample.sum(-1), k)
    assert_sums(sample, probs)


@pytest.mark.parametrize("shape", [(0, 4), (2, 0, 4), (0, 3, 4), (3, 0), (1, 1)])
def test_empty_and_single_shapes(execution, shape):
    assert dependent_rounding(torch.ones(shape)).tolist() == torch.ones(shape).tolist()


def test_reproducible_from_a_generator_and_independent_of_the_global_one(execution):
    probs, state = relaxed(0, 20, 6, 2), torch.get_rng_state()
    one, two, other = (dependent_rounding(probs, generator=seeded(s)) for s in (7, 7, 8))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_no_gradient_and_no_change_of_the_input(execution):
    probs = relaxed(0, 20, 6, 2)
    kept = probs.clone()
    assert not dependent_rounding(probs.requires_grad_()).requires_grad
    assert torch.equal(probs, kept)


def test_compiles_to_one_graph():
    probs = relaxed(0, 20, 6, 2)
    probs[3] = torch.nan
    sample = torch.compile(dependent_rounding, fullgraph=True, backend="aot_eager")(probs)
    others = torch.arange(20) != 3
    assert bool(sample[3].isnan().all())
    assert_sums(sample[others], probs[others])


@pytest.mark.parametrize(
    ("probs", "k", "message"),
    [
        (torch.tensor([0.5, 0.5]), None, "probs must have shape"),
        (torch.tensor([[1, 0]]), None, "probs must be a floating-point tensor"),
        (torch.tensor([[1.5, 0.5]]), None, r"probs must lie in \[0, 1\]"),
        (torch.tensor([[math.nan, 0.5]]), None, r"probs must lie in \[0, 1\]"),
        (torch.tensor([[0.5, 0.5]]), 2, "probs must sum to k"),
        (torch.tensor([[0.5, 0.5]]), torch.ones(3), "k of shape"),
    ],
)
def test_bad_arguments_are_named(probs, k, message):
    with pytest.raises(ValueError, match=message):
        dependent_rounding(probs, k=k)
