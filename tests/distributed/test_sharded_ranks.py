"""Rows and batches spread over processes give what one process gives. The cases share one group: starting it takes seconds."""

import pytest
import torch
import torch.distributed as dist
from all_cases import CASES
from spawned_ranks import LIGHT, assert_silent, group

from sparsek.distributed import batch_sigmoid_topk, sigmoid_topk

two, four = group(2, "all_cases"), group(4, "all_cases")
NAMES = [LIGHT, *(case.__name__ for case in CASES)]


@pytest.mark.parametrize("name", NAMES)
def test_two_ranks(two, name):
    assert_silent(two[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_four_ranks(four, name):
    assert_silent(four[name])


@pytest.mark.parametrize("operator", [sigmoid_topk, batch_sigmoid_topk])
def test_without_a_process_group_the_call_is_refused(operator):
    assert not dist.is_initialized()
    with pytest.raises(ValueError, match="group needs"):
        operator(torch.zeros(3), 1)
