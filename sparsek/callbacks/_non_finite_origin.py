"""Find what made the first number that is not finite in a step of training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn


class Origin(NamedTuple):
    """What was not finite first."""

    words: str
    """In words."""
    module: str | None
    """The module that made it, or holds the parameter."""


class _Found(NamedTuple):
    module: str
    kind: str
    nan: bool


def origin_of(module: LightningModule, batch: Any, batch_idx: int, generators: Sequence[Tensor]) -> Origin:
    """Look at the batch and the parameters; then run `training_step` again, with the random numbers of before, and look at all modules.

    Args:
        module: What is trained. Its state may move by another step: it is not trained any further.
        batch: Of the step.
        batch_idx: Its number.
        generators: States of torch's generators before the step: of the CPU, then of every CUDA device.
    """
    bad = first_bad(dict(tensors(batch)))
    if bad is not None:
        return Origin(f"the batch itself is not finite, in {bad!r}", None)
    bad = first_bad(dict(module.named_parameters()))
    if bad is not None:
        return Origin(f"parameter {bad!r} is not finite", bad.rpartition(".")[0])
    return _among_modules(_run_again(module, batch, batch_idx, generators))


def _among_modules(found: list[_Found]) -> Origin:
    """The first NaN, or else the first infinity: infinities inside can be in order, as scores of masked entries are."""
    first = next((each for each in found if each.nan), found[0] if found else None)
    if first is None:
        return Origin("the outputs of all modules are finite, the objective made of them is not", None)
    words = f"first in the output of module {first.module!r} ({first.kind})"
    before = [each for each in found[: found.index(first)] if each.module != first.module]
    return Origin(words + (f", after infinities from {before[0].module!r}" if before else ""), first.module)


def _run_again(module: LightningModule, batch: Any, batch_idx: int, generators: Sequence[Tensor]) -> list[_Found]:
    found: list[_Found] = []
    with torch.random.fork_rng(devices=range(len(generators) - 1)), _watched(module, found), _silent(module):
        torch.set_rng_state(generators[0])
        for device, state in enumerate(generators[1:]):
            torch.cuda.set_rng_state(state, device)
        with torch.no_grad():
            module.training_step(batch, batch_idx)
    return found


@contextmanager
def _watched(module: nn.Module, found: list[_Found]) -> Iterator[None]:
    """Hooks that note every module whose output is not finite while its inputs are, in the order in which they end."""

    def hook(name: str, each: nn.Module) -> Any:
        def look(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            made, given = dict(tensors(output)), dict(tensors((args, kwargs)))
            if first_bad(made) is not None and first_bad(given) is None:
                nan = any(bool(value.isnan().any()) for value in made.values())
                found.append(_Found(name, type(each).__name__, nan))

        return each.register_forward_hook(look, with_kwargs=True)

    handles = [hook(name, each) for name, each in module.named_modules() if name]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _silent(module: LightningModule) -> Iterator[None]:
    """Nothing that the module logs is logged."""
    for name in ("log", "log_dict"):
        module.__dict__[name] = lambda *arguments, **options: None
    try:
        yield
    finally:
        for name in ("log", "log_dict"):
            del module.__dict__[name]


def first_bad(values: Mapping[str, Any]) -> str | None:
    """The name of the first tensor with an entry that is not finite."""
    return next((name for name, value in values.items() if _real(value) and not bool(value.isfinite().all())), None)


def _real(value: Any) -> bool:
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())


def tensors(values: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors in nested tuples, lists and mappings, with their places."""
    if isinstance(values, Tensor):
        yield path or "tensor", values
    elif isinstance(values, Mapping):
        for name, value in values.items():
            yield from tensors(value, f"{path}.{name}".strip("."))
    elif isinstance(values, list | tuple):
        for name, value in zip(getattr(values, "_fields", range(len(values))), values, strict=True):
            yield from tensors(value, f"{path}.{name}".strip("."))
