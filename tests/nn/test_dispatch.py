"""Dispatch: rows by expert and back; what is dropped, and what is left out."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

from sparsek.nn import Capacity
from sparsek.nn._dispatch import dispatch


def served(indices, weights, num_experts, limit, by_weight):
    """The definition, slot by slot: which slots run."""
    order = list(range(indices.numel()))
    if by_weight:
        order.sort(key=lambda slot: -float(weights.flatten()[slot]))  # stable
    room, kept = [limit] * num_experts, torch.zeros(indices.numel(), dtype=torch.bool)
    for slot in order:
        expert = int(indices.flatten()[slot])
        if expert >= 0 and room[expert] > 0:
            room[expert] -= 1
            kept[slot] = True
    return kept.view_as(indices)


@settings(max_examples=60, deadline=None)
@given(tokens=st.integers(0, 8), k=st.integers(0, 3), experts=st.integers(1, 4), data=st.data())
def test_equals_the_definition_slot_by_slot(tokens, k, experts, data):
    indices = data.draw(st.lists(st.integers(-1, experts - 1), min_size=tokens * k, max_size=tokens * k))
    indices = torch.tensor(indices, dtype=torch.int64).view(tokens, k)
    weights = torch.tensor(
        data.draw(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=tokens * k, max_size=tokens * k))
    )
    weights = weights.view(tokens, k).double()
    capacity = data.draw(
        st.sampled_from([None, Capacity(slots=1), Capacity(slots=2), Capacity(slots=2, by_weight=True)])
    )
    plan = dispatch(indices, weights, experts, capacity)
    limit = capacity.slots if capacity else tokens * k
    kept = served(indices, weights, experts, limit, capacity is not None and capacity.by_weight)
    assert torch.equal(plan.dropped, (indices >= 0) & ~kept)
    assert sorted(plan.order.tolist()) == kept.flatten().nonzero().flatten().tolist()
    by_expert = indices.flatten()[plan.order]
    assert torch.equal(by_expert, by_expert.sort().values)
    assert torch.equal(plan.counts, by_expert.bincount(minlength=experts))
    values = torch.randn(tokens, 3, dtype=torch.float64)
    assert torch.equal(plan.gather(values), values[plan.order // max(k, 1)])
    expected = values * (weights * kept).sum(1, keepdim=True)
    torch.testing.assert_close(plan.combine(plan.gather(values), weights), expected)


@pytest.mark.parametrize("capacity", [None, Capacity(slots=2)])
def test_first_and_second_derivatives(capacity):
    indices = torch.tensor([[0, 2], [2, -1], [2, 1], [-1, -1]])
    tokens = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(4, 2, dtype=torch.float64, requires_grad=True)
    plan = dispatch(indices, weights, 3, capacity)

    def through(tokens, weights):
        return plan.combine(plan.gather(tokens).tanh(), weights)

    assert gradcheck(through, (tokens, weights), check_forward_ad=True)
    assert gradgradcheck(through, (tokens, weights))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_and_rounded_once(dtype):
    torch.manual_seed(0)
    indices = torch.randint(0, 4, (64, 4))
    values, weights = torch.randn(256, 8).to(dtype), torch.rand(64, 4).to(dtype)
    plan = dispatch(indices, weights, 4)
    ours = plan.combine(values, weights).double()
    exact = plan.combine(values.double(), weights.double())
    assert ((ours - exact).abs() <= torch.finfo(dtype).eps * exact.abs().clamp_min(1)).all()


@pytest.mark.parametrize(
    ("capacity", "load", "limit"),
    [
        (Capacity(factor=1.0), [8, 0], 4),
        (Capacity(factor=1.1), [9, 11], 11),  # 1.1 is stored as slightly more than 11/10
        (Capacity(factor=1.5), [3, 0], 3),
        (Capacity(factor=0.01), [3, 4], 1),
        (Capacity(factor=1.0), [0, 0], 0),
        (Capacity(slots=3), [0, 9], 3),
    ],
)
def test_the_limit_is_the_factor_times_the_mean_load_rounded_up(capacity, load, limit):
    assert int(capacity.limit(torch.tensor(load))) == limit


def test_served_by_weight_a_later_token_pushes_out_an_earlier_one_and_otherwise_not():
    indices, weights = torch.zeros(3, 1, dtype=torch.int64), torch.tensor([[0.1], [0.9], [0.5]])
    by_token = dispatch(indices, weights, 1, Capacity(slots=2)).dropped
    by_weight = dispatch(indices, weights, 1, Capacity(slots=2, by_weight=True)).dropped
    assert by_token.flatten().tolist() == [False, False, True]
    assert by_weight.flatten().tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (Capacity, "factor or slots must be given, and not both, got None and None"),
        (lambda: Capacity(1.0, 3), "factor or slots must be given, and not both"),
        (lambda: Capacity(factor=0.0), "factor must be a finite number > 0, got 0.0"),
        (lambda: Capacity(slots=0), "slots must be a whole number >= 1, got 0"),
        (lambda: Capacity(slots=1.5), "slots must be a whole number >= 1, got 1.5"),
        (
            lambda: dispatch(torch.tensor([[4]]), torch.ones(1, 1), 4),
            r"indices must lie in \[-1, 3\], got values from 4 to 4",
        ),
        (lambda: dispatch(torch.tensor([[-2]]), torch.ones(1, 1), 4), r"indices must lie in \[-1, 3\]"),
    ],
)
def test_bad_input_is_one_clear_error(build, message):
    with pytest.raises(ValueError, match=message):
        build()
