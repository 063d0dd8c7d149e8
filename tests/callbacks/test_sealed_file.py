"""Checkpoints are whole or refused, never run code, and what was written stays."""

import errno
import os
import resource
import signal
import stat
import zipfile

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsek.callbacks import CheckpointError, SealedCheckpointIO
from sparsek.callbacks._sealed_file import check_seal, read_sealed, remove_parts, write_sealed

VALUE = {"state_dict": {"weight": torch.arange(300.0)}, "epoch": 3}


@pytest.fixture(scope="module")
def sealed(tmp_path_factory):
    path = tmp_path_factory.mktemp("sealed") / "a.ckpt"
    write_sealed(VALUE, path)
    return path


def test_a_sealed_file_is_an_ordinary_checkpoint(sealed):
    assert check_seal(sealed)
    assert torch.equal(torch.load(sealed, weights_only=True)["state_dict"]["weight"], VALUE["state_dict"]["weight"])
    assert zipfile.ZipFile(sealed).testzip() is None
    assert stat.S_IMODE(sealed.stat().st_mode) == 0o666 & ~_umask()


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_any_flipped_bit_is_noticed(sealed, data):
    content = bytearray(sealed.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    other = sealed.with_name("flipped.ckpt")
    other.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"flipped\.ckpt"):
        read_sealed(other)


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_any_truncation_is_noticed(sealed, data):
    content = sealed.read_bytes()
    other = sealed.with_name("cut.ckpt")
    other.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(CheckpointError, match=r"cut\.ckpt"):
        read_sealed(other)


def test_without_the_seal_a_flipped_bit_in_a_weight_is_not_noticed(tmp_path):
    """The sabotaged twin: torch itself reads the changed weight."""
    torch.save(VALUE, tmp_path / "plain.ckpt")
    content = bytearray((tmp_path / "plain.ckpt").read_bytes())
    place = content.find(VALUE["state_dict"]["weight"].numpy().tobytes()) + 41
    content[place] ^= 4
    (tmp_path / "plain.ckpt").write_bytes(content)
    assert not torch.equal(read_sealed(tmp_path / "plain.ckpt")["state_dict"]["weight"], VALUE["state_dict"]["weight"])


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_a_checkpoint_that_runs_code_is_refused_and_runs_none(tmp_path):
    torch.save({"state_dict": {}, "x": Hostile(tmp_path / "run")}, tmp_path / "bad.ckpt")
    for read in (read_sealed, SealedCheckpointIO().load_checkpoint):
        with pytest.raises(CheckpointError, match=r"bad\.ckpt"):
            read(tmp_path / "bad.ckpt")
    write_sealed({"state_dict": {}, "x": Hostile(tmp_path / "run")}, tmp_path / "sealed.ckpt")
    with pytest.raises(CheckpointError, match=r"sealed\.ckpt"):
        read_sealed(tmp_path / "sealed.ckpt")
    assert not (tmp_path / "run").exists()
    torch.load(tmp_path / "bad.ckpt", weights_only=False)
    assert (tmp_path / "run").exists()  # it would have


@pytest.mark.parametrize("content", [{"weights": 1}, [1, 2], 7], ids=str)
def test_what_is_no_checkpoint_of_lightning_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "foreign.ckpt")
    with pytest.raises(CheckpointError, match=r"foreign\.ckpt' is not a Lightning checkpoint"):
        read_sealed(tmp_path / "foreign.ckpt")


def test_a_missing_file_is_one_clear_error(tmp_path):
    with pytest.raises(CheckpointError, match=r"none\.ckpt' is not there"):
        read_sealed(tmp_path / "none.ckpt")


def test_a_full_disk_leaves_the_last_checkpoint_and_nothing_else(tmp_path):
    path = tmp_path / "a.ckpt"
    write_sealed(VALUE, path)
    before = path.read_bytes()
    larger = {"state_dict": {"weight": torch.zeros(100_000)}}
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, old[1]))
    try:
        with pytest.raises(OSError, match="could not be written") as caught:
            SealedCheckpointIO().save_checkpoint(larger, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert caught.value.errno == errno.EFBIG
    assert caught.value.filename == str(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.ckpt"]


@pytest.mark.parametrize("stage", ["fsync", "replace"])
def test_what_fails_late_leaves_the_last_checkpoint_too(stage, tmp_path, monkeypatch):
    path = tmp_path / "a.ckpt"
    write_sealed(VALUE, path)
    before = path.read_bytes()

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, stage, full)
    with pytest.raises(OSError, match="the disk is full"):
        SealedCheckpointIO().save_checkpoint({"state_dict": {}}, path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.ckpt"]


def test_what_a_killed_process_left_is_removed(tmp_path):
    write_sealed(VALUE, tmp_path / "a.ckpt")
    (tmp_path / ".a.ckpt.x1.part").write_bytes(b"half")
    remove_parts(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.ckpt"]
