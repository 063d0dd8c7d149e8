"""wandb's offline file, read without its server: a log of records in blocks of 32 KiB, as LevelDB writes them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

_BLOCK, _HEADER = 32768, 7
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


def read_wandb(path: str | Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The settings and the lines of history of an offline run; the end of a file that was cut short is left out.

    Raises:
        ValueError: If the file is not one of wandb's, or wandb is not installed.
    """
    try:
        from wandb.proto import wandb_internal_pb2 as messages  # noqa: PLC0415 - only those who log to wandb have it
    except ImportError as error:
        raise ValueError(f"{str(path)!r} can be read with wandb installed alone") from error
    settings: dict[str, Any] = {}
    history: list[dict[str, Any]] = []
    for data in _records(Path(path)):
        record = cast(Any, messages).Record()
        record.ParseFromString(data)
        settings.update({item.key: json.loads(item.value_json) for item in record.run.config.update if item.key})
        settings.update({item.key: json.loads(item.value_json) for item in record.config.update if item.key})
        line = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        if line:
            history.append(line)
    return {name: value for name, value in settings.items() if name != "_wandb"}, history


def _records(path: Path) -> Iterator[bytes]:
    data = path.read_bytes()
    if data[:4] != b":W&B":
        raise ValueError(f"{str(path)!r} is not an offline file of wandb")
    place, parts = _HEADER, b""
    while place + _HEADER <= len(data):
        room = _BLOCK - place % _BLOCK
        if room < _HEADER:
            place += room
            continue
        size, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        chunk = data[place + _HEADER : place + _HEADER + size]
        if kind not in (_FULL, _FIRST, _MIDDLE, _LAST) or len(chunk) < size:
            return
        parts = chunk if kind in (_FULL, _FIRST) else parts + chunk
        if kind in (_FULL, _LAST):
            yield parts
        place += _HEADER + size
