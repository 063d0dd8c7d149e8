"""The same command goes on with a run that died, and begins a new one after a run that ended."""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from pooling_words import words

from sparsek.cli import run
from sparsek.cli._run_record import RunRecord, find_record

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*deprecated"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:Experiment logs directory"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
]


class PowerCut(RuntimeError):
    """The run died."""


class Dies(Callback):
    """Ends the process's run at a step."""

    at = None

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == Dies.at:
            raise PowerCut


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["sparsek"])
    monkeypatch.setattr(Dies, "at", None)


def command(*more):
    return words(
        "fit",
        "--trainer.callbacks+=test_resume.Dies",
        "--trainer.callbacks+=sparsek.callbacks.RunCheckpoint",
        "--trainer.callbacks.every_n_train_steps=3",
        *more,
    )


def die(at, *more):
    Dies.at = at
    with pytest.raises(PowerCut):
        run(command(*more))
    Dies.at = None


def versions():
    return sorted(path.name for path in Path("runs/sparsek").iterdir())


def checkpoints(version=0):
    return sorted(
        Path(f"runs/sparsek/version_{version}/checkpoints").iterdir(), key=lambda path: path.stat().st_mtime_ns
    )


def lines(version=0):
    return Path(f"runs/sparsek/version_{version}/metrics.csv").read_text()


def test_a_run_that_died_goes_on_and_one_that_ended_does_not(capsys):
    whole = run(command())
    assert versions() == ["version_0"]
    assert not Path("runs/.unfinished").exists()
    die(at=8)
    assert versions() == ["version_0", "version_1"]
    capsys.readouterr()
    resumed = run(command())
    assert "going on with the run in runs/sparsek/version_1 from" in capsys.readouterr().err
    assert versions() == ["version_0", "version_1"]
    assert lines(1) == lines(0)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name
    run(command())
    assert versions() == ["version_0", "version_1", "version_2"]


class Terminated(Callback):
    """Is sent SIGTERM at a step, as Slurm, Docker and `kill` do."""

    at = None

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == Terminated.at:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_run_that_was_terminated_says_so_to_the_shell_and_goes_on(capsys, monkeypatch):
    more = "--trainer.callbacks+=test_resume.Terminated"
    whole = run(command(more))
    monkeypatch.setattr(Terminated, "at", 8)
    with pytest.raises(SystemExit) as ended:
        run(command(more))
    assert ended.value.code == 143
    monkeypatch.setattr(Terminated, "at", None)
    capsys.readouterr()
    resumed = run(command(more))
    assert "going on with the run in runs/sparsek/version_1 from" in capsys.readouterr().err
    assert lines(1) == lines(0)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name


def test_another_configuration_never_and_a_named_checkpoint_begin_new_runs():
    die(at=8)
    run(command("--model.init_args.learning_rate=0.02"))
    run(command("--resume=never"))
    run(command(f"--ckpt_path={checkpoints(0)[-1]}"))
    assert versions() == ["version_0", "version_1", "version_2", "version_3"]
    assert len(list(Path("runs/.unfinished").glob("*.json"))) == 1
    resumed = run(command())
    assert Path(resumed.trainer.log_dir).name == "version_0"


def test_a_run_that_died_before_its_first_checkpoint_begins_again_in_its_place(capsys):
    die(at=2)
    resumed = run(command())
    assert "from its beginning" in capsys.readouterr().err
    assert versions() == ["version_0"]
    run(command())
    assert lines(0) == lines(1)
    assert resumed.trainer.state.finished


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1000])


def foreign(path):
    """A whole checkpoint of another configuration."""
    other = run(command("--model.init_args.learning_rate=0.02"))
    stamp = path.stat()
    shutil.copy(checkpoints(int(Path(other.trainer.log_dir).name[-1]))[-1], path)
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))


@pytest.mark.parametrize(
    ("damage", "message"), [(flip, "is damaged"), (cut, "cannot be read"), (foreign, "is foreign")]
)
def test_a_bad_checkpoint_is_refused_by_name_and_the_one_before_is_used_when_asked(damage, message, capsys):
    whole = run(command())
    die(at=8)
    older, newest = checkpoints(1)
    damage(newest)
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        run(command())
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert newest.name in error
    assert "--resume=previous" in error
    resumed = run(command("--resume=previous"))
    error = capsys.readouterr().err
    assert f"{newest.name}' {message}" in error
    assert older.name in error
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name
    assert lines(1) == lines(0)


def test_no_whole_checkpoint_is_one_clear_error(capsys):
    die(at=8)
    for path in checkpoints():
        flip(path)
    with pytest.raises(SystemExit):
        run(command("--resume=previous"))
    assert "no checkpoint of this run can be used" in capsys.readouterr().err


def test_what_is_running_is_left_alone():
    die(at=8)
    (file,) = Path("runs/.unfinished").glob("*.json")
    record = RunRecord(file, **json.loads(file.read_text()))
    handle = record.lock()
    try:
        assert record.alive
        found, again = find_record(Path("runs"), file.stem.rsplit("-", 1)[0], resume=True)
        assert not again
        assert found.file != file
        run(command())
        assert versions() == ["version_0", "version_1"]
    finally:
        os.close(handle)
    assert not record.alive
    assert Path(run(command()).trainer.log_dir).name == "version_0"


def test_checkpoints_of_other_shapes_are_refused_with_the_name_of_the_file():
    run(command())
    path = checkpoints()[-1]
    with pytest.raises(ValueError, match=path.name):
        run(command(f"--ckpt_path={path}", "--model.init_args.head.init_args.classes=5"))
