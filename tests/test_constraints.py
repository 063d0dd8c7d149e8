"""Laws of the two constraints: which rows they accept, per row, and how exactly."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsek import constraints


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.bool])
@pytest.mark.parametrize("k", [0, 1, 3, 5, 2.5, 0.25, 4.75])
def test_k_hot_accepts_exactly_the_subsets_of_its_sizes(k, dtype):
    vectors = torch.tensor(list(itertools.product([0, 1], repeat=5)))
    sizes = vectors.sum(-1)
    expected = (sizes == int(k)) | (sizes == -int(-k // 1))
    assert torch.equal(constraints.k_hot(k).check(vectors.to(dtype)), expected)


@given(k=st.integers(1, 5), error=st.sampled_from([-3.0, -0.9, 0.9, 3.0]))
@settings(max_examples=25, deadline=None)
def test_k_hot_takes_k_for_whole_within_the_tolerance_and_for_real_beyond(k, error):
    near = torch.tensor(k, dtype=torch.float64) + error * 1e-12 * max(1, k)
    neighbour = torch.arange(7) < k + (1 if error > 0 else -1)
    assert constraints.k_hot(near).check((torch.arange(7) < k).double())
    assert constraints.k_hot(near).check(neighbour.double()).item() == (abs(error) > 1)


def test_k_hot_counts_beyond_the_integers_of_bfloat16():
    ones = torch.ones(300, dtype=torch.bfloat16)
    ones[257:] = 0
    assert constraints.k_hot(257).check(ones)
    assert not constraints.k_hot(256).check(ones)


def test_one_k_per_row():
    values = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    sizes = torch.tensor([1, 2, 2])
    assert constraints.k_hot(sizes).check(values).tolist() == [True, True, False]
    assert constraints.capped_simplex(sizes).check(values).tolist() == [True, True, False]
    assert constraints.capped_simplex(sizes).check(values.expand(2, 3, 3)).shape == (2, 3)


@pytest.mark.parametrize("constraint", [constraints.k_hot(1), constraints.capped_simplex(1)])
def test_nan_fails_in_its_row_alone(constraint):
    values = torch.tensor([[1.0, 0.0], [float("nan"), 1.0]])
    assert constraint.check(values).tolist() == [True, False]
    assert not type(constraint)(torch.tensor(float("nan"))).check(values).any()


@pytest.mark.parametrize(
    ("row", "inside"),
    [([0.5, 0.5, 1.0], True), ([0.6, 0.6, 1.0], False), ([1.25, 0.75, 0.0], False), ([-0.25, 1.25, 1.0], False)],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_capped_simplex_asks_for_the_cube_and_the_sum(row, inside, dtype):
    assert constraints.capped_simplex(2).check(torch.tensor(row, dtype=dtype)).item() is inside


@given(dtype=st.sampled_from([torch.float64, torch.float32]), k=st.sampled_from([0.3, 2, 5.5]))
@settings(max_examples=12, deadline=None)
def test_capped_simplex_keeps_to_its_tolerance(dtype, k):
    tolerance = (1e-12 if dtype == torch.float64 else 2e-6) * max(1, k)
    row = torch.full((8,), k / 8, dtype=dtype)
    row[0] += k - row.sum()  # what rounding left
    assert constraints.capped_simplex(k).check(row + 0.5 * tolerance / 8)
    assert not constraints.capped_simplex(k).check(row + 2 * tolerance / 8)


def test_capped_simplex_grants_half_precision_the_rounding_of_its_entries():
    row = torch.softmax(torch.linspace(-1, 1, 64, dtype=torch.float64), 0)
    rounded = row.to(torch.bfloat16)
    assert (rounded.double().sum() - 1).abs() > 2e-6  # it does need the grant
    assert constraints.capped_simplex(1).check(rounded)
    assert not constraints.capped_simplex(1).check(rounded * 1.05)


def test_representation_and_facts():
    assert repr(constraints.k_hot(2)) == "k_hot(k=2)"
    assert repr(constraints.capped_simplex(torch.ones(3))) == "capped_simplex(k=tensor of shape (3,))"
    assert constraints.k_hot(2).is_discrete
    assert not constraints.capped_simplex(2).is_discrete
    assert constraints.k_hot(2).event_dim == constraints.capped_simplex(2).event_dim == 1
