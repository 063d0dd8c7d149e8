"""Lightning datamodules and the sources that they read."""

from ._batches import TextBatch as TextBatch
from ._sources import Document as Document
from ._sources import Folder as Folder
from ._sources import LanguageReference as LanguageReference
from ._sources import PythonLibrary as PythonLibrary
from ._sources import TextSource as TextSource
from ._sources import TorchHeaders as TorchHeaders
from ._text import TextDataModule as TextDataModule

__all__ = [
    "Document",
    "Folder",
    "LanguageReference",
    "PythonLibrary",
    "TextBatch",
    "TextDataModule",
    "TextSource",
    "TorchHeaders",
]
