"""What every rank checks of FSDP2: the transformer and the autoencoder, sharded, against one process on the same rows."""

import warnings
from unittest import mock

import torch
import torch.distributed as dist
from task_cases import NAMED, activations, compare, fit
from torch.distributed.tensor import DTensor
from trainer_cases import Started, fsdp2

from sparsek.nn import NestedTopK, SparseAutoencoder

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the imports of Lightning
    from lightning.pytorch import LightningModule, Trainer

ROWS, STEPS = 16, 5


class Reconstruction(LightningModule):
    """An autoencoder, as a user would train it."""

    def __init__(self):
        super().__init__()
        self.autoencoder = SparseAutoencoder(6, 24, NestedTopK(2))

    def configure_model(self):
        if self.device_mesh is not None:
            from torch.distributed.fsdp import fully_shard  # noqa: PLC0415 - not loaded by `import sparsek`: a case checks that

            fully_shard(self.autoencoder, mesh=self.device_mesh["data_parallel"])

    def training_step(self, batch, batch_idx):
        return (self.autoencoder(batch).reconstruction - batch).square().mean()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.02)


def reconstruct(rank, world_size, **options):
    torch.manual_seed(0)
    module = Reconstruction().double()
    rows = activations(ROWS * STEPS, 3)[0].view(STEPS, world_size, ROWS // world_size, 6)[:, rank]
    trainer = Trainer(accelerator="cpu", max_steps=STEPS, logger=False, enable_checkpointing=False, enable_progress_bar=False,
                      enable_model_summary=False, use_distributed_sampler=False, **options)  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's, about workers, and those that it causes in torch
        trainer.fit(module, torch.utils.data.DataLoader(rows, batch_size=None))
    return dict(module.autoencoder.named_parameters())


def an_autoencoder_trains_as_on_one_process(rank, world_size):
    with mock.patch("torch.distributed.is_initialized", return_value=False):
        expected = reconstruct(0, 1, devices=1)
    learnt = reconstruct(rank, world_size, devices=world_size, plugins=[Started()], strategy=fsdp2(world_size)())
    for name, value in expected.items():
        assert isinstance(learnt[name], DTensor), name
        assert learnt[name].to_local().numel() < value.numel(), name
        torch.testing.assert_close(learnt[name].full_tensor(), value, rtol=0, atol=1e-9)


def a_transformer_trains_and_is_measured_as_on_one_process(rank, world_size):
    compare("language model", rank, world_size, fsdp2(world_size))


def the_transformer_is_sharded(rank, world_size):
    options = {"devices": world_size, "plugins": [Started()], "strategy": fsdp2(world_size)()}
    state, _ = fit(NAMED["language model"], rank, world_size, **options)
    weights = {name: value for name, value in state.items() if name.endswith((".up", ".down", ".weight"))}
    assert weights
    assert all(isinstance(value, DTensor) for value in weights.values())
    held, whole = (sum(f(value) for value in weights.values()) for f in (lambda v: v.to_local().numel(), torch.numel))
    assert held == whole / world_size
    dist.barrier()


CASES = [
    an_autoencoder_trains_as_on_one_process,
    a_transformer_trains_and_is_measured_as_on_one_process,
    the_transformer_is_sharded,
]
