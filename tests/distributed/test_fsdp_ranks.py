"""The transformer and the autoencoder under FSDP2 train as on one process. One group for all cases."""

import pytest
from spawned_ranks import assert_silent, group

pytest.importorskip("lightning")
from fsdp_cases import CASES

pytestmark = pytest.mark.slow


two = group(2, "fsdp_cases")


@pytest.mark.parametrize("name", [case.__name__ for case in CASES])
def test_two_ranks(two, name):
    assert_silent(two[name])
