"""Every task under DDP learns and measures as one process does. One group for all cases."""

import pytest
from spawned_ranks import assert_silent, group

pytest.importorskip("lightning")
from task_cases import CASES, TASKS

from sparsek import tasks

two = group(2, "task_cases")


@pytest.mark.slow
@pytest.mark.parametrize("name", [case.__name__ for case in CASES])
def test_two_ranks(two, name):
    assert_silent(two[name])


def test_every_task_has_a_case_on_two_processes():
    named = {name: getattr(tasks, name) for name in tasks.__all__}
    own = {value for value in named.values() if isinstance(value, type) and hasattr(value, "training_step")}
    assert own == set(TASKS)
    assert all(TASKS.values())
