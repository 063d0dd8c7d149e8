"""Selections, relaxations and designs as JSON: the name of a class and its fields. Only classes of this package are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, cast

from sparsek import relaxations, sampling
from sparsek.nn import sparse_autoencoder
from sparsek.nn.sparse_autoencoder import LatentSelection, Refinement
from sparsek.relaxations import Relaxation
from sparsek.sampling import Design

_PLAIN = (bool, int, float, str, type(None))


@cache
def known() -> dict[str, type]:
    """Classes by name."""
    modules, bases = (sparse_autoencoder, relaxations, sampling), (LatentSelection, Refinement, Relaxation, Design)
    found = [getattr(module, name) for module in modules for name in module.__all__]
    return {
        kind.__name__: kind
        for kind in found
        if isinstance(kind, type) and issubclass(kind, bases) and is_dataclass(kind)
    }


def to_config(value: Any) -> Any:
    """A number, a tuple, or an object of a known class, as JSON holds it.

    Raises:
        ValueError: If there is anything else in it.
    """
    if isinstance(value, tuple):
        return [to_config(item) for item in value]
    if isinstance(value, _PLAIN):
        return value
    if known().get(type(value).__name__) is not type(value):
        raise ValueError(f"selection must be made of classes of sparsek to be written, got {value!r} in it")
    names = [each.name for each in fields(cast(Any, value))]
    return {"type": type(value).__name__, **{name: to_config(getattr(value, name)) for name in names}}


def from_config(config: Any) -> Any:
    """The inverse; lists become tuples.

    Raises:
        ValueError: If a class is not known, or refuses its fields.
    """
    if isinstance(config, list):
        return tuple(from_config(item) for item in config)
    if not isinstance(config, Mapping):
        return config
    kind = known().get(config.get("type", ""))
    if kind is None:
        raise ValueError(f"type must be one of {', '.join(sorted(known()))}, got {config.get('type')!r}")
    try:
        return kind(**{name: from_config(value) for name, value in config.items() if name != "type"})
    except TypeError as error:
        raise ValueError(
            f"{kind.__name__} must have the fields that it takes, got a configuration in which {error}"
        ) from error
