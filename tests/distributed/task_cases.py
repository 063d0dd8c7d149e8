"""What every rank checks of tasks under Lightning: `Trainer.fit` and its measures on two processes against one on the same rows.

Training batches are cut, a part for each process; those of validation are dealt out as the data modules do it, and the processes do not
have as many rows.
"""

import math
import warnings
from collections.abc import Callable
from typing import NamedTuple
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torchmetrics.classification import MulticlassAccuracy
from trainer_cases import Started

from sparsek.estimators import StraightThrough
from sparsek.nn import (
    MLP,
    AttentionPool,
    Attribution,
    BatchTopK,
    DifferentiableKNN,
    DualBias,
    FeatureGate,
    GeometricSchedule,
    Marginals,
    MoETransformer,
    NestedTopK,
    Router,
    SparseAutoencoder,
    UnitSite,
    sparsity,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the imports of Lightning
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.strategies import DDPStrategy

    from sparsek import tasks
    from sparsek.datamodules import FeatureBatch, TextBatch
    from sparsek.datamodules._dealing import dealt_rows
    from sparsek.tasks import _feature_selection, _nearest_neighbours, _processes

ROWS, STEPS, VALIDATION = 8, 6, 35
"""Rows of a step of all ranks together; steps; rows of validation."""

OF_A_BATCH = {"val/max_vio_batch"}
"""Depends on how rows are cut into batches, as the selection of BatchTopK does, whose rows divide."""


class Case(NamedTuple):
    """A task, and the data of so many rows that a seed gives: tensors with the rows first, in a tuple."""

    make: Callable[[], LightningModule]
    rows: Callable[[int, int], tuple[torch.Tensor, ...]]
    validation: int = VALIDATION


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def text(count, seed):
    """The later a row, the less of it is real: processes differ in their number of bytes."""
    tokens = torch.randint(97, 105, (count, 17), generator=seeded(seed))
    mask = torch.arange(16) < 16 - (torch.arange(count) % ROWS)[:, None]
    return TextBatch(tokens, mask, torch.zeros(count, dtype=torch.long))


def table(count, seed):
    x = torch.randn(count, 10, generator=seeded(seed)).double()
    return x, (x[:, 3] > 0).long()


def features(count, seed):
    tokens = torch.randn(count, 6, 8, generator=seeded(seed)).double()
    mask = torch.rand(count, 6, generator=seeded(seed + 2)) < 0.8
    mask[:, 0] = True
    return FeatureBatch(tokens, mask, torch.randint(3, (count,), generator=seeded(seed + 1)), torch.zeros(count, 0))


def activations(count, seed):
    directions = torch.randn(12, 6, generator=seeded(1)).double()
    return (2 + (torch.rand(count, 12, generator=seeded(seed)).double() ** 4) @ directions,) * 2


def transformer():
    return MoETransformer(16, 2, 2, 16, 4, lambda d, e: Router(d, e, 2, balancer=DualBias(0.1)))


def language_model():
    return tasks.LanguageModelTask(transformer(), learning_rate=1e-2)


def feature_selection():
    gate = FeatureGate(10, GeometricSchedule(10, 2, until=0.8), estimator=Marginals(), dropout=0.0)
    return tasks.FeatureSelectionTask(gate, MLP(10, 2, [16]), learning_rate=1e-2)


def held_gate():
    """From the third step on the gate is held, without a gradient, as `GateHardening` does it."""
    task = feature_selection()
    task.on_train_batch_start = lambda batch, index: task.gate.train(index < 3)
    return task


def pooling(head):
    measures = {"accuracy": MulticlassAccuracy(3, average="micro")}
    return tasks.PoolingTask(AttentionPool(8), head(8, 3), measures, learning_rate=1e-2, pooling_rate=1e-2)


def nearest_neighbours():
    return tasks.NearestNeighbourTask(DifferentiableKNN(2, nn.Linear(10, 4)), classes=2)


def sparse_network(**pattern):
    return tasks.SparseNetworkTask(MLP(10, 2, [16]), sparsity.Unstructured(sparsity=0.7, **pattern))


def attribution(model, objective, *sites):
    return tasks.AttributionTask(Attribution(model, sites), objective, 0.05, shares=(0.25, 0.5))


def autoencoder(selection):
    made = SparseAutoencoder(6, 24, selection)
    made.normalise_decoder()
    return tasks.SparseAutoencoderTask(made, dead_fraction=0.3, learning_rate=0.02, levels=(1, 4))


TASKS = {
    tasks.LanguageModelTask: {"language model": Case(language_model, text)},
    tasks.FeatureSelectionTask: {
        "feature selection": Case(feature_selection, table),
        "feature selection, held": Case(held_gate, table),
    },
    tasks.PoolingTask: {
        "pooling": Case(lambda: pooling(tasks.CosineHead), features),
        "pooling, standardised": Case(lambda: pooling(tasks.StandardisedHead), features),
    },
    tasks.NearestNeighbourTask: {"nearest neighbours": Case(nearest_neighbours, table)},
    tasks.SparseNetworkTask: {
        "sparse network": Case(sparse_network, table),
        "sparse network, learnt": Case(lambda: sparse_network(scores=sparsity.LearntScores()), table),
        "sparse network, sampled": Case(
            lambda: sparse_network(rule=sparsity.MaskRule(estimator=StraightThrough())), table
        ),
    },
    tasks.AttributionTask: {
        "attribution, rows": Case(
            lambda: attribution(MLP(10, 2, [16]), tasks.TargetLoss(), UnitSite("layers.1", 16)), table
        ),
        "attribution, text": Case(
            lambda: attribution(transformer(), tasks.NextTokenLoss(), UnitSite("blocks.*.attention", 16)), text
        ),
    },
    tasks.SparseAutoencoderTask: {"autoencoder": Case(lambda: autoencoder(BatchTopK(2)), activations, 4 * ROWS)},
    tasks.SparseAutoencodersTask: {
        "autoencoders": Case(
            lambda: tasks.SparseAutoencodersTask({"a": autoencoder(NestedTopK(2)), "b": autoencoder(BatchTopK(3))}),
            activations,
            4 * ROWS,
        )
    },
}
NAMED = {name: case for cases in TASKS.values() for name, case in cases.items()}


class Batches:
    """Batches in their order."""

    def __init__(self, batches):
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)


def of_rows(parts, places):
    """Some rows of every tensor, in what holds them."""
    chosen = [part[places] for part in parts]
    return type(parts)(*chosen) if hasattr(parts, "_fields") else tuple(chosen)


def training(case, rank, world_size):
    """A batch a step: of each the part of this rank."""
    parts, own = case.rows(STEPS * ROWS, 10), ROWS // world_size
    starts = range(rank * own, STEPS * ROWS, ROWS)
    return Batches([of_rows(parts, slice(start, start + own)) for start in starts])


def validation(case, rank, world_size):
    """Batches in their order, dealt out."""
    parts = case.rows(case.validation, 20)
    return Batches([of_rows(parts, place) for place in dealt_rows(case.validation, ROWS, rank, world_size)])


def fit(case, rank, world_size, **options):
    torch.manual_seed(0)
    task = case.make().double()
    trainer = Trainer(accelerator="cpu", max_steps=STEPS, logger=False, enable_checkpointing=False, enable_progress_bar=False,
                      enable_model_summary=False, use_distributed_sampler=False, num_sanity_val_steps=0, log_every_n_steps=1,
                      **options)  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's, about workers, and those that it causes in torch
        trainer.fit(task, training(case, rank, world_size), validation(case, rank, world_size))
    return task.state_dict(), {name: float(value) for name, value in trainer.callback_metrics.items()}


def compare(name, rank, world_size, strategy=DDPStrategy):
    case = NAMED[name]
    with mock.patch("torch.distributed.is_initialized", return_value=False):
        expected, measured = fit(case, 0, 1, devices=1)
    learnt, found = fit(case, rank, world_size, devices=world_size, plugins=[Started()], strategy=strategy())
    assert learnt.keys() == expected.keys()
    for key, value in expected.items():
        whole = learnt[key].full_tensor() if hasattr(learnt[key], "full_tensor") else learnt[key]
        torch.testing.assert_close(whole, value, rtol=0, atol=1e-9, msg=lambda text, key=key: f"{key}: {text}")
    assert found.keys() == measured.keys()
    assert any(key.startswith("train/") for key in found)
    assert any(key.startswith("val/") for key in found)
    for key in measured.keys() - OF_A_BATCH:
        value = measured[key]
        assert math.isfinite(value), key
        assert found[key] == pytest.approx(value, rel=1e-6, abs=1e-6), key


def law(name):
    """The case of a task, to run in a group."""

    def trains_as_on_one_process(rank, world_size):
        compare(name, rank, world_size)

    trains_as_on_one_process.__name__ = name
    return trains_as_on_one_process


def gradients_that_are_not_averaged_would_be_seen(rank, world_size):
    """The first sabotaged twin: every process trains a copy of its own."""
    with mock.patch.object(DDPStrategy, "_setup_model", lambda strategy, model: model), pytest.raises(AssertionError):
        compare("pooling", rank, world_size)
    dist.barrier()


def neighbours_of_one_process_alone_would_be_seen(rank, world_size):
    """The second: rows are compared with those of their own process."""
    with (
        mock.patch.object(_processes, "processes", return_value=1),
        mock.patch.object(_nearest_neighbours, "evaluation_weight", lambda rows: rows * world_size),
        pytest.raises(AssertionError),
    ):
        compare("nearest neighbours", rank, world_size)
    dist.barrier()


def rows_that_lightning_divides_in_whole_numbers_would_be_seen(rank, world_size):
    """The third: 35 rows over two processes are 17 to it."""
    with (
        mock.patch.object(_feature_selection, "evaluation_weight", lambda rows: rows),
        pytest.raises(AssertionError, match="val/"),
    ):
        compare("feature selection", rank, world_size)
    dist.barrier()


CASES = [
    *map(law, NAMED),
    gradients_that_are_not_averaged_would_be_seen,
    neighbours_of_one_process_alone_would_be_seen,
    rows_that_lightning_divides_in_whole_numbers_would_be_seen,
]
