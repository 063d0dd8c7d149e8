"""The executions of an operator as rows of a table: how each is switched on, and where it cannot run."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TypeVar

import torch
from timing import Call

from sparsek import kernels
from sparsek.kernels import Backend, use_backends

Function = TypeVar("Function", bound=Callable[..., object])
Key = tuple[str, str]
"""The names of an operation and of its execution."""


class Execution(enum.Enum):
    """How a call of the package runs."""

    EAGER = "eager"
    """Tensor operations."""
    COMPILED = "compiled"
    """`torch.compile(fullgraph=True)`, as a user has it: the operators of its graph run by what is fastest there."""
    NATIVE = "native"
    """C++, built on first use."""
    TRITON = "triton"
    """Triton kernels on CUDA."""

    def context(self) -> AbstractContextManager[None]:
        """Return a context in which this execution runs."""
        extra = {
            Execution.COMPILED: tuple(Backend),
            Execution.NATIVE: (Backend.NATIVE,),
            Execution.TRITON: (Backend.TRITON,),
        }
        return use_backends(Backend.EAGER, *extra.get(self, ()))

    def prepare(self, function: Function) -> Function:
        """Return the function to call under :meth:`context`."""
        if self is not Execution.COMPILED:
            return function
        torch.compiler.reset()
        return torch.compile(function, fullgraph=True, dynamic=False)

    def missing(self, device: str) -> str:
        """Say why this execution cannot run on a device of this machine; "" where it can."""
        if self is Execution.NATIVE:
            reason = "it runs on the CPU" if device != "cpu" else ""
            return reason or ("" if kernels.available(Backend.NATIVE) else "no compiler was found")
        if self is Execution.TRITON:
            reason = "it runs on CUDA" if device != "cuda" else ""
            return reason or ("" if kernels.available(Backend.TRITON) else "triton is not installed")
        return ""


def chosen(names: Iterable[str] | None, device: str) -> list[Execution]:
    """Return the executions of these names (all, if None) that can run on a device, and print why others cannot."""
    wanted = list(Execution) if names is None else [Execution(name) for name in names]
    reasons = {execution: execution.missing(device) for execution in wanted}
    for execution, reason in reasons.items():
        if reason:
            print(f"skipped {execution.value}: {reason}", flush=True)
    return [execution for execution, reason in reasons.items() if not reason]


def warm(calls: Mapping[Key, Call]) -> Iterator[tuple[Key, Call]]:
    """Run every call once; pass on those that ran, and print the error of one that did not."""
    for key, call in calls.items():
        try:
            with call.context():
                call.run()
        except Exception as error:  # of any kind: a peer's, a compiler's or a device's
            print(f"skipped {', '.join(key)}: {type(error).__name__}: {str(error).partition(chr(10))[0]}", flush=True)
        else:
            yield key, call
