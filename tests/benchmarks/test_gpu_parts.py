"""The parts of `make gpu`: each runs small on the CPU from the same file; what is finished is not run again, what fails is said."""

import csv
import re
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

ROOT = Path(__file__).parents[2]
PARTS = yaml.safe_load((ROOT / "benchmarks" / "gpu.yaml").read_text())

FAKE = """
first:
  measures: nothing
  command: -c "import sys, pathlib; pathlib.Path(sys.argv[1]).write_text(' '.join(sys.argv[2:]))" {out}/first-{slug}.csv {device}
  writes: ["first-{slug}.csv"]
  smoke: --small
second:
  measures: nothing
  needs: [texts]
  command: -c "import sys; sys.exit(sys.argv[1] == '{texts}/wrong')" {texts}/wrong
  writes: []
  smoke: ""
third:
  measures: nothing
  command: -c "print(1)"
  writes: ["third.csv"]
  smoke: ""
"""


@pytest.fixture
def gpu(load, tmp_path, monkeypatch):
    module = load("gpu")
    monkeypatch.setattr(module, "environment", lambda device: dict.fromkeys(module.SAME, "x") | {"commit": "abc"})
    (tmp_path / "parts.yaml").write_text(FAKE)
    known = module.parts
    monkeypatch.setattr(module, "parts", lambda: known(tmp_path / "parts.yaml"))
    return module


def finished(folder):
    with (folder / "gpu-cpu.csv").open(newline="") as file:
        return [row["part"] for row in csv.DictReader(file)]


def test_finished_parts_are_not_run_again_and_others_are(gpu, tmp_path, capfd, monkeypatch):
    words = ["--smoke", "--out", str(tmp_path)]
    with pytest.raises(SystemExit, match="failed: third"):  # it wrote nothing
        gpu.main(words)
    assert (tmp_path / "first-cpu.csv").read_text() == "cpu --small"
    assert finished(tmp_path) == ["first"]
    assert "second: left out: it needs --data texts=FOLDER" in capfd.readouterr().out
    (tmp_path / "first-cpu.csv").unlink()
    with pytest.raises(SystemExit, match="failed: second, third"):
        gpu.main([*words, "--data", f"texts={tmp_path}"])
    assert not (tmp_path / "first-cpu.csv").exists()
    assert "first: finished before" in capfd.readouterr().out
    for commit in ("def", "abc+"):  # another commit; changes without a name
        monkeypatch.setattr(gpu, "environment", lambda _, c=commit: dict.fromkeys(gpu.SAME, "x") | {"commit": c})
        gpu.main([*words, "--only", "first"])
        gpu.main([*words, "--only", "first"])
    assert finished(tmp_path) == ["first"] + ["first"] + 2 * ["first"]


def test_without_a_device_it_says_so(gpu, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as caught:
        gpu.main([])
    assert caught.value.code == 2
    assert "there is no CUDA device; --smoke" in capsys.readouterr().err


def test_every_part_names_scripts_configurations_and_results_that_are_its_own(load):
    parts = load("gpu").parts()
    written = [name for part in parts for name in part.writes]
    assert len(set(written)) == len(written)
    for part in parts:
        named = [word for word in part.command.split() if re.fullmatch(r"[\w/]+\.(py|yaml)", word)]
        assert named or part.name == "tests"
        assert [word for word in named if not (ROOT / word).is_file()] == []
        assert set(re.findall(r"{(\w+)}", part.command)) <= {"device", "out", "slug", "commit", *part.needs}
        assert part.smoke


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Texts and activations, as small as they may be."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "package").mkdir()
    for number in range(40):
        for kind in "ak":
            (folder / "package" / f"c{kind}{number:02}").write_text(
                f"text {number} of kind {kind}, again and again; " * 20
            )
    verses = (f"verse {number} of a book that has a great many of them.\n" for number in range(16_000))
    (folder / "bible.txt").write_text("".join(verses))
    tokens = (torch.randn(2000, 16, generator=torch.Generator().manual_seed(0)) - 1).relu()
    save_file({"activations": tokens[:, :8].contiguous()}, folder / "0.safetensors")
    return [f"corpora={folder}", f"activations={folder}"]


@pytest.mark.slow
@pytest.mark.parametrize("name", PARTS)
def test_a_part_runs_small_on_the_cpu(name, data, tmp_path, load):
    module = load("gpu")
    module.main(["--smoke", "--only", name, "--out", str(tmp_path), "--data", *data])
    (part,) = (part for part in module.parts() if part.name == name)
    assert finished(tmp_path) == [name]
    results = [path for path in tmp_path.glob("*.csv") if path.name != "gpu-cpu.csv"]
    assert bool(results) == bool(part.writes)
    for path in results:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert rows
        assert all(row["commit"] and row["torch"] for row in rows)
