"""The verdict on one case: a right result, a refusal in our own words, or a failure of the library.

A case is a call with the law that its result obeys and what is known of the call beforehand. A refusal counts as ours only if a
`raise` statement of sparsek made it and its message names the argument that was broken: an error that torch raised, even if it
was called from sparsek, is foreign.
"""

from __future__ import annotations

import dis
import signal
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch

import sparsek

ROOT = str(Path(sparsek.__file__).parent)
REFUSALS = (ValueError, TypeError, RuntimeError, NotImplementedError)
SECONDS = 30.0
RIGHT, REFUSED = "right", "refused"


class Undocumented(AssertionError):
    """An outcome that no docstring promises."""


class Hang(BaseException):
    """A case that did not end in time."""


@dataclass(frozen=True)
class Case:
    """One call.

    Attributes:
        call: Runs it.
        law: Raises `AssertionError` where the result is not what the documentation says.
        broken: Words of which a refusal must name one: the argument that was made illegal. None: the call is legal.
        may_refuse: Words of the refusals that a legal call may meet, because the documentation says so (no formula, too large).
        trusted: Parts of paths whose `raise` statements count as ours, too: torch.distributions, where its contract is inherited.
        note: What is needed to read the case again.
    """

    call: Callable[[], Any]
    law: Callable[[Any], None]
    broken: tuple[str, ...] | None = None
    may_refuse: tuple[str, ...] = ()
    trusted: tuple[str, ...] = ()
    note: str = ""


@dataclass
class Tally:
    """How many cases ended how, by the name of what was called."""

    ends: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    notes: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))

    def add(self, name: str, case: Case, end: str) -> None:
        self.ends[name][end] += 1
        self.notes[name].add(hash(case.note))

    @property
    def cases(self) -> int:
        return sum(sum(ends.values()) for ends in self.ends.values())


def judge(case: Case) -> str:
    """Run a case; return `RIGHT` or `REFUSED`, or raise `Undocumented`."""
    try:
        with time_limit(), warnings.catch_warnings():
            warnings.simplefilter("error")
            result = case.call()
    except REFUSALS as error:
        return _refusal(case, error)
    except Hang as hang:
        raise Undocumented(f"no answer within {SECONDS} s: {case.note}") from hang
    except Exception as error:
        raise Undocumented(f"{type(error).__name__}: {error}: {case.note}") from error
    if case.broken is not None:
        raise Undocumented(f"was not refused, though {case.broken} is illegal: {case.note}")
    _obey(case, result)
    return RIGHT


def _obey(case: Case, result: Any) -> None:
    try:
        with time_limit(), warnings.catch_warnings():
            warnings.simplefilter("error")
            case.law(result)
    except Hang as hang:
        raise Undocumented(f"no gradient within {SECONDS} s: {case.note}") from hang
    except AssertionError as error:
        raise Undocumented(f"wrong result: {error}: {case.note}") from error
    except Exception as error:
        raise Undocumented(f"the result is past checking: {type(error).__name__}: {error}: {case.note}") from error


def _refusal(case: Case, error: Exception) -> str:
    if not ours(error.__traceback__, case.trusted):
        raise Undocumented(f"foreign {type(error).__name__}: {error}: {case.note}") from error
    words = (*(case.broken or ()), *case.may_refuse)
    if not words:
        raise Undocumented(f"refused a legal call with {error!r}: {case.note}") from error
    if not any(word in str(error) for word in words):
        raise Undocumented(f"refusal names none of {words}: {error!r}: {case.note}") from error
    return REFUSED


def ours(trace: TracebackType | None, trusted: tuple[str, ...] = ()) -> bool:
    """Whether the error was made by a `raise` in a file of sparsek, or one that is `trusted`."""
    if trace is None:
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code
    known = code.co_filename.startswith(ROOT) or any(part in code.co_filename for part in trusted)
    return known and dis.opname[code.co_code[trace.tb_lasti]] == "RAISE_VARARGS"


@contextmanager
def time_limit() -> Iterator[None]:
    """Interrupt what takes longer than `SECONDS`."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def holds(condition: object, message: object = "") -> None:
    """An assertion that `python -O` keeps."""
    if isinstance(condition, torch.Tensor):
        condition = bool(condition.all())
    if not condition:
        raise AssertionError(message() if callable(message) else message)
