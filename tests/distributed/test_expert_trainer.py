"""Experts under Lightning's DDP and FSDP2 strategies train, stop and resume as one process trains. One group for all cases."""

import pytest
from spawned_ranks import outcomes

pytest.importorskip("lightning")
from trainer_cases import CASES

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return outcomes("trainer_cases", 2, tmp_path_factory.mktemp("trainer"))


@pytest.mark.parametrize("name", [case.__name__ for case in CASES])
def test_two_ranks(two, name):
    for rank, said in enumerate(two[name]):
        assert not said, f"rank {rank}: {said}"
