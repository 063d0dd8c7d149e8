"""The recorder with other loggers, accumulated batches, and kinds of text that do not come up."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger

from sparsek.callbacks import RoutingRecord, RoutingRecorder
from sparsek.datamodules import Folder, TextDataModule
from sparsek.nn import AdaptiveL1, DualBias, MoETransformer, Positive, ReLUGate, Router
from sparsek.tasks import LanguageModelTask

# Lightning 2.6 asks torch for a name that torch 2.13 renames
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*deprecated")


@pytest.fixture
def data(tmp_path):
    sources = []
    for name, words in (("cat", b"the cat sat on the mat. "), ("python", b"def f(x): return x + 1\n")):
        root = tmp_path / name
        root.mkdir()
        for i in range(40):
            (root / f"{i}.txt").write_bytes(words * 5 + str(i).encode())
        sources.append(Folder(name, str(root)))
    return TextDataModule(sources, length=24, batch_size=4, steps_per_epoch=100, eval_windows=3)


def fit(data, folder, recorder, logger, steps=4, router=None, **options):
    seed_everything(0, verbose=False)
    network = MoETransformer(16, 2, 2, 16, 4, router or (lambda d, e: Router(d, e, 2, balancer=DualBias(0.1))))
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        default_root_dir=folder,
        logger=logger,
        callbacks=[recorder],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        **({"val_check_interval": steps} | options),
    )
    trainer.fit(LanguageModelTask(network), datamodule=data)
    return trainer


def test_wandb_gets_the_numbers_and_the_picture(data, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    from lightning.pytorch.loggers import WandbLogger  # noqa: PLC0415 - not everywhere

    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = WandbLogger(save_dir=tmp_path, offline=True)
    trainer = fit(data, tmp_path, RoutingRecorder(every_n_steps=2, snr_steps=2), logger)
    logger.experiment.finish()
    wandb.teardown()  # its process would resolve the next test's folder against this one's
    assert list(tmp_path.rglob("media/images/routing_*.png"))
    names = {"val/domain_information", "val/bits_per_byte/cat", "val/bits_per_byte/python", "train/router_gradient_snr"}
    assert names <= set(trainer.callback_metrics)
    assert (Path(trainer.log_dir) / "routing.png").exists()


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_step_is_recorded_once_however_many_batches_it_has(data, tmp_path, accumulate):
    recorder = RoutingRecorder(every_n_steps=2)
    fit(data, tmp_path, recorder, CSVLogger(tmp_path), accumulate_grad_batches=accumulate, limit_val_batches=0,
        val_check_interval=None)  # fmt: skip
    assert [step for step, _ in recorder.record.loss] == [2, 4]
    assert len({row[:3] for row in recorder.record.load}) == len(recorder.record.load) == 2 * 2 * 4


def test_the_number_of_logged_names_depends_on_no_batch_and_the_csv_has_them(data, tmp_path):
    trainer = fit(data, tmp_path, RoutingRecorder(every_n_steps=1, snr_steps=2), CSVLogger(tmp_path), steps=6)
    header = (Path(trainer.log_dir) / "metrics.csv").read_text().splitlines()[0].split(",")
    val = {"bits_per_byte", "max_vio", "max_vio_batch", "load_cv", "utilisation", "unrouted", "router_entropy"}
    val |= {"domain_information", "bits_per_byte/cat", "bits_per_byte/python"}
    train = {"bits_per_byte", "max_vio", "router_gradient_snr"}
    assert set(header) == {f"val/{v}" for v in val} | {f"train/{t}" for t in train} | {"epoch", "step"}


def test_a_varying_number_of_experts_is_measured_too(data, tmp_path):
    def router(d, e):
        return Router(d, e, 2, gate=ReLUGate(), selection=Positive(), balancer=AdaptiveL1())

    trainer = fit(data, tmp_path, RoutingRecorder(), CSVLogger(tmp_path), router=router)
    for name in ("unrouted", "router_entropy", "max_vio", "domain_information"):
        assert torch.isfinite(trainer.callback_metrics[f"val/{name}"])
    assert trainer.callback_metrics["val/unrouted"] < 0.5  # tokens without any expert, not slots
    assert RoutingRecord.read(Path(trainer.log_dir)).domain
