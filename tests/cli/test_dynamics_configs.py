"""Every file of configs/dynamics runs, and the one equation is found when it runs to the end."""

import sys
from pathlib import Path

import pytest
import torch

from sparsek.cli import run

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs" / "dynamics").glob("*.yaml"))

# Lightning 2.6 calls torch and jsonargparse by names that torch 2.13 and jsonargparse 4.53 are about to drop
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*deprecated"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["sparsek"])


def fitted(*configs, options=("--trainer.fast_dev_run=2",)):
    words = (word for config in configs for word in ("-c", str(config)))
    quiet = ("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu")
    return run(["fit", *words, *quiet, *options])


OVERLAYS = [None, *(ROOT / "configs" / "feature_selection" / f"{name}.yaml" for name in ("second_order", "relaxed"))]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.stem if path else "alone")
def test_every_configuration_runs(config, overlay):
    cli = fitted(config, *([overlay] if overlay else []))
    assert cli.trainer.state.finished
    assert torch.isfinite(cli.trainer.callback_metrics["val/loss"])
    gate = cli.model.gate
    assert gate.num_features == cli.datamodule.num_features
    assert int(gate.eval().mask(torch.zeros(1, gate.num_features)).sum()) == gate.k.end
    assert len(cli.datamodule.table.known) == gate.k.end


@pytest.mark.slow
def test_the_terms_are_found():
    cli = fitted(CONFIGS[0], options=("--trainer.max_steps=2000",))
    assert cli.model.gate.support().nonzero().squeeze(1).tolist() == list(cli.datamodule.table.known)
