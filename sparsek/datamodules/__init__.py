"""Lightning datamodules and the sources that they read.

:class:`TextDataModule` serves bytes of several kinds of text in equal shares. A source is a kind: :class:`PythonLibrary`,
:class:`LanguageReference` (English) and :class:`TorchHeaders` (C++) are on every machine that runs the package; :class:`Folder`
and :class:`Files` read your own.

:class:`ActivationDataModule` serves the activations of a model, for sparse autoencoders, from shards on disk;
:func:`extract_activations`, on the command line `sparsek activations`, writes them.

:class:`FeatureDataModule` serves the tokens of a frozen encoder, extracted once and kept in a folder: :class:`ReviewOpinions`,
:class:`ReviewFilms` and :class:`LeeDocuments` by :class:`MiniLM`, :class:`DigitMaps` and :class:`FaceMaps` by :class:`MobileNetV2`,
:class:`PlantedTokens` by nothing. Needs the extra `features`.

:class:`TableDataModule` serves the rows of a table in three parts. Sources of tables: :class:`CsvFile` and :class:`MatFile`
read your own (:class:`Madelon`, :class:`Isolet`, :class:`MiceProtein` know what to make of three files);
:class:`ScikitLearnTable`, :class:`MlxtendMNIST`, :class:`LeukemiaGenes` and :class:`KhanGenes` come with packages; :class:`Xor`
and :class:`Invase` are drawn. :class:`PatchDataModule` serves patches of photographs, for dictionaries.

Needs the extra `train`; sources of tables the extra `apps`.
"""

from ._activation_batches import ActivationBatch as ActivationBatch
from ._activation_extraction import extract_activations as extract_activations
from ._activation_manifest import ActivationManifest as ActivationManifest
from ._activations import ActivationDataModule as ActivationDataModule
from ._batches import TextBatch as TextBatch
from ._features import FeatureBatch as FeatureBatch
from ._features import FeatureSet as FeatureSet
from ._features_images import DigitMaps as DigitMaps
from ._features_images import FaceMaps as FaceMaps
from ._features_mobilenet import MobileNetV2 as MobileNetV2
from ._features_source import Encoder as Encoder
from ._features_source import FeatureSource as FeatureSource
from ._features_source import Items as Items
from ._features_source import PlantedTokens as PlantedTokens
from ._features_text import LeeDocuments as LeeDocuments
from ._features_text import MiniLM as MiniLM
from ._features_text import ReviewFilms as ReviewFilms
from ._features_text import ReviewOpinions as ReviewOpinions
from ._package_tables import KhanGenes as KhanGenes
from ._package_tables import LeukemiaGenes as LeukemiaGenes
from ._package_tables import MlxtendMNIST as MlxtendMNIST
from ._package_tables import ScikitLearnTable as ScikitLearnTable
from ._patches import PatchDataModule as PatchDataModule
from ._pooling import FeatureDataModule as FeatureDataModule
from ._row_batches import RowBatches as RowBatches
from ._row_batches import RowsInOrder as RowsInOrder
from ._row_split import split_rows as split_rows
from ._scaling import Imputation as Imputation
from ._scaling import MeanImputation as MeanImputation
from ._scaling import MedianImputation as MedianImputation
from ._scaling import Standardisation as Standardisation
from ._sources import Document as Document
from ._sources import Files as Files
from ._sources import Folder as Folder
from ._sources import LanguageReference as LanguageReference
from ._sources import PythonLibrary as PythonLibrary
from ._sources import TextSource as TextSource
from ._sources import TorchHeaders as TorchHeaders
from ._synthetic_tables import Invase as Invase
from ._synthetic_tables import Xor as Xor
from ._table import Table as Table
from ._table import TableSource as TableSource
from ._table_data import TableDataModule as TableDataModule
from ._table_data import TablePart as TablePart
from ._table_files import CsvFile as CsvFile
from ._table_files import MatFile as MatFile
from ._table_sets import Isolet as Isolet
from ._table_sets import Madelon as Madelon
from ._table_sets import MiceProtein as MiceProtein
from ._text import TextDataModule as TextDataModule

__all__ = [
    "ActivationBatch",
    "ActivationDataModule",
    "ActivationManifest",
    "CsvFile",
    "DigitMaps",
    "Document",
    "Encoder",
    "FaceMaps",
    "FeatureBatch",
    "FeatureDataModule",
    "FeatureSet",
    "FeatureSource",
    "Files",
    "Folder",
    "Imputation",
    "Invase",
    "Isolet",
    "Items",
    "KhanGenes",
    "LanguageReference",
    "LeeDocuments",
    "LeukemiaGenes",
    "Madelon",
    "MatFile",
    "MeanImputation",
    "MedianImputation",
    "MiceProtein",
    "MiniLM",
    "MlxtendMNIST",
    "MobileNetV2",
    "PatchDataModule",
    "PlantedTokens",
    "PythonLibrary",
    "ReviewFilms",
    "ReviewOpinions",
    "RowBatches",
    "RowsInOrder",
    "ScikitLearnTable",
    "Standardisation",
    "Table",
    "TableDataModule",
    "TablePart",
    "TableSource",
    "TextBatch",
    "TextDataModule",
    "TextSource",
    "TorchHeaders",
    "Xor",
    "extract_activations",
    "split_rows",
]
