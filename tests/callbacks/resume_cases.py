"""A small module that uses every source of randomness, data with a position, and runs of both."""

import random
import warnings

import numpy as np
import torch
from torch import nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the imports of Lightning
    from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer

from sparsek.callbacks import ExactResume, RunLogger, SealedCheckpointIO
from sparsek.datamodules import RowBatches, RowsInOrder


class Noisy(LightningModule):
    """Its loss depends on global and private generators of torch, numpy and Python."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 1)
        self.own = torch.Generator().manual_seed(5)
        self.parts = {"numpy": [np.random.default_rng(6)], "python": random.Random(7)}
        with torch.no_grad():
            self.layer.weight.fill_(0.1)
            self.layer.bias.zero_()

    def noise(self):
        values = (np.random.rand(), random.random(), self.parts["numpy"][0].random(), self.parts["python"].random())  # noqa: NPY002 - global on purpose
        return torch.rand(3) + torch.rand(3, generator=self.own) + sum(values)

    def training_step(self, batch, index):
        loss = self.layer(batch[0] + self.noise()).square().mean()
        self.log("train/loss", loss)
        if self.global_step % 4 == 3:
            self.log("train/sometimes", loss * 2)
        return loss

    def validation_step(self, batch, index):
        self.log("val/loss", self.layer(batch[0] + self.noise()).square().mean())

    def configure_optimizers(self):
        steps = self.trainer.estimated_stepping_batches
        optimizer = torch.optim.Adam(self.parameters(), lr=0.05)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Rows(LightningDataModule):
    """Five batches a pass."""

    def train_dataloader(self):
        return RowBatches((torch.arange(60.0).view(20, 3) / 60,), size=4, seed=0)

    def val_dataloader(self):
        return RowsInOrder((torch.arange(12.0).view(4, 3),), size=2)


class Ends(Callback):
    """Counts what is called at ends."""

    def __init__(self):
        self.called = []

    def state_dict(self):
        return {"called": list(self.called)}

    def load_state_dict(self, state_dict):
        self.called = list(state_dict["called"])

    def on_train_epoch_end(self, trainer, pl_module):
        self.called.append(f"epoch {trainer.current_epoch} at {trainer.global_step}")

    def on_train_end(self, trainer, pl_module):
        self.called.append("end")


def fit(folder, *callbacks, module=None, ckpt_path=None, **options):
    """Train in a folder; continues the folder's metrics where a checkpoint is given."""
    module, ends = module or Noisy(), Ends()
    torch.manual_seed(1)
    np.random.seed(2)  # noqa: NPY002 - the global generator itself
    random.seed(3)
    logger = RunLogger(folder, "x", version=0, keep=ckpt_path is not None)
    trainer = Trainer(
        accelerator="cpu",
        logger=logger,
        plugins=[SealedCheckpointIO()],
        callbacks=[ExactResume(), ends, *callbacks],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        **options,
    )
    trainer.fit(module, datamodule=Rows(), ckpt_path=ckpt_path)
    with open(f"{logger.log_dir}/metrics.csv", newline="") as file:
        return {"weights": module.state_dict(), "lines": file.read(), "ends": ends.called}


def assert_same(one, other):
    assert one["ends"] == other["ends"]
    assert one["lines"].splitlines() == other["lines"].splitlines()
    for name, value in one["weights"].items():
        assert torch.equal(other["weights"][name], value), name
