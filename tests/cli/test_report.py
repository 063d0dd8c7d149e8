"""One table and one figure of any folder of runs."""

import csv
from pathlib import Path

import pytest
import yaml

from sparsek.cli import _report
from sparsek.cli._report_runs import read_runs


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(place, seed, rate, values, **more):
    folder = Path("runs") / place
    folder.mkdir(parents=True)
    config = {
        "seed_everything": seed,
        "model": {"init_args": {"learning_rate": rate}},
        "trainer": {"logger": {"x": place}},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config | more))
    lines = [f"0,{2 * values[0]},", *(f"{step},,{value}" for step, value in enumerate(values))]
    (folder / "metrics.csv").write_text("\n".join(["step,train/loss,val/loss", *lines]) + "\n")


def write_some():
    write("a", 0, 0.1, [3.0, 1.0])
    write("b", 1, 0.1, [4.0, 2.0])
    write("c", 0, 0.2, [5.0, 7.5])


def test_runs_that_differ_in_the_seed_alone_are_one_line(capsys):
    write_some()
    _report.main(["runs"])
    text = Path("runs/report.md").read_text()
    assert text.splitlines() == [
        "|                   | runs | val/loss    |",
        "| ----------------- | ---- | ----------- |",
        "| learning_rate=0.1 | 2    | 1.5 ± 0.707 |",
        "| learning_rate=0.2 | 1    | 7.5         |",
    ]
    assert text in capsys.readouterr().out
    assert Path("runs/report.png").read_bytes().startswith(b"\x89PNG")


def test_the_csv_has_a_line_a_run_with_all_that_differs():
    write_some()
    _report.main(["runs", "--out", "elsewhere"])
    with open("elsewhere/report.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["run"] for line in lines] == ["a", "b", "c"]
    assert lines[1] == {
        "run": "b", "seed_everything": "1", "model.init_args.learning_rate": "0.1", "step": "1", "train/loss": "8.0", "val/loss": "2.0",
    }  # fmt: skip


def test_a_report_in_the_folder_of_runs_changes_nothing_the_second_time():
    write_some()
    _report.main(["runs"])
    first = Path("runs/report.csv").read_bytes()
    _report.main(["runs"])
    assert Path("runs/report.csv").read_bytes() == first


def test_metrics_are_chosen_in_their_order(capsys):
    write_some()
    _report.main(["runs", "--metrics", "val/loss", "train/loss"])
    assert capsys.readouterr().out.splitlines()[0].split("|")[3:5] == [" val/loss    ", " train/loss "]


def test_runs_without_settings_are_named_by_their_folder(capsys):
    for name in ("one", "two"):
        Path(name).mkdir()
        (Path(name) / "metrics.csv").write_text("step,loss\n0,1\n")
    _report.main(["."])
    assert "| one " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing"], "folder must hold runs"),
        (["runs", "--metrics", "x"], "metrics must be among train/loss, val/loss, got x"),
    ],
)
def test_what_cannot_be_reported_is_one_clear_error(words, message, capsys):
    write_some()
    with pytest.raises(SystemExit):
        _report.main(words)
    assert message in capsys.readouterr().err


def test_offline_files_of_wandb_are_read(monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = wandb.init(mode="offline", dir=".", project="p", config={"model": {"rate": 0.5}, "seed": 3})
    for step in range(2000):  # more than one block of the file
        run.log({"val/loss": 2000.0 - step, "trainer/global_step": step * 10})
    run.finish()
    wandb.teardown()
    (found,) = read_runs(".")
    assert found.settings == {"model.rate": 0.5, "seed": 3}
    assert found.curves["val/loss"] == [(step * 10, 2000.0 - step) for step in range(2000)]
    (path,) = Path(".").rglob("*.wandb")
    path.write_bytes(path.read_bytes()[:40_000])
    (cut,) = read_runs(".")
    assert 100 < len(cut.curves["val/loss"]) < 2000
    assert cut.curves["val/loss"] == found.curves["val/loss"][: len(cut.curves["val/loss"])]


def test_what_is_no_file_of_wandb_is_one_clear_error():
    pytest.importorskip("wandb")
    Path("x.wandb").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"x\.wandb' is not an offline file of wandb"):
        read_runs(".")
