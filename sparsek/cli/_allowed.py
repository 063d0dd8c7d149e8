"""What configuration files may name: a file from a stranger makes objects of known packages and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from jsonargparse import set_parsing_settings

ALLOWED = (
    "sparsek",
    *(
        f"lightning.pytorch.{part}"
        for part in ("accelerators", "callbacks", "loggers", "plugins", "profilers", "strategies")
    ),
    *(f"lightning.fabric.{part}" for part in ("accelerators", "plugins", "strategies")),
    "torch.nn",
    "torch.optim",
    "torch._C._nn",
    "torchmetrics",
)
"""Packages whose classes and functions a file may name; :data:`DENIED` lie within them."""

DENIED = ("*", "sparsek.cli", "sparsek.lab")

DANGEROUS = ("os", "posix", "nt", "subprocess", "builtins", "importlib", "runpy", "pickle", "shutil", "sys", "ctypes", "socket",
             "multiprocessing", "code", "pty", "functools", "operator", "torch", "lightning", "numpy", "jsonargparse")  # fmt: skip
"""Packages that naming a class of them on the command line does not allow: they are to be asked for with `--allow`."""

_PATH = re.compile(r"(?<![\w./\\-])[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+(?![\w/\\-])")


@contextmanager
def only_allowed(asked: Sequence[str] = ()) -> Iterator[None]:
    """Let jsonargparse import only what is allowed, or was asked for, as long as the context lasts; nothing more afterwards.

    The rule is jsonargparse's, which has one for the process: :data:`ALLOWED` stays allowed after the context, all else denied.

    Args:
        asked: Further packages, modules or classes.

    Raises:
        ValueError: If one is no import path.
    """
    set_parsing_settings(import_path_denylist=list(DENIED), import_path_allowlist=[*ALLOWED, *asked])
    try:
        yield
    finally:
        more = [path for path in asked if path not in ALLOWED]
        if more:
            set_parsing_settings(import_path_denylist=more)


def asked_for(words: Sequence[str]) -> list[str]:
    """What the user asks for: after `--allow`, and the packages of class paths that are typed on the command line.

    A class path that somebody types is meant; one that is dangerous by itself (:data:`DANGEROUS`) needs `--allow` all the same.

    Example:
        >>> asked_for(["fit", "-c", "a.yaml", "--model=mine.Task", "--allow", "theirs", "--data=os.system"])
        ['theirs', 'mine']
    """
    named = list(_after_allow(words))
    typed = [path.split(".")[0] for word in _values(words) for path in _PATH.findall(word)]
    own = [package for package in typed if package not in DANGEROUS and package not in ALLOWED]
    return list(dict.fromkeys([*named, *own]))


def _after_allow(words: Sequence[str]) -> Iterator[str]:
    taking = False
    for word in words:
        if word.startswith("--allow="):
            yield word.removeprefix("--allow=")
        elif word.startswith("-"):
            taking = word == "--allow"
        elif taking:
            yield word


def _values(words: Sequence[str]) -> Iterator[str]:
    """What the words give as values, but not the names of files."""
    files = ("-c", "--config", "--ckpt_path")
    for before, word in zip(["", *words], words, strict=False):
        if before in files or word.split("=")[0] in files:
            continue
        yield word.partition("=")[2] if word.startswith("-") else word
