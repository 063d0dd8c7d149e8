"""Every file of configs/nearest_neighbours runs, on a file and a package of the right shape with few rows."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat

from sparsek.cli import run

FOLDER = Path(__file__).parents[2] / "configs" / "nearest_neighbours"
OVERLAYS = sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem != "digits")

# Lightning 2.6 calls torch and jsonargparse by names that torch 2.13 and jsonargparse 4.53 are about to drop
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*deprecated"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]


@pytest.fixture(autouse=True)
def few_rows(tmp_path, few_digits):
    """Have a small table beside the digits."""
    (tmp_path / "data").mkdir()
    values = np.random.default_rng(0).standard_normal((130, 617))
    savemat(tmp_path / "data" / "isolet.mat", {"X": values, "Y": np.arange(130)[:, None] % 26})


def fitted(*names, options=("--trainer.fast_dev_run=2",)):
    configs = (word for name in ("digits", *names) for word in ("-c", str(FOLDER / f"{name}.yaml")))
    quiet = ("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu")
    return run(["fit", *configs, "--data.root=../data", "--trainer.logger=false", *quiet, *options])


@pytest.mark.parametrize("name", [None, *OVERLAYS])
def test_every_configuration_runs(name):
    cli = fitted(*([] if name is None else [name]))
    assert cli.trainer.state.finished
    assert torch.isfinite(cli.trainer.callback_metrics["train/loss"])
    assert torch.isfinite(cli.trainer.callback_metrics["val/loss"])


def test_eight_learnt_dimensions_of_digits_classify_as_well_as_all_pixels():
    cli = fitted(options=("--trainer.max_epochs=20", "--trainer.enable_checkpointing=false"))
    (measured,) = cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
    assert measured["test/accuracy"] > 0.93
