"""experiments/06_nearest_neighbours: its README is drawn from its results, tuning looks at validation alone, and it runs."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

FOLDER = Path(__file__).parents[2] / "experiments" / "06_nearest_neighbours"
MODULES = [path.stem for path in FOLDER.glob("*.py")] + ["results_file"]

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*deprecated"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.usefixtures("experiment"),
]


def described():
    return yaml.safe_load((FOLDER / "grid.yaml").read_text())


def lines():
    import results_file  # noqa: PLC0415 - from the folder of the experiments

    return results_file.read(FOLDER / "results.csv")


def test_tables_are_those_of_the_results_and_the_figure_is_drawn_again(tmp_path):
    from figure import draw, tables  # noqa: PLC0415 - from the folder of the experiment
    from summary import Results  # noqa: PLC0415 - from the folder of the experiment

    grid = described()
    found = Results(lines(), grid)
    assert tables(found, grid) in (FOLDER / "README.md").read_text()
    for name in ("one.png", "two.png"):
        draw(found, grid, tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_every_row_has_every_seed_at_the_setting_that_validation_chose():
    from plan import runs  # noqa: PLC0415 - from the folder of the experiment

    grid, done = described(), lines()
    for dim in (0, *grid["dims"]):
        for table in grid["tables"]:
            for row in grid["rows"]:
                assert not list(runs(grid, table, dim, row, done)), (row, table, dim)


def test_rows_that_are_trained_have_as_many_settings():
    rows = described()["rows"].values()
    assert {len(row["settings"]) for row in rows} == {1, 4}


def test_all_seeds_share_their_test_rows_and_the_mean_is_of_training_rows():
    from data import load  # noqa: PLC0415 - from the folder of the experiment

    grid = described()
    one, two = (load(grid["tables"]["digits"], grid["fractions"], None, seed) for seed in (0, 1))
    assert np.array_equal(one.test.y, two.test.y)
    assert not np.array_equal(one.train.y, two.train.y)
    np.testing.assert_allclose(one.train.X.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(
        one.test.X - two.test.X, (one.test.X - two.test.X)[:1].repeat(len(one.test.y), 0), atol=1e-6
    )
    assert sum(len(part.y) for part in one) == 1797


def test_principal_components_are_scaled_to_the_fifth_neighbour():
    from embeddings import principal  # noqa: PLC0415 - from the folder of the experiment

    X = load_digits().data[:200].astype(np.float32)
    projected = X @ principal(X, 4).T
    distances, _ = KNeighborsClassifier(6).fit(projected, np.zeros(200)).kneighbors(projected)
    assert np.median(distances[:, 5]) == pytest.approx(1, rel=1e-5)


def test_a_small_grid_runs_is_tuned_on_validation_and_goes_on_where_it_stopped(tmp_path, monkeypatch, capsys):
    import results_file  # noqa: PLC0415 - from the folder of the experiments

    grid = described()
    wine = {"source": "ScikitLearnTable", "arguments": {"name": "wine"}, "scale": 100}
    grid |= {"tables": {"wine": wine}, "dims": [2], "neighbours": [1, 3], "test": {"seeds": [0, 1]}}
    grid["training"] |= {"steps": 2, "batch_size": 64, "hidden": 4}
    for row in grid["rows"].values():
        row["settings"] = row["settings"][:2]
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid, sort_keys=False))
    words = ["run.py", "--grid", str(tmp_path / "grid.yaml"), "--results", str(tmp_path / "results.csv")]
    monkeypatch.setattr(sys, "argv", words)
    runpy.run_path(str(FOLDER / "run.py"), run_name="__main__")
    written = results_file.read(tmp_path / "results.csv")
    tested = [line for line in written if line["metric"].endswith("/error") and not line["metric"].startswith("val/")]
    assert {(line["row"], line["seed"]) for line in tested} == {(row, s) for row in grid["rows"] for s in ("0", "1")}
    assert all(0 <= float(line["value"]) <= 1 for line in tested)
    for row, settings in ((row, described["settings"]) for row, described in grid["rows"].items()):
        tuned = {line["config"]: line["value"] for line in written if line["row"] == row and line["seed"] == "100"}
        assert len(tuned) == (2 if len(settings) == 2 else 0)
        if tuned:
            assert {line["config"] for line in tested if line["row"] == row} == {
                min(tuned, key=lambda c: float(tuned[c]))
            }
    assert "| sampled top-k, linear |" in capsys.readouterr().out
    runpy.run_path(str(FOLDER / "run.py"), run_name="__main__")
    assert results_file.read(tmp_path / "results.csv") == written
