"""Text as bytes, for Lightning."""

from __future__ import annotations

from collections.abc import Sequence

from lightning.pytorch import LightningDataModule

from ._batches import EvalBatches, TrainBatches
from ._corpus import Corpus, read_corpus
from ._fractions import check_fractions
from ._sources import LanguageReference, PythonLibrary, TextSource, TorchHeaders


class TextDataModule(LightningDataModule):
    """Byte-level text of several kinds; by default Python, English and C++ that every machine has.

    Documents are split by a hash of their path, so the split depends on nothing else. Training batch t is a function of
    (`seed`, t); every kind of text has the same share of the rows. Validation and test windows are the same every time.
    The digest of the corpus goes to the loggers as `corpus_digest`.

    Args:
        sources: Kinds of text; by default `[PythonLibrary(), LanguageReference(), TorchHeaders()]`. Your own
            text: `Folder(name, root, suffixes)`, `Files(name, paths, piece)`.
        length: Bytes per row, at least 1.
        batch_size: Rows per batch, at least 1.
        steps_per_epoch: Batches per epoch, at least 1; by default one pass over as many bytes as the training streams
            have.
        eval_windows: Windows per kind of text in validation and in test, at most; at least 1.
        val_fraction: Share of documents for validation, in (0, 1).
        test_fraction: Share of documents for testing, in (0, 1); both together below 1.
        seed: Seed of the training order.

    Raises:
        ValueError: If an argument is out of range; from `prepare_data`, before any training, if a source is missing,
            cannot be read or is too small.
    """

    def __init__(
        self,
        sources: Sequence[TextSource] | None = None,
        length: int = 256,
        batch_size: int = 8,
        steps_per_epoch: int | None = None,
        eval_windows: int = 64,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        sizes = {
            "length": length,
            "batch_size": batch_size,
            "eval_windows": eval_windows,
            "steps_per_epoch": steps_per_epoch,
        }
        for name, size in sizes.items():
            if size is not None and size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        check_fractions(val_fraction, test_fraction)
        default: list[TextSource] = [PythonLibrary(), LanguageReference(), TorchHeaders()]
        self.sources = list(default if sources is None else sources)
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.steps_per_epoch, self.eval_windows = steps_per_epoch, eval_windows
        self.val_fraction, self.test_fraction = val_fraction, test_fraction
        self._corpus: Corpus | None = None

    @property
    def corpus(self) -> Corpus:
        """The text, read at first use."""
        if self._corpus is None:
            self._corpus = read_corpus(self.sources, self.val_fraction, self.test_fraction)
        return self._corpus

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the kinds of text."""
        return tuple(source.name for source in self.sources)

    def prepare_data(self) -> None:
        """Read the corpus, so that what is wrong with it is said before anything starts."""
        _ = self.corpus

    def setup(self, stage: str) -> None:
        """Log the digest of the corpus."""
        for logger in self.trainer.loggers if self.trainer else ():
            logger.log_hyperparams({"corpus_digest": self.corpus.digest})

    def train_dataloader(self) -> TrainBatches:
        """Batches in the order that `seed` gives; their position is saved in checkpoints."""
        streams = self.corpus.streams["train"]
        steps = self.steps_per_epoch or max(sum(map(len, streams)) // (self.batch_size * self.length), 1)
        return TrainBatches(streams, self.batch_size, self.length, steps, self.seed, *self._process())

    def val_dataloader(self) -> EvalBatches:
        """The validation windows."""
        return self._eval_batches("val")

    def test_dataloader(self) -> EvalBatches:
        """The test windows."""
        return self._eval_batches("test")

    def _eval_batches(self, split: str) -> EvalBatches:
        streams = self.corpus.streams[split]
        return EvalBatches(streams, self.batch_size, self.length, self.eval_windows, *self._process())

    def _process(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
