"""Experts spread over processes give what one process gives: values, gradients, and a few steps of training. One group for all cases."""

import pytest
import torch
import torch.distributed as dist
from expert_cases import CASES
from spawned_ranks import LIGHT, assert_silent, group

from sparsek.nn import Experts, ShardedExperts, sharded_parameters

two, four = group(2, "expert_cases"), group(4, "expert_cases")
WITHOUT_FSDP2 = pytest.mark.skipif(torch.__version__ < "2.7", reason="fully_shard of torch 2.6 needs a GPU")
NAMES = [
    pytest.param(name, marks=WITHOUT_FSDP2 if name.startswith("fsdp2") else ())
    for name in (LIGHT, *(case.__name__ for case in CASES))
]


@pytest.mark.parametrize("name", NAMES)
def test_two_ranks(two, name):
    assert_silent(two[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_four_ranks(four, name):
    assert_silent(four[name])


def test_without_a_process_group_they_are_refused():
    assert not dist.is_initialized()
    with pytest.raises(ValueError, match="group needs"):
        ShardedExperts(8, 8, 4)


def test_experts_that_are_not_sharded_are_not_excluded():
    assert sharded_parameters(Experts(4, 4, 2)) == {}
