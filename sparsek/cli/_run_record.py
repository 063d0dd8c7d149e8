"""Where a run is kept while it is not finished: by what it is started with, so that the same command finds it again."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sparsek.callbacks._sealed_file import replacing

FOLDER = ".unfinished"
_PATIENCE = 5.0


@dataclass
class RunRecord:
    """A run that was begun and not ended. One file `<digest>-<number>.json`; a lock beside it is held while the run is alive."""

    file: Path
    versions: list[Any] = field(default_factory=list)
    """Version of each logger."""
    folders: list[str] = field(default_factory=list)
    """Where checkpoints are."""
    log_folder: str | None = None
    """Where its logs are."""

    def write(self) -> None:
        """Keep the record, in one step."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        content = {name: value for name, value in asdict(self).items() if name != "file"}
        with replacing(self.file) as file:
            file.write(json.dumps(content).encode())

    def remove(self) -> None:
        """The run has ended."""
        for path in (self.file, self.lock_file):
            path.unlink(missing_ok=True)
        with suppress(OSError):
            self.file.parent.rmdir()

    @property
    def lock_file(self) -> Path:
        """Locked by the process that runs."""
        return self.file.with_suffix(".lock")

    @property
    def alive(self) -> bool:
        """Whether a process is running it."""
        with suppress(FileNotFoundError), self.lock_file.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return True
        return False

    def lock(self) -> int:
        """Take the lock until the handle is closed or the process ends.

        Raises:
            RuntimeError: If another process has it.
        """
        self.file.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.lock_file, os.O_CREAT | os.O_RDWR, 0o666)
        end = time.monotonic() + _PATIENCE  # others only look, for a moment
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return handle
            except OSError as error:
                if time.monotonic() > end:
                    os.close(handle)
                    raise RuntimeError(f"another process runs the same in {self.log_folder!r}") from error
                time.sleep(0.05)


def find_record(root: Path, digest: str, resume: bool) -> tuple[RunRecord, bool]:
    """The record of a run that died, to go on with, and True; or a new one and False.

    Nothing is written, and every process of a run that begins finds the same.
    """
    for record in _records(root, digest) if resume else ():
        if not record.alive:
            return record, True
    taken = {path.stem for path in (root / FOLDER).glob(f"{digest}-*")}
    number = next(i for i in range(len(taken) + 1) if f"{digest}-{i}" not in taken)
    return RunRecord(root / FOLDER / f"{digest}-{number}.json"), False


def _records(root: Path, digest: str) -> Iterator[RunRecord]:
    for file in sorted((root / FOLDER).glob(f"{digest}-*.json")):
        with suppress(OSError, ValueError, TypeError):
            yield RunRecord(file, **json.loads(file.read_text()))
