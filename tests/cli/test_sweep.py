"""Sweeps run without a server, go on where they stopped, and say how far they are."""

import json
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from sparsek.cli import _sweep
from sparsek.cli._sweep_points import identity, read_sweep

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "configs" / "sweeps").glob("*.yaml"))

FAKE = """
import csv, os, sys
given = dict(word.lstrip("-").split("=", 1) for word in sys.argv[1:] if "=" in word)
folder = "/".join(given["trainer.logger.init_args." + name] for name in ("save_dir", "name", "version"))
os.makedirs(folder, exist_ok=True)
with open("calls", "a") as file:
    file.write(given["a"] + given["b"] + "\\n")
if os.path.exists("fail" + given["a"] + given["b"]):
    sys.exit("went wrong")
with open(folder + "/metrics.csv", "w") as file:
    file.write("step,val/loss\\n0,9\\n5," + str(float(given["a"]) - float(given["b"])) + "\\n")
"""
GRID = {
    "program": "sparsek",
    "method": "grid",
    "metric": {"name": "val/loss", "goal": "minimize"},
    "command": [sys.executable, "fake.py", "${args}"],
    "parameters": {"a": {"values": [1, 2]}, "b": {"values": [3, 4]}},
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["sparsek"])
    Path("fake.py").write_text(FAKE)
    write(GRID)


def write(content):
    Path("grid.yaml").write_text(yaml.safe_dump(content))


def calls():
    return Path("calls").read_text().split() if Path("calls").exists() else []


def test_a_grid_runs_once_and_says_what_was_best(capsys):
    _sweep.main(["grid.yaml"])
    assert calls() == ["13", "14", "23", "24"]
    said = capsys.readouterr().err
    assert "[1/4] a=1, b=3: val/loss -2" in said
    assert "left" in said
    assert "best val/loss: -3 with a=1, b=4" in said
    _sweep.main(["grid.yaml"])
    assert len(calls()) == 4
    assert "(finished before)" in capsys.readouterr().err


def test_failures_are_kept_and_run_again():
    Path("fail14").touch()
    with pytest.raises(SystemExit, match="1 of 4 runs failed"):
        _sweep.main(["grid.yaml"])
    (error,) = (path for path in Path("runs/sweeps/grid").rglob("error.txt") if path.read_text())
    assert error.read_text() == "went wrong\n"
    Path("fail14").unlink()
    _sweep.main(["grid.yaml"])
    assert calls() == ["13", "14", "23", "24", "14"]


def test_new_points_of_a_changed_file_are_run_and_old_ones_are_not():
    _sweep.main(["grid.yaml"])
    write(GRID | {"parameters": {"a": {"values": [2, 1]}, "b": {"values": [4, 5]}}})
    _sweep.main(["grid.yaml"])
    assert calls() == ["13", "14", "23", "24", "25", "15"]


def test_a_sweep_that_is_stopped_goes_on(monkeypatch):
    real = _sweep._execute

    def stopped(sweep, point, *rest):
        if point == {"a": 2, "b": 3}:
            raise KeyboardInterrupt
        return real(sweep, point, *rest)

    monkeypatch.setattr(_sweep, "_execute", stopped)
    with pytest.raises(KeyboardInterrupt):
        _sweep.main(["grid.yaml"])
    monkeypatch.setattr(_sweep, "_execute", real)
    _sweep.main(["grid.yaml"])
    assert calls() == ["13", "14", "23", "24"]


def test_the_list_is_the_commands(capsys):
    _sweep.main(["grid.yaml", "--list", "--more=1"])
    listed = capsys.readouterr().out.splitlines()
    assert len(listed) == 4
    assert listed[0].split()[1:5] == ["fake.py", "--a=1", "--b=3", "--more=1"]
    assert calls() == []


def test_random_draws_are_the_same_every_time_and_within_their_range():
    rate = {"distribution": "log_uniform_values", "min": 0.001, "max": 1.0}
    parameters = {"a": rate, "b": {"min": 1, "max": 5}, "c": {"value": "x"}}
    write(GRID | {"method": "random", "run_cap": 50, "parameters": parameters})
    first, second = read_sweep("grid.yaml"), read_sweep("grid.yaml")
    assert first == second
    assert len(first.points) == 50
    assert all(0.001 <= point["a"] <= 1 and point["b"] in range(1, 6) and point["c"] == "x" for point in first.points)
    below = sum(point["a"] < 0.0316 for point in first.points)  # half of them, in the logarithm
    assert 10 <= below <= 40  # 25 ± 15: false alarm 1e-5
    assert len({identity(point, []) for point in first.points}) == 50


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "bayes"}, "method .* must be grid or random"),
        ({"parameters": {"a": {"min": 0, "max": 1}}}, "parameter 'a' of a grid"),
        ({"command": ["sparsek", "fit"]}, "command .* must be a list of words with"),
        ({"metric": {"name": "x"}}, "metric .* must have a name and a goal"),
        ({"mehtod": "grid"}, "no other entries"),
        ({"method": "random"}, "run_cap .* must be at least 1"),
    ],
)
def test_a_wrong_file_is_one_clear_error(change, message, capsys):
    write(GRID | change)
    with pytest.raises(ValueError, match=message):
        read_sweep("grid.yaml")
    with pytest.raises(SystemExit):
        _sweep.main(["grid.yaml"])
    assert "sparsek sweep: error" in capsys.readouterr().err


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_sweep_names_parameters_that_its_command_has(path):
    """The configuration of the first point is complete and right, as the parser sees it."""
    sweep = read_sweep(path)
    assert len({json.dumps(point) for point in sweep.points}) == len(sweep.points)
    words = sweep.words(sweep.points[0])
    assert words[:2] == ["sparsek", "fit"]
    configs = [ROOT / word for before, word in pairwise(words) if before == "-c"]
    assert configs
    for config in configs:
        assert config.is_file()
    own = [word for word in words[2:] if word.startswith("--")]
    import sparsek.cli._cli as cli  # noqa: PLC0415 - slow to load

    class Parsed(cli.SparsekCLI):
        def instantiate_classes(self):
            raise StopIteration

    arguments = ["fit", *(word for config in configs for word in ("-c", str(config))), *own]
    with pytest.raises(StopIteration):
        Parsed(arguments)
