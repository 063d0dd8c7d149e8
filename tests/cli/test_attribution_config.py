"""The configuration of attribution runs."""

import sys
from pathlib import Path

import pytest
import torch
import yaml

from sparsek.cli import run

CONFIG = Path(__file__).parents[2] / "configs" / "attribution" / "text.yaml"

# Lightning 2.6 calls torch and jsonargparse by names that torch 2.13 and jsonargparse 4.53 are about to drop
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*deprecated"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
]


def test_it_runs_and_scores_every_unit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["sparsek"])
    for i in range(40):
        (tmp_path / f"{i}.txt").write_bytes(b"some words that come again and again, number %d. " % i * 4)
    source = {
        "class_path": "sparsek.datamodules.Folder",
        "init_args": {"name": "own", "root": ".", "suffixes": [".txt"]},
    }
    small = {"data": {"init_args": {"sources": [source], "length": 16, "batch_size": 2, "eval_windows": 2}}}
    Path("small.yaml").write_text(yaml.safe_dump(small))
    words = ["fit", "-c", str(CONFIG), "-c", "small.yaml", "--trainer.fast_dev_run=2", "--trainer.accelerator=cpu"]
    cli = run([*words, "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"])
    scores = cli.model.attribution.scores
    assert scores.shape == (4 * (8 + 512),)
    assert (scores != 0).float().mean() > 0.9
    assert torch.isfinite(cli.trainer.callback_metrics["val/loss"])
