"""Rows and batches spread over processes give what one process gives. The cases share one group: starting it takes seconds."""

import pytest
import torch
import torch.distributed as dist
from all_cases import CASES
from spawned_ranks import LIGHT, outcomes

from sparsek.distributed import batch_sigmoid_topk, sigmoid_topk

NAMES = [LIGHT, *(case.__name__ for case in CASES)]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return outcomes("all_cases", 2, tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    return outcomes("all_cases", 4, tmp_path_factory.mktemp("four"))


@pytest.mark.parametrize("name", NAMES)
def test_two_ranks(two, name):
    for rank, said in enumerate(two[name]):
        assert not said, f"rank {rank}: {said}"


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_four_ranks(four, name):
    for rank, said in enumerate(four[name]):
        assert not said, f"rank {rank}: {said}"


@pytest.mark.parametrize("operator", [sigmoid_topk, batch_sigmoid_topk])
def test_without_a_process_group_the_call_is_refused(operator):
    assert not dist.is_initialized()
    with pytest.raises(ValueError, match="group needs"):
        operator(torch.zeros(3), 1)
