"""Faster executions of the core: C++ on the CPU, Triton on CUDA. :mod:`sparsek.functional` picks one by device and dtype."""

from ._available import available as available
from ._backend import Backend as Backend
from ._backend import use_backends as use_backends

__all__ = ["Backend", "available", "use_backends"]
