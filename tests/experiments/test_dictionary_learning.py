"""experiments/05_dictionary_learning: its README is drawn from its results, and a small grid runs, once."""

import csv
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

FOLDER = Path(__file__).parents[2] / "experiments" / "05_dictionary_learning"
MODULES = [path.stem for path in FOLDER.glob("*.py")] + ["results_file"]

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*deprecated"),
    pytest.mark.usefixtures("experiment"),
]


def test_the_tables_are_those_of_the_results(tmp_path):
    import results_file  # noqa: PLC0415 - from the folder of the experiments
    from figure import draw, tables  # noqa: PLC0415 - from the folder of the experiment
    from summary import Results  # noqa: PLC0415 - from the folder of the experiment

    grid = yaml.safe_load((FOLDER / "grid.yaml").read_text())
    found = Results(results_file.read(FOLDER / "results.csv"), grid)
    assert tables(found, grid) in (FOLDER / "README.md").read_text()
    draw(found, grid, tmp_path / "results.png")
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")


def test_a_small_grid_runs_once_and_the_best_setting_is_tested(tmp_path, monkeypatch, capsys):
    grid = yaml.safe_load((FOLDER / "grid.yaml").read_text())
    grid |= {
        "patches": {"size": 4, "train": 300, "test": 200, "atoms": 24, "k": [1, 3]},
        "planted": {"rows": 300, "columns": 8, "atoms": 12, "k": 2, "decibels": [30]},
        "denoising": {"size": 4, "crop": 16, "sigma": 25, "atoms": 24, "train": 100, "k": 2, "gain": 1.15},
        "test": {"seeds": [0, 1]},
        "rows": {
            "KSVD": {task: [{"max_iter": 3}] for task in ("patches", "planted", "denoising")},
            "LearnedDictionary, sampled": {"patches": [{"max_steps": 3}]},
            "MiniBatchDictionaryLearning": {"patches": [{"alpha": 1.0}, {"alpha": 1000.0}]},
            "random patches": {"patches": [{}], "denoising": [{}]},
        },
    }
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid, sort_keys=False))
    words = ["run.py", "--grid", str(tmp_path / "grid.yaml"), "--results", str(tmp_path / "out.csv")]
    monkeypatch.setattr(sys, "argv", words)
    for _ in range(2):
        runpy.run_path(str(FOLDER / "run.py"), run_name="__main__")
        kept = (tmp_path / "out.csv").read_text()
    with (tmp_path / "out.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len({(line["row"], line["seed"], line["metric"], line["config"]) for line in lines}) == len(lines)
    validated = {(line["metric"], line["config"]): float(line["value"]) for line in lines if line["seed"] == "100"}
    for k in (1, 3):
        metric = f"patches/error, k = {k}"
        errors = {config: value for (name, config), value in validated.items() if name == metric}
        tested = [line["config"] for line in lines if line["row"].startswith("MiniBatch") and line["metric"] == metric]
        best = min(errors, key=errors.get)
        assert {config: tested.count(config) for config in errors} == {
            each: 3 if each == best else 1 for each in errors
        }
    errors = {line["row"]: float(line["value"]) for line in lines if line["metric"] == "patches/error, k = 3"}
    assert errors["KSVD"] < errors["random patches"] < 1
    assert (tmp_path / "out.png").is_file()
    assert "| KSVD |" in capsys.readouterr().out
    runpy.run_path(str(FOLDER / "run.py"), run_name="__main__")
    assert (tmp_path / "out.csv").read_text() == kept


def test_a_dictionary_of_the_right_atoms_leaves_the_noise_and_psnr_is_that_of_its_definition():
    from data import planted  # noqa: PLC0415 - from the folder of the experiment
    from measurement import error, psnr  # noqa: PLC0415 - from the folder of the experiment

    described = {"rows": 500, "columns": 20, "atoms": 30, "k": 2}
    found = planted(described, 30, seed=0)
    assert error(found.rows, found.atoms, 2) < 3e-3
    image = np.zeros((4, 4))
    assert psnr(image, image + 25.5) == pytest.approx(20)
