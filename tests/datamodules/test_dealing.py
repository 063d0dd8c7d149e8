"""Rows of evaluation shared out over processes: all of them, once each, and a batch for every process."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsek.datamodules import PatchDataModule, RowsInOrder
from sparsek.datamodules._batches import EvalBatches
from sparsek.datamodules._dealing import dealt_rows
from sparsek.datamodules._features import FeatureBatches, FeatureSet


@settings(max_examples=100, deadline=None)
@given(rows=st.integers(1, 60), size=st.integers(1, 70), world_size=st.integers(1, 9))
def test_every_row_comes_once_in_as_many_batches_of_every_process(rows, size, world_size):
    if rows < world_size:
        with pytest.raises(ValueError, match="one for each process at least"):
            dealt_rows(rows, size, 0, world_size)
        return
    dealt = [dealt_rows(rows, size, rank, world_size) for rank in range(world_size)]
    assert len({len(parts) for parts in dealt}) == 1
    rounds = list(zip(*dealt, strict=True))
    seen = [row for parts in rounds for part in parts for row in range(part.start, part.stop)]
    assert seen == list(range(rows))
    sizes = [part.stop - part.start for parts in rounds for part in parts]
    assert all(1 <= found <= size + (rows % (size * world_size) < world_size) for found in sizes)
    alone = dealt_rows(rows, size, 0, 1)
    assert all(part in alone for parts in rounds[:-1] for part in parts)
    if rows % (size * world_size) == 0:
        assert all(part in alone for part in rounds[-1])


def features(rows):
    return FeatureSet(torch.zeros(rows, 1).half(), torch.arange(rows + 1), torch.arange(rows), torch.zeros(rows, 0))


@pytest.mark.parametrize(
    "loader",
    [
        lambda rank: RowsInOrder((torch.arange(5),), 64, rank, 2),
        lambda rank: FeatureBatches(features(5), range(5), 64, None, rank, 2),
        lambda rank: EvalBatches([torch.arange(60, dtype=torch.uint8)], 64, 12, 5, rank, 2),
    ],
    ids=["rows", "features", "text"],
)
def test_one_batch_is_cut_for_two_processes(loader):
    batches = [list(loader(rank)) for rank in range(2)]
    assert all(len(loader(rank)) == len(batches[rank]) >= 1 for rank in range(2))
    counts = [len(batch[0] if type(batch) is tuple else batch[-1]) for part in batches for batch in part]
    assert sum(counts) == 5


def test_a_training_without_a_batch_for_each_process_is_refused():
    with pytest.raises(ValueError, match="leave a batch to each of 2 processes, got 64 for 5 rows"):
        FeatureBatches(features(5), range(5), 64, 0, 0, 2)


def test_patches_of_two_processes_are_those_of_one():
    class Place:
        world_size = 2

        def __init__(self, rank):
            self.global_rank = rank

    data = PatchDataModule(train=8, held_out=6, batch_size=4)
    data.setup("fit")
    whole = next(iter(data.train_dataloader()))[0]
    halves = PatchDataModule(train=8, held_out=6, batch_size=2)
    halves.setup("fit")
    parts = []
    for rank in range(2):
        halves.trainer = Place(rank)
        parts.append(next(iter(halves.train_dataloader()))[0])
    assert torch.equal(torch.cat(parts), whole)
    assert sum(len(batch[0]) for batch in halves.val_dataloader()) < 6
