"""Lightning datamodules and the sources that they read.

:class:`TextDataModule` serves bytes of several kinds of text in equal shares. A source is a kind: :class:`PythonLibrary`,
:class:`LanguageReference` (English) and :class:`TorchHeaders` (C++) are on every machine that runs the package; :class:`Folder`
and :class:`Files` read your own. Needs the extra `train`.
"""

from ._batches import TextBatch as TextBatch
from ._sources import Document as Document
from ._sources import Files as Files
from ._sources import Folder as Folder
from ._sources import LanguageReference as LanguageReference
from ._sources import PythonLibrary as PythonLibrary
from ._sources import TextSource as TextSource
from ._sources import TorchHeaders as TorchHeaders
from ._text import TextDataModule as TextDataModule

__all__ = [
    "Document",
    "Files",
    "Folder",
    "LanguageReference",
    "PythonLibrary",
    "TextBatch",
    "TextDataModule",
    "TextSource",
    "TorchHeaders",
]
