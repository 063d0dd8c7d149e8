"""Build a C++ source of this folder on first use, and keep the library for the next process.

No header of torch or Python is included, so that a build takes seconds, and the library is called through :mod:`ctypes`.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

_SOURCES = Path(__file__).parent
_FLAGS = ("-std=c++17", "-O3", "-shared", "-fPIC", "-fno-math-errno", "-fno-trapping-math", "-w")
_PREFERRED = (("-march=native", "-fopenmp"), ("-march=native",), ())
_logger = logging.getLogger(__name__)


class BuildError(RuntimeError):
    """The C++ source could not be built; the message is the compiler's."""


@cache
def load(name: str) -> ctypes.CDLL | None:
    """Return the library of `name`.cpp, built if need be; None, and a line in the log, where it cannot be had."""
    try:
        return ctypes.CDLL(str(build(name)))
    except (BuildError, OSError) as error:
        _logger.info("sparsek runs without its C++ kernels: %s", error)
        return None


def build(name: str) -> Path:
    """Build `name`.cpp unless the same source, compiler and processor built it before.

    Returns:
        The path of the shared library, in `SPARSEK_CACHE` or the user's cache folder.

    Raises:
        BuildError: No compiler was found, or it failed.
    """
    compiler = find_compiler()
    if compiler is None:
        raise BuildError("no C++ compiler was found (set CXX, or install g++ or clang++)")
    path = cache_folder() / f"{name}-{_fingerprint(name, compiler)}.so"
    if not path.exists():
        _compile(compiler, _SOURCES / f"{name}.cpp", path)
    return path


def find_compiler() -> str | None:
    """Return the path of a C++ compiler: `CXX` if set, else the first of c++, g++, clang++ on the path."""
    for name in (os.environ.get("CXX"), "c++", "g++", "clang++"):
        path = shutil.which(name) if name else None
        if path:
            return path
    return None


def cache_folder() -> Path:
    """Return the folder of built libraries, made for this user alone; a temporary one where none can be written."""
    base = os.environ.get("XDG_CACHE_HOME")
    chosen = os.environ.get("SPARSEK_CACHE")
    try:
        folder = Path(chosen) if chosen else (Path(base) if base else Path.home() / ".cache") / "sparsek"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except (OSError, RuntimeError):
        _logger.debug("no cache folder can be written", exc_info=True)
    return _temporary_folder()


@cache
def _temporary_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="sparsek-"))


def _fingerprint(name: str, compiler: str) -> str:
    """Of all that decides the machine code: sources, compiler, flags and, since they are native, the processor."""
    digest = hashlib.sha256(f"{compiler} {_FLAGS} {_PREFERRED} {_processor()}".encode())
    for path in (_SOURCES / f"{name}.cpp", *sorted(_SOURCES.glob("*.h"))):
        digest.update(path.read_bytes())
    digest.update(subprocess.run([compiler, "--version"], capture_output=True, check=False).stdout)
    return digest.hexdigest()[:16]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))


def _compile(compiler: str, source: Path, target: Path) -> None:
    """Compile into a temporary file and move it: two processes may build at once."""
    message = ""
    for extra in _PREFERRED:
        descriptor, part = tempfile.mkstemp(dir=target.parent, suffix=".so")
        os.close(descriptor)
        command = [compiler, *_FLAGS, *extra, "-o", part, str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            os.replace(part, target)
            return
        os.unlink(part)
        message = f"{' '.join(command)}\n{done.stderr}"
    raise BuildError(message)
