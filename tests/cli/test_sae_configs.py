"""Every file of configs/sae runs, on shards of activations with known features."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sparsek.cli import run
from sparsek.nn import ContributionTopK, Refinement
from sparsek.tasks import GeometricMean, SparseAutoencodersTask, SquaredError, WarmupDecay, median_bias

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "configs" / "sae"
BASE = FOLDER / "activations.yaml"
OVERLAYS = sorted(path.stem for path in FOLDER.glob("*.yaml") if path != BASE)
SIZES = "--model.init_args.autoencoder.init_args"

# Lightning 2.6 calls torch and jsonargparse by names that torch 2.13 and jsonargparse 4.53 are about to drop
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*deprecated"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval"),
]


@pytest.fixture(autouse=True)
def shards(tmp_path, monkeypatch):
    """A folder of activations beside an empty one to run in."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(600, 384, generator=generator)
    tokens = (torch.randn(1200, 600, generator=generator) - 1.5).relu() @ directions
    (tmp_path / "activations").mkdir()
    save_file({"activations": tokens}, tmp_path / "activations" / "0.safetensors")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(sys, "argv", ["sparsek"])


def words(*overlays, steps=2):
    configs = [BASE, *(FOLDER / f"{overlay}.yaml" for overlay in overlays)]
    small = [] if "several" in overlays else [f"{SIZES}.d_in=384", f"{SIZES}.d_sae=512"]
    small += [f"{SIZES}.prefixes=[64,256]"] if "matryoshka" in overlays else []
    return [
        "fit",
        *(word for config in configs for word in ("-c", str(config))),
        *small,
        "--data.init_args.folder=../activations",
        "--data.init_args.by_document=false",
        "--data.init_args.batch_size=64",
        "--data.init_args.block_size=16",
        "--trainer.accelerator=cpu",
        f"--trainer.max_steps={steps}",
        f"--trainer.val_check_interval={steps}",
        "--trainer.log_every_n_steps=1",
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false",
    ]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_configuration_runs(overlay):
    cli = run([*words(overlay), "--trainer.fast_dev_run=true"])
    assert cli.trainer.state.finished
    found = {name: value for name, value in cli.trainer.callback_metrics.items() if name.endswith("fvu")}
    assert len(found) == (6 if overlay == "several" else 2)
    assert all(torch.isfinite(value) for value in found.values())
    assert not any(Path().iterdir())


def test_the_base_alone_writes_its_report_and_thresholds():
    cli = run(words(steps=4))
    folder = Path(cli.trainer.log_dir)
    assert {"autoencoder.png", "fvu_by_k.csv", "density.csv", "dead.csv"} <= {path.name for path in folder.iterdir()}
    (path,) = folder.rglob("*.ckpt")
    state = torch.load(path, weights_only=True)["state_dict"]
    assert state["threshold_l0s"].tolist() == [8, 16, 32, 64, 128]
    assert (state["thresholds"].diff() < 0).all()
    assert float(cli.model.threshold(32)) == state["thresholds"][2]


def test_recipes_stand_where_a_class_would_and_take_a_selection_after_them():
    cli = run([*words("saelens", "batch_topk"), "--trainer.fast_dev_run=true"])
    assert cli.model.autoencoder.selection == ContributionTopK(32, per_batch=True)
    assert cli.model.loss == SquaredError()
    assert cli.model.learning_rate == 3e-4


def test_the_parts_of_the_objective_are_chosen_by_class_path():
    task = "--model.init_args"
    parts = [f"{task}.auxiliary=sparsek.nn.AuxK", f"{task}.auxiliary.init_args.coefficient=0.25", f"{task}.unit_norm=null",
             f"{task}.schedule.warmup=7", f"{task}.loss=sparsek.tasks.SquaredError", f"{task}.dead_fraction=null",
             f"{task}.initialisation=sparsek.tasks.median_bias"]  # fmt: skip
    model = run([*words("topk"), *parts, "--trainer.fast_dev_run=true"]).model
    assert (model.auxiliary.coefficient, model.auxiliary.window) == (0.25, 10_000_000)
    assert (model.unit_norm, model.schedule, model.loss) == (None, WarmupDecay(7.0), SquaredError())
    assert model.initialisation is median_bias
    without = run([*words("topk"), f"{task}.auxiliary=null", "--trainer.fast_dev_run=true"])
    assert without.model.auxiliary is None
    assert "train/aux" not in without.trainer.callback_metrics


def test_several_have_rates_of_their_own():
    cli = run([*words("several"), "--trainer.fast_dev_run=true"])
    assert isinstance(cli.model, SparseAutoencodersTask)
    rates = {name: task.learning_rate for name, task in cli.model.members.items()}
    assert rates == {"nested": pytest.approx(2e-4 / (3072 / 2**14) ** 0.5), "batch": 1e-3, "saelens": 3e-4}


def test_refined_values_are_chosen_by_a_file():
    task = run(words("refined", steps=1)).model
    assert task.autoencoder.refinement == Refinement()
    assert isinstance(task.loss, GeometricMean)
