"""The state of every source of randomness of a run: the global ones of this process, and the private ones of objects."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Generators = torch.Generator | np.random.Generator | random.Random
_LEAVES = (str, bytes, int, float, complex, bool, Tensor, np.ndarray, type, type(None))
_OF_MODULES = frozenset(vars(nn.Module()))
_LONGEST = 10_000
"""Sequences with more entries are data."""


def global_state() -> dict[str, Any]:
    """The states of torch (CPU and CUDA), numpy and Python, as plain values and tensors.

    Example:
        >>> state = global_state()
        >>> first = torch.rand(3), random.random()
        >>> set_global_state(state)
        >>> torch.equal(torch.rand(3), first[0]), random.random() == first[1]
        (True, True)
    """
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)  # noqa: NPY002 - the global generator itself
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "numpy": [
            str(name),
            torch.from_numpy(np.asarray(keys).astype(np.int64)),
            int(position),
            int(has_gauss),
            float(gauss),
        ],
        "python": random.getstate(),
    }


def set_global_state(state: Mapping[str, Any]) -> None:
    """Go back to a state that :func:`global_state` gave; CUDA devices that are not there are left out."""
    torch.set_rng_state(state["torch"].cpu())
    for device, value in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(value.cpu(), device)
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002 - as above
    version, values, gauss = state["python"]
    random.setstate((version, tuple(values), gauss))


def private_generators(roots: Mapping[str, Any]) -> dict[str, Generators]:
    """Every generator that objects hold, by its path, such as `module.network.gate.generator`.

    Attributes, entries of mappings and sequences, and the fields of dataclasses are looked through; a generator that several objects
    share is found once, under its first path.

    Example:
        >>> layer = nn.Dropout()
        >>> layer.generator = torch.Generator()
        >>> list(private_generators({"module": nn.Sequential(nn.Identity(), layer)}))
        ['module.1.generator']
    """
    seen: set[int] = set()
    return dict(pair for name, root in roots.items() for pair in _walk(name, root, seen))


def private_state(generators: Mapping[str, Generators]) -> dict[str, Any]:
    """The states of generators, by path, as plain values and tensors."""
    return {path: _state(generator) for path, generator in generators.items()}


def set_private_state(generators: Mapping[str, Generators], states: Mapping[str, Any]) -> None:
    """Set generators to saved states.

    Raises:
        ValueError: If a generator was saved that is not there: the run would draw other numbers.
    """
    missing = sorted(set(states) - set(generators))
    if missing:
        raise ValueError(f"the checkpoint holds the states of generators that this run has not: {', '.join(missing)}")
    for path, state in states.items():
        _set(generators[path], state)


def _walk(path: str, value: Any, seen: set[int]) -> Iterator[tuple[str, Generators]]:
    if isinstance(value, _LEAVES) or id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Generators):
        yield path, value
        return
    for name, part in _parts(value):
        yield from _walk(f"{path}.{name}", part, seen)


def _parts(value: Any) -> Iterable[tuple[str, Any]]:
    """What an object holds: entries of containers, modules of modules, attributes of objects that are not of a framework."""
    if isinstance(value, Mapping):
        return [(str(name), part) for name, part in value.items()]
    if isinstance(value, list | tuple | set | frozenset):
        return [(str(i), part) for i, part in enumerate(value)] if len(value) <= _LONGEST else []
    if isinstance(value, nn.Module):
        return [
            *value._modules.items(),
            *((name, part) for name, part in vars(value).items() if name not in _OF_MODULES),
        ]
    return list(getattr(value, "__dict__", {}).items()) if _of_a_user(value) else []


def _of_a_user(value: Any) -> bool:
    package = type(value).__module__.split(".")[0]
    return package not in ("builtins", "torch", "lightning", "torchmetrics", "numpy", "logging", "weakref", "threading")


def _state(generator: Generators) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, random.Random):
        return generator.getstate()
    return _plain(generator.bit_generator.state)


def _set(generator: Generators, state: Any) -> None:
    if isinstance(generator, torch.Generator):
        generator.set_state(state.cpu())
    elif isinstance(generator, random.Random):
        version, values, gauss = state
        generator.setstate((version, tuple(values), gauss))
    else:
        generator.bit_generator.state = _arrays(state)


def _plain(value: Any) -> Any:
    """A state of numpy without arrays and numbers of numpy; those of 64 bits without sign are kept as Python's."""
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _arrays(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _arrays(part) for name, part in value.items()}
    return np.asarray(value, dtype=np.uint64) if isinstance(value, list) else value
