"""Tests of sigmoid top-k run by every execution that this machine has."""

import pytest

from sparsek.kernels import Backend, available, use_backends


@pytest.fixture(scope="module", params=[Backend.EAGER, Backend.NATIVE], ids=lambda backend: backend.value)
def execution(request):
    """Only this execution may run."""
    if not available(request.param):
        pytest.skip(f"{request.param} is not there")
    with use_backends(request.param):
        yield request.param
