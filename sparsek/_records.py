"""Named tuples with other values, in code that is compiled."""

from __future__ import annotations

from typing import Any, TypeVar

Record = TypeVar("Record", bound=tuple[Any, ...])


def replaced(record: Record, **values: Any) -> Record:
    """`record._replace(**values)`, which the compiler of torch 2.6 does not know.

    Example:
        >>> from sparsek.functional import SparseCode
        >>> replaced(SparseCode(1, 2), indices=3)
        SparseCode(values=1, indices=3)
    """
    names: tuple[str, ...] = type(record)._fields  # type: ignore[attr-defined]  # a named tuple
    return type(record)(*[values.get(name, getattr(record, name)) for name in names])
