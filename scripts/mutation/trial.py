"""Run tests against a changed file, in a fork: torch is imported once, sparsek anew each time."""

from __future__ import annotations

import importlib
import os
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from covering import OPTIONS, same_examples_every_time

IMPORTED_ONCE = (
    "torch",
    "torch.distributions",
    "torch._dynamo",
    "numpy",
    "scipy.stats",
    "scipy.optimize",
    "mpmath",
    "hypothesis",
    "torchmetrics",
)
MEMORY = 8 * 2**30
"""Bytes of data a trial may hold: a mutant may ask for a tensor of any size."""
START = 30.0
"""Seconds that a trial may take to begin, beside five times the seconds of its tests."""


def prepare() -> None:
    """Import what does not change. No tensor is computed here, so that forks have no threads to miss."""
    for name in IMPORTED_ONCE:
        importlib.import_module(name)


@contextmanager
def changed(path: Path, source: str) -> Iterator[None]:
    """Put a source in the place of a file for a while; compiled bytes of either are never taken for the other's."""
    original = path.read_text(encoding="utf-8")
    try:
        _replace(path, source)
        yield
    finally:
        _replace(path, original)


def _replace(path: Path, source: str) -> None:
    path.write_text(source, encoding="utf-8")
    for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
        compiled.unlink()


def survives(root: Path, tests: list[str], seconds: float, log: Path) -> bool | None:
    """Return whether all tests pass; None where they did not end in time."""
    child = os.fork()
    if child == 0:
        _be_the_trial(root, tests, log)
    deadline = time.monotonic() + START + 5 * seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status) == pytest.ExitCode.OK
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _be_the_trial(root: Path, tests: list[str], log: Path) -> None:
    """Become a process that runs the tests and ends with pytest's status."""
    status = 99
    try:
        os.setpgrp()
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.chdir(root)
        same_examples_every_time()
        status = pytest.main(["-x", *OPTIONS, *tests])
    finally:
        os._exit(int(status))
