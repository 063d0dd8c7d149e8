"""Every file of configs/sparse_networks runs, on a package of the right shape with few rows."""

from pathlib import Path

import pytest
import torch

from sparsek.cli import run
from sparsek.nn import sparsity

FOLDER = Path(__file__).parents[2] / "configs" / "sparse_networks"
OVERLAYS = sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem != "mnist")
WEIGHTS = {"dense": 266_200, "two_of_four": 133_100, "digits": 300, "conv": 2115}

# Lightning 2.6 calls torch and jsonargparse by names that torch 2.13 and jsonargparse 4.53 are about to drop
pytestmark = [
    pytest.mark.usefixtures("few_digits"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*deprecated"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]


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
