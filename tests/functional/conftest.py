"""Operators run by every execution that this machine has."""

import pytest

from sparsek.functional import _sparse_products as products
from sparsek.kernels import Backend, available, use_backends


@pytest.fixture(scope="module", params=[Backend.EAGER, Backend.NATIVE], ids=lambda backend: backend.value)
def execution(request):
    """Only this execution may run."""
    if not available(request.param):
        pytest.skip(f"{request.param} is not there")
    with use_backends(request.param):
        yield request.param


ROUTES = {"bags": (Backend.EAGER, 1.0), "dense": (Backend.EAGER, 0.0), "native": (Backend.NATIVE, 1.0)}


@pytest.fixture(params=ROUTES)
def route(request, monkeypatch):
    """One way to compute the products: bags of torch, a dense matrix, or C++."""
    backend, full = ROUTES[request.param]
    if not available(backend):
        pytest.skip(f"{backend} is not there")
    monkeypatch.setattr(products, "FULL", full)
    with use_backends(backend):
        yield
