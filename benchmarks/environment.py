"""What a measurement was taken on: the machine, the versions, the commit and the date, as columns of every results file."""

from __future__ import annotations

import datetime
import importlib.util
import os
import platform
import re
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

HERE = Path(__file__).parent
INSTRUCTIONS = ("avx2", "fma", "avx512f", "avx512_bf16", "asimd", "sve")


@cache
def environment(device: str) -> dict[str, str]:
    """Return the columns that say where and with what a row was measured."""
    cuda = device == "cuda"
    return {
        "machine": torch.cuda.get_device_name() if cuda else _cpu("model name") or platform.processor(),
        "instructions": _capability() if cuda else _instructions(),
        "threads": "" if cuda else str(torch.get_num_threads()),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda or "" if cuda else "",
        "driver": driver() if cuda else "",
        "triton": _version("triton"),
        "compiler": _compiler(),
        "allocator": " ".join(
            f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith("MALLOC_")
        ),
        "commit": _commit(),
        "date": datetime.date.today().isoformat(),
    }


@cache
def driver() -> str:
    """Return the version of the CUDA driver; "" where nothing says it."""
    return _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").partition("\n")[0]


def slug(device: str) -> str:
    """Return the device as a part of a file's name: "cpu", "nvidia-h100-80gb-hbm3"."""
    return "cpu" if device == "cpu" else re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-")


def pin() -> None:
    """Keep this process to one thread on one core; call it before any work."""
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def installed(package: str) -> bool:
    """Whether a package can be imported."""
    return importlib.util.find_spec(package) is not None


def _cpu(field: str) -> str:
    """Return a field of the first processor of this machine, where the system tells."""
    try:
        found = re.search(rf"^{field}\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        return ""
    return found.group(1) if found else ""


def _instructions() -> str:
    flags = (_cpu("flags") or _cpu("Features")).split()
    return " ".join(name for name in INSTRUCTIONS if name in flags)


def _capability() -> str:
    major, minor = torch.cuda.get_device_capability()
    return f"sm_{major}{minor}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _compiler() -> str:
    """Return the first line of what the C++ compiler says about itself; "" where there is none."""
    return _output(os.environ.get("CXX", "c++"), "--version").partition("\n")[0]


def _commit() -> str:
    """Return the commit measured, with a "+" where the package differs from it."""
    commit = _output("git", "rev-parse", "--short", "HEAD")
    return commit + ("+" if _output("git", "status", "--porcelain", "--", "../sparsek") else "")


def _output(*words: str) -> str:
    """Return what a command prints; "" where it fails or does not exist."""
    try:
        done = subprocess.run(words, cwd=HERE, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
