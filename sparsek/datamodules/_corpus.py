"""A corpus: documents split by a hash of their path, a byte stream per kind and split, and a digest."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ._sources import TextSource

SPLITS = ("train", "val", "test")
SEPARATOR = b"\0"


def split_of(name: str, val_fraction: float, test_fraction: float) -> str:
    """The split of a document, from a hash of its name alone: adding or removing others never moves it.

    Example:
        >>> [split_of(f"file{i}.py", 0.25, 0.25) for i in range(4)]
        ['test', 'train', 'val', 'val']
    """
    place = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
    if place < test_fraction:
        return "test"
    return "val" if place < test_fraction + val_fraction else "train"


@dataclass(frozen=True)
class Corpus:
    """Byte streams, documents end to end with a zero byte after each."""

    domains: tuple[str, ...]
    """Names of the kinds of text."""
    streams: dict[str, tuple[Tensor, ...]]
    """For each split, one uint8 stream per domain."""
    digest: str
    """SHA-256 over the domains, paths and contents of all documents kept, in hexadecimal."""


def read_corpus(sources: Sequence[TextSource], val_fraction: float, test_fraction: float) -> Corpus:
    """Read, split and digest.

    A content that has come before in any source is left out, so that no copy of a training document is tested on.

    Args:
        sources: Kinds of text, at least one, with different names.
        val_fraction: Share of documents for validation, in (0, 1).
        test_fraction: Share of documents for testing, in (0, 1), with `val_fraction` below 1.

    Returns:
        The corpus.

    Raises:
        ValueError: If there is no source, a name comes twice, a source cannot be read, or a split of one is empty.
    """
    names = tuple(source.name for source in sources)
    if not names or len(set(names)) < len(names):
        raise ValueError(f"sources must be at least one, with different names, got {list(names)}")
    seen: set[bytes] = set()
    digest = hashlib.sha256()
    splits = [_read_source(source, val_fraction, test_fraction, seen, digest) for source in sources]
    streams = {split: tuple(by_split[split] for by_split in splits) for split in SPLITS}
    return Corpus(names, streams, digest.hexdigest())


def _read_source(
    source: TextSource, val_fraction: float, test_fraction: float, seen: set[bytes], digest: hashlib._Hash
) -> dict[str, Tensor]:
    parts: dict[str, bytearray] = {split: bytearray() for split in SPLITS}
    for document in source.documents():
        content = hashlib.sha256(document.content).digest()
        if content in seen or not document.content:
            continue
        seen.add(content)
        digest.update(f"{source.name}\0{document.path}\0".encode() + content)
        parts[split_of(document.path, val_fraction, test_fraction)] += document.content + SEPARATOR
    for split, part in parts.items():
        if not part:
            raise ValueError(
                f"text source {source.name!r} ({source}) has no text for the {split} split; it needs more files"
            )
    return {split: torch.frombuffer(part, dtype=torch.uint8) for split, part in parts.items()}
