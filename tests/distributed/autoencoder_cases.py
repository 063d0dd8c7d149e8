"""What every rank checks of sparse autoencoders under Lightning: `Trainer.fit` on two processes against one on the same tokens."""

import warnings
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from trainer_cases import Started

from sparsek.nn import BatchTopK, ContributionTopK, NestedTopK, SparseAutoencoder

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the imports of Lightning
    from lightning.pytorch import Trainer
    from lightning.pytorch.strategies import DDPStrategy

    from sparsek.callbacks import ThresholdCalibration
    from sparsek.nn.sparse_autoencoder import _batch_top_k
    from sparsek.tasks import GeometricMean, SparseAutoencodersTask, SparseAutoencoderTask, recipes

D, N, TOKENS, STEPS = 6, 40, 24, 8
"""Sizes; tokens of a step of all ranks together; steps."""


def make_task():
    def sae(selection):
        torch.manual_seed(0)
        made = SparseAutoencoder(D, N, selection).double()
        made.normalise_decoder()
        return made

    return SparseAutoencodersTask(
        {
            "nested": SparseAutoencoderTask(sae(NestedTopK(2)), dead_fraction=0.2, learning_rate=0.02),
            "geometric": SparseAutoencoderTask(sae(NestedTopK(2)), learning_rate=0.02, loss=GeometricMean()),
            "batch": SparseAutoencoderTask(sae(BatchTopK(2)), dead_fraction=0.2, learning_rate=0.02),
            "saelens": recipes.saelens(sae(BatchTopK(2)), 0.02, dead_batches=2),
            "openai": recipes.openai(sae(NestedTopK(2)), 0.02, dead_tokens=3 * TOKENS, aux_k=3),
            "learning": recipes.dictionary_learning(sae(BatchTopK(2)), 0.02, dead_tokens=3 * TOKENS),
        }
    )


def tokens(steps, seed):
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(12, D, generator=torch.Generator().manual_seed(1)).double()
    return 2 + (torch.rand(steps, TOKENS, 12, generator=generator).double() ** 4) @ directions


def loader(x):
    return torch.utils.data.DataLoader(x, batch_size=None)


def fit(task, train, val, **options):
    calibration = ThresholdCalibration((1, 2))
    trainer = Trainer(
        accelerator="cpu",
        max_steps=STEPS,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        val_check_interval=STEPS,
        callbacks=[calibration],
        **options,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's, about workers, and those that it causes in torch
        trainer.fit(task, loader(train), loader(val))
    return task.state_dict(), trainer.callback_metrics


def compare(rank, world_size):
    train, val = tokens(STEPS, 2), tokens(10, 3)
    with mock.patch("torch.distributed.is_initialized", return_value=False):
        expected, measured = fit(make_task(), train, val, devices=1)
    half = TOKENS // world_size
    own = slice(rank * half, (rank + 1) * half)
    task = make_task()
    learnt, found = fit(
        task, train[:, own], val[:, own], devices=world_size, plugins=[Started()], strategy=DDPStrategy()
    )
    assert all(member.auxiliary.dead.any() for member in task.members.values())
    assert learnt.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            learnt[name], value, rtol=1e-9, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}"
        )
    for name in ("loss", "dead"):
        for member in task.members:
            key = f"train/{member}/{name}"
            assert found[key] == pytest.approx(float(measured[key]), rel=1e-5), key
    for key in ("val/nested/fvu", "val/nested/fvu_k4", "val/nested/dead", "val/nested/threshold_l0_2"):
        assert found[key] == pytest.approx(float(measured[key]), rel=1e-5), key


def two_processes_train_as_one(rank, world_size):
    compare(rank, world_size)


def a_threshold_of_each_process_is_something_else(rank, world_size):
    """The sabotaged twin: every process selects from its own half of the batch."""
    with (
        mock.patch.object(_batch_top_k, "processes", return_value=1),
        pytest.raises(AssertionError, match=r"tasks\.batch"),
    ):
        compare(rank, world_size)


def the_largest_contributions_are_those_of_all(rank, world_size):
    torch.manual_seed(0)
    sae = SparseAutoencoder(D, N, ContributionTopK(2, per_batch=True))
    x = tokens(1, 5)[0].float()
    with torch.no_grad(), mock.patch("torch.distributed.is_initialized", return_value=False):
        expected = sae(x).reconstruction
    half = slice(rank * TOKENS // world_size, (rank + 1) * TOKENS // world_size)
    torch.testing.assert_close(sae(x[half]).reconstruction, expected[half])
    dist.barrier()


CASES = [
    two_processes_train_as_one,
    a_threshold_of_each_process_is_something_else,
    the_largest_contributions_are_those_of_all,
]
