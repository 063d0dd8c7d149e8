"""Checkpoint files that are there as a whole or not at all, and that show when a byte of them has changed.

A file is written under another name in the same folder, brought to the disk and renamed, so that a process that is killed, a machine
that stops and a disk that is full leave the file that was there before. Its last bytes are a digest of all others, in the comment
that ends every zip archive: `torch.load` and `unzip` read the file as they read any checkpoint.
"""

from __future__ import annotations

import errno
import hashlib
import os
import pickle
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch

MARK = b"sparsek sha256 "
_SEAL = len(MARK) + 64  # bytes of a seal
_END = 22  # bytes of the record that ends a zip archive, before its comment
_READ_ERRORS = (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError, zipfile.BadZipFile)


class CheckpointError(ValueError):
    """A checkpoint that cannot be used: missing, damaged, foreign, or one that would run code."""


def write_sealed(value: Any, path: str | Path) -> None:
    """Save `value` with `torch.save`, sealed, in one step: until it is whole, what was at `path` stays.

    Args:
        value: Anything `torch.save` takes.
        path: Of the file. Its folder is made where it is missing.

    Raises:
        OSError: If the disk is full or cannot be written to. Nothing of the attempt stays.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_sealed({"state_dict": {"w": torch.ones(2)}}, f"{folder}/a.ckpt")
        ...     read_sealed(f"{folder}/a.ckpt")
        {'state_dict': {'w': tensor([1., 1.])}}
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        try:
            torch.save(value, file)
        except RuntimeError as error:
            raise _cause(error) from error
        _seal(file)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file beside `path` that takes its place once it is whole and on the disk."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise
    _sync_folder(path.parent)


def remove_parts(folder: Path) -> None:
    """Remove what killed processes left half written in a folder."""
    for part in folder.glob(".*.part"):
        part.unlink(missing_ok=True)


def check_seal(path: str | Path) -> bool:
    """Whether a file is sealed; compares the digest where it is.

    Raises:
        CheckpointError: If bytes have changed since the file was written.
    """
    with Path(path).open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - _SEAL - _END, 0))
        comment, declared = _comment(file.read())
        if declared == len(comment) != _SEAL:
            return False
        file.seek(0)
        if declared != len(comment) or comment != MARK + _digest(file, size - _SEAL):
            raise CheckpointError(f"{str(path)!r} is damaged: its bytes are not those that were written")
    return True


def read_sealed(path: str | Path, map_location: Any = "cpu", weights_only: bool = True) -> dict[str, Any]:
    """Read a checkpoint, sealed or not, without running code that it may hold.

    Args:
        path: Of the file.
        map_location: As in `torch.load`.
        weights_only: False runs what the file says, as `pickle` does: for files of your own alone.

    Raises:
        CheckpointError: If the file is missing, damaged, no checkpoint of Lightning, or holds more than plain values and tensors.
    """
    if not Path(path).is_file():
        raise CheckpointError(f"{str(path)!r} is not there")
    try:
        check_seal(path)
        checkpoint = torch.load(path, map_location=map_location, weights_only=weights_only)
    except CheckpointError:
        raise
    except _READ_ERRORS as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{str(path)!r} cannot be read as a checkpoint: {reason}") from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise CheckpointError(f"{str(path)!r} is not a Lightning checkpoint: it holds no state_dict")
    return checkpoint


def _seal(file: BinaryIO) -> None:
    """Write the comment: its length into the last two bytes of the archive, then the digest of everything so far."""
    end = file.seek(0, os.SEEK_END)
    file.seek(end - 2)
    if file.read() != b"\0\0":
        raise RuntimeError("torch.save wrote no zip archive; its older format cannot be sealed")
    file.seek(end - 2)
    file.write(_SEAL.to_bytes(2, "little"))
    file.seek(0)
    digest = _digest(file, end)
    file.seek(end)
    file.write(MARK + digest)


def _comment(tail: bytes) -> tuple[bytes, int]:
    """What ends an archive after its last record, and how long it should be."""
    end = tail.rfind(b"PK\5\6")
    if end >= 0:
        return tail[end + _END :], int.from_bytes(tail[end + _END - 2 : end + _END], "little")
    seal = tail[-_SEAL:]
    return (seal, _SEAL) if seal.startswith(MARK) else (b"", 0)


def _digest(file: BinaryIO, size: int) -> bytes:
    digest = hashlib.sha256()
    while size and (block := file.read(min(size, 1 << 20))):
        digest.update(block)
        size -= len(block)
    return digest.hexdigest().encode()


def _cause(error: RuntimeError) -> Exception:
    """What the system said, where torch hides it behind its own words."""
    context = error.__context__
    if isinstance(context, OSError):
        return OSError(context.errno or errno.EIO, context.strerror or str(context))
    return error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    """Bring the new name to the disk, where the system lets a folder be opened."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
