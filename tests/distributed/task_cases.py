"""What every rank checks of tasks under Lightning: `Trainer.fit` and its measures on two processes against one on the same rows."""

import warnings
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torchmetrics.classification import MulticlassAccuracy
from trainer_cases import Started

from sparsek.nn import MLP, AttentionPool, DualBias, FeatureGate, GeometricSchedule, Marginals, MoETransformer, Router

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the imports of Lightning
    from lightning.pytorch import Trainer
    from lightning.pytorch.strategies import DDPStrategy

    from sparsek.datamodules import FeatureBatch, TextBatch
    from sparsek.tasks import CosineHead, FeatureSelectionTask, LanguageModelTask, PoolingTask

ROWS, STEPS, VALIDATION = 8, 6, 5
"""Rows of a step of all ranks together; steps; batches of validation."""

OF_EACH_PROCESS = {"val/max_vio_batch"}
"""Measures of the batches of a process."""


def seeded(seed):
    return torch.Generator().manual_seed(seed)


class Batches:
    """Batches in their order, of the rows of one rank."""

    def __init__(self, batches, rank, world_size):
        self.batches = [cut(batch, rank, world_size) for batch in batches]

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)


def cut(batch, rank, world_size):
    parts = [part.chunk(world_size)[rank] if isinstance(part, torch.Tensor) else part for part in batch]
    return type(batch)(*parts) if hasattr(batch, "_fields") else tuple(parts)


def text(batches, seed):
    tokens = torch.randint(97, 105, (batches, ROWS, 17), generator=seeded(seed))
    return [TextBatch(x, torch.ones(ROWS, 16, dtype=torch.bool), torch.zeros(ROWS, dtype=torch.long)) for x in tokens]


def language_model():
    torch.manual_seed(0)
    network = MoETransformer(16, 2, 2, 16, 4, lambda d, e: Router(d, e, 2, balancer=DualBias(0.1)))
    return LanguageModelTask(network, learning_rate=1e-2).double()


def table(batches, seed):
    x = torch.randn(batches, ROWS, 10, generator=seeded(seed)).double()
    return [(rows, (rows[:, 3] > 0).long()) for rows in x]


def feature_selection():
    torch.manual_seed(0)
    gate = FeatureGate(10, GeometricSchedule(10, 2, until=0.8), estimator=Marginals(), dropout=0.0)
    return FeatureSelectionTask(gate, MLP(10, 2, [16]), learning_rate=1e-2).double()


def features(batches, seed):
    made = torch.randn(batches, ROWS, 6, 8, generator=seeded(seed)).double()
    labels = torch.randint(3, (batches, ROWS), generator=seeded(seed + 1))
    mask = torch.rand(batches, ROWS, 6, generator=seeded(seed + 2)) < 0.8
    mask[..., 0] = True
    return [FeatureBatch(*parts, torch.zeros(ROWS, 0)) for parts in zip(made, mask, labels, strict=True)]


def pooling():
    torch.manual_seed(0)
    measures = {"accuracy": MulticlassAccuracy(3, average="micro")}
    return PoolingTask(AttentionPool(8), CosineHead(8, 3), measures, learning_rate=1e-2, pooling_rate=1e-2).double()


TASKS = {
    "language model": (language_model, text),
    "feature selection": (feature_selection, table),
    "pooling": (pooling, features),
}


def fit(task, train, val, **options):
    trainer = Trainer(accelerator="cpu", max_steps=STEPS, logger=False, enable_checkpointing=False, enable_progress_bar=False,
                      enable_model_summary=False, use_distributed_sampler=False, num_sanity_val_steps=0, log_every_n_steps=1,
                      **options)  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's, about workers, and those that it causes in torch
        trainer.fit(task, train, val)
    return task.state_dict(), {name: float(value) for name, value in trainer.callback_metrics.items()}


def compare(name, rank, world_size):
    make, data = TASKS[name]
    train, val = data(STEPS, 10), data(VALIDATION, 20)
    with mock.patch("torch.distributed.is_initialized", return_value=False):
        expected, measured = fit(make(), Batches(train, 0, 1), Batches(val, 0, 1), devices=1)
    own = (Batches(train, rank, world_size), Batches(val, rank, world_size))
    learnt, found = fit(make(), *own, devices=world_size, plugins=[Started()], strategy=DDPStrategy())
    assert learnt.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(learnt[key], value, rtol=0, atol=1e-9, msg=lambda text, key=key: f"{key}: {text}")
    assert found.keys() == measured.keys()
    for key in measured.keys() - OF_EACH_PROCESS:
        assert found[key] == pytest.approx(measured[key], rel=1e-6, abs=1e-6), key


def a_language_model_trains_as_on_one_process(rank, world_size):
    compare("language model", rank, world_size)


def a_selection_of_features_trains_as_on_one_process(rank, world_size):
    compare("feature selection", rank, world_size)


def a_pooling_trains_as_on_one_process(rank, world_size):
    compare("pooling", rank, world_size)


def gradients_that_are_not_averaged_would_be_seen(rank, world_size):
    """The sabotaged twin: every process trains a copy of its own."""
    with mock.patch.object(DDPStrategy, "_setup_model", lambda strategy, model: model), pytest.raises(AssertionError):
        compare("pooling", rank, world_size)
    dist.barrier()


CASES = [
    a_language_model_trains_as_on_one_process,
    a_selection_of_features_trains_as_on_one_process,
    a_pooling_trains_as_on_one_process,
    gradients_that_are_not_averaged_would_be_seen,
]
