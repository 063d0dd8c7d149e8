"""Every file of configs/dictionary runs."""

import sys
from pathlib import Path

import pytest
import torch

from sparsek.cli import run

FOLDER = Path(__file__).parents[2] / "configs" / "dictionary"
OVERLAYS = sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem != "patches")

# Lightning 2.6 calls torch and jsonargparse by names that torch 2.13 and jsonargparse 4.53 are about to drop
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*deprecated"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]


@pytest.mark.parametrize("name", [None, *OVERLAYS])
def test_every_configuration_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["sparsek"])
    configs = (word for each in ("patches", name) if each for word in ("-c", str(FOLDER / f"{each}.yaml")))
    quiet = ("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu")
    small = ("--data.init_args.train=500", "--data.init_args.held_out=100", "--trainer.fast_dev_run=2")
    cli = run(["fit", *configs, *quiet, *small])
    assert cli.trainer.state.finished
    assert torch.isfinite(cli.trainer.callback_metrics["val/fvu_k6"])
    autoencoder = cli.model.exported()
    code = autoencoder.encode(cli.datamodule.parts["test"], k=6)
    assert code.indices.shape == (100, 6)
    assert cli.trainer.global_step == 2
