"""experiments/10_sparse_networks: its README is drawn from its results, every method ends at k weights, and it runs on stand-ins."""

import gzip
import math
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from scipy import stats

FOLDER = Path(__file__).parents[2] / "experiments" / "10_sparse_networks"
MODULES = [path.stem for path in FOLDER.glob("*.py")] + ["results_file"]

pytestmark = pytest.mark.usefixtures("experiment")


def described():
    return yaml.safe_load((FOLDER / "grid.yaml").read_text())


def write_images(folder, rows=(60, 20)):
    """Four files in the format of MNIST; the class is where the image is bright."""
    random = np.random.default_rng(0)
    for part, count in zip(("train", "t10k"), rows, strict=True):
        labels = np.arange(count, dtype=np.uint8) % 10
        pixels = random.integers(0, 60, (count, 28, 28), dtype=np.uint8)
        for image, label in zip(pixels, labels, strict=True):
            image[2 * label : 2 * label + 3] += 150
        for kind, array in (("images-idx3", pixels), ("labels-idx1", labels)):
            header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}i", *array.shape)
            (folder / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(header + array.tobytes()))


@pytest.fixture
def small(tmp_path):
    from data import fashion  # noqa: PLC0415 - from the folder of the experiment

    write_images(tmp_path)
    return fashion(tmp_path, held_out=20)


def test_tables_are_those_of_the_results_and_the_figure_is_drawn_again(tmp_path):
    import results_file  # noqa: PLC0415 - from the folder of the experiments
    from figure import draw, tables  # noqa: PLC0415 - from the folder of the experiment
    from summary import Results  # noqa: PLC0415 - from the folder of the experiment

    grid = described()
    found = Results(results_file.read(FOLDER / "results.csv"), grid)
    assert tables(found, grid) in (FOLDER / "README.md").read_text()
    for name in ("one.png", "two.png"):
        draw(found, grid, tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_what_was_tested_is_what_validation_chose_and_has_exactly_k_weights():
    import results_file  # noqa: PLC0415 - from the folder of the experiments
    from plan import chosen  # noqa: PLC0415 - from the folder of the experiment

    grid, lines = described(), results_file.read(FOLDER / "results.csv")
    totals = {"mlp": 266_200, "conv": 105_744}
    for task in {line["config"].split(" ")[0] for line in lines if line["seed"] == "0"}:
        for row in grid["rows"]:
            best = yaml.safe_dump(chosen(grid, task, row, lines))
            for line in lines:
                name, sparsity, setting = line["config"].split(" ", 2)
                if name != task or line["row"] != row or line["seed"] == str(grid["validation"]["seed"]):
                    continue
                assert yaml.safe_dump(yaml.safe_load(setting)) == best
                if line["metric"] == "kept" and row not in ("dense", "L0"):
                    assert float(line["value"]) == round((1 - float(sparsity)) * totals[task])
    assert not [li for li in lines if li["seed"] == "100" and li["metric"].startswith("test")]


@pytest.mark.parametrize("task", ["mlp", "conv"])
@pytest.mark.parametrize(
    ("row", "setting"),
    [
        ("sigmoid top-k", {}),
        ("magnitude, gradual", {"layers": "global"}),
        ("magnitude, gradual", {"layers": "share"}),
        ("magnitude, once", {}),
        ("RigL", {"fraction": 0.5}),
        ("random", {"layers": "uniform"}),
        ("L0", {}),
        ("dense", {}),
    ],
)
def test_every_method_ends_at_k_weights(task, row, setting, small, monkeypatch):
    import methods  # noqa: PLC0415 - from the folder of the experiment
    from training import train  # noqa: PLC0415 - from the folder of the experiment

    for kind in (methods.Gradual, methods.RigL):
        monkeypatch.setattr(kind, "every", 2)
    found = train(task, row, {"lr": 0.01, **setting}, {"steps": 8, "batch": 4}, 0.02, 0, small)
    total = {"mlp": 266_200, "conv": 105_744}[task]
    if row == "L0":  # gates can be closed that are among the k largest
        assert found["kept"] <= round(0.02 * total)
    else:
        assert found["kept"] == (total if row == "dense" else round(0.02 * total))
    assert 0 <= found["val/accuracy"] <= 1


def test_layers_of_random_masks_add_up_to_k():
    from methods import _densities  # noqa: PLC0415 - from the folder of the experiment
    from networks import network, tensors_of  # noqa: PLC0415 - from the folder of the experiment

    for task in ("mlp", "conv"):
        weights = [module.weight for module, _ in tensors_of(network(task))]
        for k in (1057, 5324, 26_620, 90_000):
            for layers in ("erk", "uniform"):
                kept = _densities(weights, k, layers)
                assert sum(kept) == k
                assert all(0 < number <= weight.numel() for number, weight in zip(kept, weights, strict=True))


def test_an_interval_is_that_of_students_t():
    from summary import interval  # noqa: PLC0415 - from the folder of the experiment

    for number in (2, 3, 5):
        values = torch.randn(number, generator=torch.Generator().manual_seed(number)).tolist()
        expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        mean, width = interval(values)
        assert (mean - width, mean + width) == pytest.approx((expected.low, expected.high))
    assert interval([0.3]).width == math.inf
    assert math.isnan(interval([]).mean)


def test_it_runs_and_goes_on_where_it_was_stopped(tmp_path, monkeypatch, capsys):
    import data  # noqa: PLC0415 - from the folder of the experiment
    import results_file  # noqa: PLC0415 - from the folder of the experiments
    import run  # noqa: PLC0415 - from the folder of the experiment

    write_images(tmp_path)
    whole = data.fashion
    monkeypatch.setattr(run, "fashion", lambda folder: whole(folder, held_out=20))
    grid = described()
    grid |= {"sparsities": [0.98], "test": {"seeds": [0, 1]}, "learning_rates": [0.01]}
    grid["tasks"] = {name: {"steps": 2, "batch": 4} for name in grid["tasks"]}
    grid["rows"] = {"dense": [{}], "random": [{"layers": "erk"}, {"layers": "uniform"}], "sigmoid top-k": [{}]}
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid, sort_keys=False))
    files = ["--data", str(tmp_path), "--grid", str(tmp_path / "grid.yaml"), "--results", str(tmp_path / "r.csv")]
    monkeypatch.setattr(sys, "argv", ["run.py", *files, "--minutes", "0"])
    run.main()
    assert not (tmp_path / "r.csv").exists()
    monkeypatch.setattr(sys, "argv", ["run.py", *files])
    run.main()
    lines = results_file.read(tmp_path / "r.csv")
    trained = [line for line in lines if line["metric"] == "seconds"]
    assert len(trained) == 2 * (4 + 3 * 2)
    assert (tmp_path / "r.png").exists()
    assert "LeNet-300-100" in capsys.readouterr().out
    run.main()
    assert results_file.read(tmp_path / "r.csv") == lines
