"""Experts spread over processes give what one process gives: values, gradients, and a few steps of training. One group for all cases."""

import pytest
import torch.distributed as dist
from expert_cases import CASES
from spawned_ranks import LIGHT, outcomes

from sparsek.nn import Experts, ShardedExperts, sharded_parameters

NAMES = [LIGHT, *(case.__name__ for case in CASES)]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return outcomes("expert_cases", 2, tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    return outcomes("expert_cases", 4, tmp_path_factory.mktemp("four"))


@pytest.mark.parametrize("name", NAMES)
def test_two_ranks(two, name):
    for rank, said in enumerate(two[name]):
        assert not said, f"rank {rank}: {said}"


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_four_ranks(four, name):
    for rank, said in enumerate(four[name]):
        assert not said, f"rank {rank}: {said}"


def test_without_a_process_group_they_are_refused():
    assert not dist.is_initialized()
    with pytest.raises(ValueError, match="group needs"):
        ShardedExperts(8, 8, 4)


def test_experts_that_are_not_sharded_are_not_excluded():
    assert sharded_parameters(Experts(4, 4, 2)) == {}
