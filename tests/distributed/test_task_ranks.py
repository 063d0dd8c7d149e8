"""Language models, feature selection and pooling under DDP learn and measure as one process does. One group for all cases."""

import pytest
from spawned_ranks import assert_silent, group

pytest.importorskip("lightning")
from task_cases import CASES

pytestmark = pytest.mark.slow


two = group(2, "task_cases")


@pytest.mark.parametrize("name", [case.__name__ for case in CASES])
def test_two_ranks(two, name):
    assert_silent(two[name])
