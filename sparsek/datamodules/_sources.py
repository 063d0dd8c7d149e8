"""Where text comes from: small objects that yield documents."""

from __future__ import annotations

import glob
import importlib
import sysconfig
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch


class Document(NamedTuple):
    """One document of a source."""

    path: str
    """Its name within the source, with forward slashes: the same on every machine, so that a hash of it can split the
    corpus."""
    content: bytes
    """Its bytes."""


class TextSource(ABC):
    """One kind of text: a name, and documents in a fixed order."""

    name: str

    @abstractmethod
    def documents(self) -> Iterator[Document]:
        """Yield the documents, sorted by path.

        Raises:
            ValueError: If the source is not there or cannot be read.
        """


@dataclass(frozen=True)
class Folder(TextSource):
    """The files of a folder and its subfolders with given suffixes.

    Args:
        name: Name of this kind of text.
        root: The folder.
        suffixes: Ends of the file names to take, such as `.txt`.
        exclude: Names of subfolders to leave out, at any depth, or paths of subfolders relative to `root`.
    """

    name: str
    root: str
    suffixes: Sequence[str] = (".txt",)
    exclude: Sequence[str] = ()

    def documents(self) -> Iterator[Document]:
        """Yield the files, sorted by their path relative to the root."""
        root = Path(self.root)
        if not root.is_dir():
            raise ValueError(
                f"root of the text source {self.name!r} must be a folder that can be read, got {self.root!r}"
            )
        for path in sorted(self._relative_paths(root)):
            try:
                yield Document(path, (root / path).read_bytes())
            except OSError as error:
                raise ValueError(
                    f"text source {self.name!r} cannot read {path!r} under {self.root!r}: {error}"
                ) from error

    def _relative_paths(self, root: Path) -> Iterator[str]:
        for file in root.rglob("*"):
            relative = file.relative_to(root)
            parents = [parent.as_posix() for parent in relative.parents]
            excluded = any(part in self.exclude for part in (*relative.parts[:-1], *parents))
            if file.suffix in self.suffixes and not excluded and file.is_file():
                yield relative.as_posix()


@dataclass(frozen=True)
class Files(TextSource):
    r"""Files by path or pattern, as one kind of text; a large file may be cut into many documents.

    Nothing is converted and nothing is downloaded. A document is named after its file, without the folder, so the split
    of a corpus is the same wherever it lies.

    Args:
        name: Name of this kind of text.
        paths: Paths of files, or patterns such as `texts/*.txt` (`**` for any depth). Each must match something.
        piece: Cut every file after the line end that follows each `piece` bytes or more, at least 1; None: a file is one
            document. Only documents are split into training, validation and test, so one file alone must be cut.

    Raises:
        ValueError: If `piece` is below 1; from `documents`, if a path matches no file, two files have one name, or one
            cannot be read.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from sparsek.datamodules import Files
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "verses.txt").write_bytes(b"one\ntwo\nthree\nfour")
        ...     [(path, content) for path, content in Files("poem", [f"{folder}/*.txt"], piece=5).documents()]
        [('verses.txt#0', b'one\ntwo\n'), ('verses.txt#1', b'three\n'), ('verses.txt#2', b'four')]
    """

    name: str
    paths: Sequence[str]
    piece: int | None = None

    def __post_init__(self) -> None:
        if self.piece is not None and self.piece < 1:
            raise ValueError(f"piece must be at least 1, got {self.piece}")

    def documents(self) -> Iterator[Document]:
        """Yield the files sorted by name, or their pieces in order."""
        for path in sorted(self._files(), key=lambda file: file.name):
            try:
                content = path.read_bytes()
            except OSError as error:
                raise ValueError(f"text source {self.name!r} cannot read {str(path)!r}: {error}") from error
            if self.piece is None:
                yield Document(path.name, content)
                continue
            for i, part in enumerate(_pieces(content, self.piece)):
                yield Document(f"{path.name}#{i}", part)

    def _files(self) -> set[Path]:
        files: set[Path] = set()
        for pattern in self.paths:
            found = {Path(path) for path in glob.glob(pattern, recursive=True) if Path(path).is_file()}
            if not found:
                raise ValueError(f"paths of the text source {self.name!r} must each match a file, got {pattern!r}")
            files |= found
        if len({file.name for file in files}) < len(files):
            raise ValueError(f"paths of the text source {self.name!r} must match files of different names")
        return files


def _pieces(content: bytes, size: int) -> Iterator[bytes]:
    """Cut after the first line end at or after each `size` bytes."""
    start = 0
    while start < len(content):
        end = content.find(b"\n", start + size - 1) + 1
        end = end or len(content)
        yield content[start:end]
        start = end


@dataclass(frozen=True)
class PythonLibrary(TextSource):
    """Python: the sources of the standard library, without its tests and without installed packages (PSF-2.0)."""

    name: str = "python"

    def documents(self) -> Iterator[Document]:
        """Yield the modules."""
        exclude = ("test", "tests", "site-packages", "dist-packages", "__pycache__", "pydoc_data")
        yield from Folder(self.name, sysconfig.get_path("stdlib"), (".py",), exclude).documents()


@dataclass(frozen=True)
class LanguageReference(TextSource):
    """English: the topics of the Python language reference that `help()` shows, from `pydoc_data` (PSF-2.0)."""

    name: str = "english"

    def documents(self) -> Iterator[Document]:
        """Yield the topics."""
        try:
            topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
        except ImportError as error:
            raise ValueError(
                "LanguageReference needs pydoc_data.topics, which this Python was installed without"
            ) from error
        for topic in sorted(topics):
            yield Document(topic, topics[topic].encode())


@dataclass(frozen=True)
class TorchHeaders(TextSource):
    """C++: the headers that torch ships (BSD-3), without the generated near-copies in `ATen/ops`."""

    name: str = "c++"

    def documents(self) -> Iterator[Document]:
        """Yield the headers."""
        include = Path(torch.utils.cmake_prefix_path).parents[1] / "include"
        yield from Folder(self.name, str(include), (".h", ".hpp", ".cuh"), ("ATen/ops",)).documents()
