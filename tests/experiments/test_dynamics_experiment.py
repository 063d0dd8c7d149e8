"""experiments/07_dynamics: its README is drawn from its results, every row has every seed, and a small grid runs, once."""

import csv
import runpy
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy.stats import binomtest

FOLDER = Path(__file__).parents[2] / "experiments" / "07_dynamics"
MODULES = [path.stem for path in FOLDER.glob("*.py")] + ["results_file"]

pytestmark = pytest.mark.usefixtures("experiment")


def described():
    return yaml.safe_load((FOLDER / "grid.yaml").read_text())


def test_the_tables_are_those_of_the_results():
    from figure import tables, values  # noqa: PLC0415 - from the folder of the experiment

    assert tables(values(FOLDER / "results.csv"), described()) in (FOLDER / "README.md").read_text()


def test_no_run_is_in_the_results_twice():
    with (FOLDER / "results.csv").open(newline="") as file:
        runs = Counter((line["row"], line["seed"], line["metric"], line["config"]) for line in csv.DictReader(file))
    assert max(runs.values()) == 1


def test_intervals_are_those_of_scipy():
    from figure import interval  # noqa: PLC0415 - from the folder of the experiment

    for successes in (0, 3, 20):
        expected = binomtest(successes, 20).proportion_ci(method="exact")
        np.testing.assert_allclose(interval(successes, 20), expected)


def test_a_case_is_settled_by_its_seed_and_has_the_noise_that_it_says():
    from data import case  # noqa: PLC0415 - from the folder of the experiment

    for name, system in described()["systems"].items():
        one, two = (case(name, system, 0.1, seed=0) for _ in range(2))
        assert np.array_equal(one.noisy, two.noisy)
        ratio = (one.noisy - one.clean).std(0) / one.clean.std(0)
        np.testing.assert_allclose(ratio, 0.1, rtol=4 / np.sqrt(2 * len(one.t)))  # 4 standard errors of a deviation
        assert not np.array_equal(one.noisy, case(name, system, 0.1, seed=1).noisy)


def test_a_small_grid_runs_and_nothing_runs_twice(tmp_path, monkeypatch, capsys):
    grid = described()
    grid["systems"] = {"Lotka-Volterra": grid["systems"]["Lotka-Volterra"] | {"degree": 2}}
    grid |= {"noise": [0.01], "seeds": [0, 1], "pictured": {"system": "Lotka-Volterra", "noise": 0.01, "seed": 0}}
    grid["rows"] = {row: grid["rows"][row] for row in ("SINDy", "sigmoid top-k, weak form")}
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid, sort_keys=False))
    words = ["run.py", "--grid", str(tmp_path / "grid.yaml"), "--results", str(tmp_path / "out.csv")]
    monkeypatch.setattr(sys, "argv", words)
    runpy.run_path(str(FOLDER / "run.py"), run_name="__main__")
    kept = (tmp_path / "out.csv").read_text()
    runpy.run_path(str(FOLDER / "run.py"), run_name="__main__")
    assert (tmp_path / "out.csv").read_text() == kept
    assert "| SINDy | 2/2 |" in capsys.readouterr().out
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
