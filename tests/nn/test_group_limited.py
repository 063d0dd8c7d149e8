"""Group-limited top-k: against brute force, its limits, its place in a router."""

from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsek.nn import GroupLimited, Router, SigmoidGate, SignBias


def choose(selection, scores, k):
    return selection(scores, scores, k, mask=torch.ones(scores.shape[:-1], dtype=torch.bool), training=True)


def brute_force(scores, k, groups, kept, best):
    """The best groups among all sets of groups, then the best experts among all sets of their experts."""
    size = len(scores) // groups
    members = [range(g * size, (g + 1) * size) for g in range(groups)]
    strength = [sum(sorted((scores[e] for e in group), reverse=True)[:best]) for group in members]
    sets = max(combinations(range(groups), kept), key=lambda chosen: sum(strength[g] for g in chosen))
    return set(
        max(combinations([e for g in sets for e in members[g]], k), key=lambda some: sum(scores[e] for e in some))
    )


@given(st.sampled_from([(2, 4), (4, 2), (3, 3), (1, 6), (8, 1)]), st.data())
@settings(max_examples=40, deadline=None)
def test_agrees_with_brute_force(shape, data):
    groups, size = shape
    kept, best = data.draw(st.integers(1, groups)), data.draw(st.integers(1, 3))
    k = data.draw(st.integers(1, kept * size))
    scores = torch.randn(2, 3, groups * size, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 99))))
    chosen = choose(GroupLimited(groups, kept, best), scores, k)
    assert chosen.shape == (2, 3, k)
    for row, found in zip(scores.double().flatten(0, 1).tolist(), chosen.flatten(0, 1).tolist(), strict=True):
        assert set(found) == brute_force(row, k, groups, kept, best)
        assert [row[e] for e in found] == sorted((row[e] for e in found), reverse=True)


def test_ties_go_to_the_lowest_group_and_index():
    assert choose(GroupLimited(4, 2), torch.zeros(3, 8), 3).tolist() == [[0, 1, 2]] * 3


def test_a_router_moves_its_bias_within_the_limit():
    torch.manual_seed(0)
    router = Router(6, 8, 2, gate=SigmoidGate(), selection=GroupLimited(4, 2), balancer=SignBias(0.01))
    for _ in range(5):
        routing = router(torch.randn(50, 6))
        assert ((routing.indices // 2).sort(-1).values.diff(dim=-1).count_nonzero(-1) < 2).all()
        router.observe(routing)
        router.step()
    assert router.bias.any()
    routing.weights.sum().backward()
    assert router.weight.grad is not None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 1), "groups and best must be at least 1, got 0 and 2"),
        ((4, 2, 0), "groups and best must be at least 1, got 4 and 0"),
        ((4, 5), r"kept must lie in \[1, groups = 4\], got 5"),
        ((4, 0), r"kept must lie in \[1, groups = 4\], got 0"),
    ],
)
def test_numbers_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        GroupLimited(*arguments)


def test_numbers_that_do_not_fit():
    with pytest.raises(ValueError, match="groups must divide the number of experts 8, got 3"):
        choose(GroupLimited(3, 2), torch.zeros(2, 8), 2)
    with pytest.raises(ValueError, match="k must be at most the 2 experts of the kept groups, got 3"):
        choose(GroupLimited(4, 1), torch.zeros(2, 8), 3)
