"""Checks of values are on, as in a fresh process: the first `torch.compile` of one switches the default of torch off."""

from collections.abc import Iterator

import pytest
from torch.distributions import Distribution


@pytest.fixture(autouse=True)
def validated() -> Iterator[None]:
    """Switch the checks of `torch.distributions` on, and back to what they were."""
    before = Distribution._validate_args
    Distribution.set_default_validate_args(True)
    yield
    Distribution.set_default_validate_args(before)
