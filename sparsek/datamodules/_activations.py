"""Activations of a model as training data, for Lightning."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from ._activation_batches import ActivationEvalBatches, ActivationTrainBatches
from ._activation_shards import ActivationStore, open_store
from ._corpus import SPLITS, split_of
from ._fractions import check_fractions

_SHOWN = 5


class ActivationDataModule(LightningDataModule):
    """Tokens from a folder of activation shards, as `sparsek activations` writes them; batches are :class:`ActivationBatch`.

    A shard is a safetensors file with `activations` (rows, d), or (rows, layers, d) for a crosscoder, in any floating-point
    type; `mask` (rows,), False for tokens to leave out; and `document` (rows,), the number of the document. Files are mapped into
    memory, so that a folder may be larger than it.

    Training batch t is a function of (`seed`, t): blocks of neighbouring tokens are permuted, then the tokens within windows of
    blocks; every epoch is a permutation of all training tokens. The position is saved in checkpoints, so a run that is stopped in
    the middle of an epoch goes on with the next batch. Validation and test tokens are the same every time. Everything is looked at
    once, before training.

    Args:
        folder: Folder of the shards of the input.
        target: Folder of the shards to reconstruct, of the same texts (a transcoder). Default: the input.
        batch_size: Tokens of a batch and process, at least 1.
        block_size: Neighbouring tokens that stay together on the way from the disk, at least 1.
        window_blocks: Blocks whose tokens are mixed in memory, at least 1; two windows are held at a time.
        by_document: Whether documents are split into training, validation and test by a hash of their name, as they should: tokens
            of one document are alike. False: blocks are split.
        val_fraction: Share of documents (or blocks) for validation, in (0, 1).
        test_fraction: Share for testing, in (0, 1); both together below 1.
        eval_tokens: Tokens of validation and of test at most, spread evenly; at least 1. Default: all.
        skip_nan: Whether tokens that hold a NaN or an infinity are left out, with a warning; otherwise they are refused.
        prefetch: Whether a thread reads the next window while one is in use.
        seed: Seed of the training order.

    Raises:
        ValueError: If an argument is out of range; from `prepare_data`, before any training, if a shard is missing, truncated, of
            another width or not finite, the target is of other texts, or a split has no token.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from safetensors.torch import save_file
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_file({"activations": torch.randn(1000, 8)}, f"{folder}/0.safetensors")
        ...     data = ActivationDataModule(folder, batch_size=100, block_size=10, by_document=False)
        ...     data.prepare_data()
        ...     batch = next(iter(data.train_dataloader()))
        >>> data.shape, batch.input.shape, batch.target is batch.input
        (torch.Size([8]), torch.Size([100, 8]), True)
    """

    def __init__(
        self,
        folder: str | Path,
        target: str | Path | None = None,
        batch_size: int = 4096,
        block_size: int = 256,
        window_blocks: int = 256,
        by_document: bool = True,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        eval_tokens: int | None = None,
        skip_nan: bool = False,
        prefetch: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        sizes = {
            "batch_size": batch_size,
            "block_size": block_size,
            "window_blocks": window_blocks,
            "eval_tokens": eval_tokens,
        }
        for name, size in sizes.items():
            if size is not None and size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        check_fractions(val_fraction, test_fraction)
        self.folders = [Path(path) for path in (folder, target) if path is not None]
        self.batch_size, self.block_size, self.window_blocks = batch_size, block_size, window_blocks
        self.by_document, self.val_fraction, self.test_fraction = by_document, val_fraction, test_fraction
        self.eval_tokens, self.skip_nan, self.prefetch, self.seed = eval_tokens, skip_nan, prefetch, seed
        self._stores: list[ActivationStore] = []
        self._rows: dict[str, Tensor] = {}

    @property
    def stores(self) -> list[ActivationStore]:
        """The input's shards, and the target's if it is another; opened at first use."""
        if not self._stores:
            opened = [open_store(folder) for folder in self.folders]
            for target in opened[1:]:
                _check_pair(opened[0], target)
            self._stores = opened
        return self._stores

    @property
    def shape(self) -> torch.Size:
        """Shape of the input of one token."""
        return self.stores[0].shape

    @property
    def rows(self) -> dict[str, Tensor]:
        """For each split, the rows of the table that it has, rising."""
        if not self._rows:
            kept, split = self._kept(), self._split_of_rows()
            self._rows = {name: (kept & (split == i)).nonzero().squeeze(-1) for i, name in enumerate(SPLITS)}
            for name, rows in self._rows.items():
                needed = self.batch_size if name == "train" else 1
                if len(rows) < needed:
                    raise ValueError(
                        f"the {name} split of {str(self.folders[0])!r} has {len(rows)} tokens, at least {needed} are needed"
                    )
        return self._rows

    def prepare_data(self) -> None:
        """Open, check and split the shards, so that what is wrong with them is said before anything starts."""
        _ = self.rows

    def setup(self, stage: str) -> None:
        """Log where the activations are from."""
        manifest = self.stores[0].manifest
        for logger in self.trainer.loggers if self.trainer and manifest else ():
            logger.log_hyperparams({"text_digest": manifest.text_digest, "model_digest": manifest.model_digest})  # type: ignore[union-attr]  # the loop is empty without one

    def train_dataloader(self) -> ActivationTrainBatches:
        """Batches in the order that `seed` gives; their position is saved in checkpoints."""
        return ActivationTrainBatches(
            self.stores,
            self.rows["train"],
            self.batch_size,
            self.block_size,
            self.window_blocks,
            self.seed,
            self.prefetch,
            *self._process(),
        )

    def val_dataloader(self) -> ActivationEvalBatches:
        """The validation tokens."""
        return self._eval_batches("val")

    def test_dataloader(self) -> ActivationEvalBatches:
        """The test tokens."""
        return self._eval_batches("test")

    def _eval_batches(self, split: str) -> ActivationEvalBatches:
        rows = self.rows[split]
        if self.eval_tokens is not None and self.eval_tokens < len(rows):
            rows = rows[torch.arange(self.eval_tokens) * len(rows) // self.eval_tokens]
        return ActivationEvalBatches(self.stores, rows, self.batch_size, *self._process())

    def _process(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _kept(self) -> Tensor:
        """(rows,), False for tokens that are masked, or not finite and skipped."""
        kept = torch.ones(self.stores[0].rows, dtype=torch.bool)
        for store in self.stores:
            for i, shard in enumerate(store.shards):
                if shard.mask is not None:
                    kept[store.starts[i] : store.starts[i + 1]] &= shard.mask
            for i, rows in store.not_finite():
                kept[store.starts[i] + rows] = False
                self._report(f"shard {store.shards[i].path.name!r} of {str(store.folder)!r}", rows)
        return kept

    def _report(self, shard: str, rows: Tensor) -> None:
        shown = ", ".join(map(str, rows[:_SHOWN].tolist())) + (", …" if len(rows) > _SHOWN else "")
        message = f"{shard} holds NaN or infinite values in {len(rows)} tokens (rows {shown})"
        if not self.skip_nan:
            raise ValueError(f"{message}; skip_nan=True leaves them out")
        warnings.warn(f"{message}: they are left out", stacklevel=2)

    def _split_of_rows(self) -> Tensor:
        """(rows,), the number of each row's split."""
        store = self.stores[0]
        if not self.by_document:
            group = torch.arange(store.rows) // self.block_size
            names = [f"block {i}" for i in range(int(group[-1]) + 1)]
        else:
            group, names = _documents(store)
        splits = [SPLITS.index(split_of(name, self.val_fraction, self.test_fraction)) for name in names]
        return torch.tensor(splits)[group]


def _documents(store: ActivationStore) -> tuple[Tensor, list[str]]:
    """The number of each row's document, and the names of the documents."""
    group = store.column("document")
    if group is None:
        raise ValueError(
            f"shards of {str(store.folder)!r} hold no tensor 'document' to split by; by_document=False splits blocks of tokens"
        )
    names = list(store.manifest.documents) if store.manifest else [f"document {i}" for i in range(int(group.max()) + 1)]
    if int(group.min()) < 0 or int(group.max()) >= len(names):
        raise ValueError(f"document in shards of {str(store.folder)!r} must lie in [0, {len(names) - 1}]")
    return group.long(), names


def _check_pair(input: ActivationStore, target: ActivationStore) -> None:
    """Refuse a target of other tokens."""
    tokens = [store.column("token") for store in (input, target)]
    differ = tokens[0] is not None and tokens[1] is not None and not torch.equal(tokens[0], tokens[1])
    if input.rows != target.rows or differ:
        raise ValueError(
            f"target {str(target.folder)!r} must hold the tokens of {str(input.folder)!r}, "
            f"got {target.rows} tokens instead of {input.rows}, or other ones"
        )
