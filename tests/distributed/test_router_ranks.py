"""Two processes balance, learn and measure as one does with the whole batch."""

import pytest
from router_cases import CASES
from spawned_ranks import outcomes


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return outcomes("router_cases", 2, tmp_path_factory.mktemp("two"))


@pytest.mark.parametrize("name", [case.__name__ for case in CASES])
def test_two_processes(two, name):
    for rank, said in enumerate(two[name]):
        assert not said, f"rank {rank}: {said}"
