"""Two processes balance, learn and measure as one does with the whole batch."""

import pytest
from router_cases import CASES
from spawned_ranks import assert_silent, group

two = group(2, "router_cases")


@pytest.mark.parametrize("name", [case.__name__ for case in CASES])
def test_two_processes(two, name):
    assert_silent(two[name])
