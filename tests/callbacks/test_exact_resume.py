"""A run that is resumed from any of its checkpoints is the run that was not interrupted."""

import random
import shutil
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from resume_cases import Noisy, assert_same, fit
from torch import nn

from sparsek.callbacks import ExactResume, RunCheckpoint
from sparsek.callbacks._generators import global_state, private_generators, private_state, set_private_state

# Lightning 2.6 asks torch for a name that torch 2.13 renames; the folders of these runs are moved on purpose
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*deprecated"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path."),
]

LENGTHS = {
    "steps": {"max_steps": 12, "val_check_interval": 4, "check_val_every_n_epoch": None},
    "epochs": {"max_epochs": 3},
    "steps and epochs": {"max_epochs": -1, "max_steps": 12, "check_val_every_n_epoch": 2},
}
PLACES = {
    "every step": {"every_n_train_steps": 1},
    "validation": {"every_n_epochs": 1, "save_on_train_epoch_end": False},
    "end of epoch": {"every_n_epochs": 1, "save_on_train_epoch_end": True},
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("length", LENGTHS)
def test_every_checkpoint_of_a_run_continues_to_the_same_end(length, place, tmp_path):
    def checkpoints(folder):
        return ModelCheckpoint(folder, filename="{step}", save_top_k=-1, **PLACES[place])

    whole = fit(tmp_path / "whole", checkpoints(tmp_path / "kept"), **LENGTHS[length])
    kept = sorted((tmp_path / "kept").iterdir())
    assert len(kept) >= 1
    for path in kept:
        shutil.copytree(tmp_path / "whole", tmp_path / path.stem)  # with lines that come after the checkpoint
        resumed = fit(tmp_path / path.stem, checkpoints(tmp_path / "again"), ckpt_path=str(path), **LENGTHS[length])
        assert_same(whole, resumed)


def test_a_run_that_is_resumed_at_every_step_ends_the_same(tmp_path):
    """A checkpoint of a resumed run holds what the runs before it held, too."""
    length = LENGTHS["steps and epochs"]
    whole = fit(tmp_path / "whole", **length)
    for step in range(length["max_steps"]):
        path = str(tmp_path / "kept" / f"step={step}.ckpt") if step else None
        checkpoints = ModelCheckpoint(tmp_path / "kept", filename="{step}", save_top_k=-1, every_n_train_steps=1)
        with pytest.raises(InterruptedError) if step + 1 < length["max_steps"] else nullcontext():
            resumed = fit(tmp_path / "killed", checkpoints, Dies(step + 1), ckpt_path=path, **length)
    assert_same(whole, resumed)


class Dies(Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            raise InterruptedError


def test_without_the_callback_the_runs_part(tmp_path, monkeypatch):
    """The sabotaged twin: generators are not set."""
    whole = fit(tmp_path, ModelCheckpoint(tmp_path / "kept", every_n_train_steps=3, save_top_k=-1), max_steps=6)
    monkeypatch.setattr(ExactResume, "_restore", lambda callback: None)
    (path,) = (tmp_path / "kept").glob("*step=3.ckpt")
    resumed = fit(tmp_path, ckpt_path=str(path), max_steps=6)
    with pytest.raises(AssertionError):
        assert_same(whole, resumed)


def test_the_run_checkpoint_keeps_the_newest_and_the_last_step(tmp_path):
    callback = RunCheckpoint(every_n_train_steps=3, keep=2)
    whole = fit(tmp_path, callback, max_steps=7)
    folder = tmp_path / "x" / "version_0" / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["run-epoch=1-step=6.ckpt", "run-epoch=1-step=7.ckpt"]
    assert_same(whole, fit(tmp_path, ckpt_path=str(folder / "run-epoch=1-step=7.ckpt"), max_steps=7))


def test_the_run_checkpoint_writes_less_often_where_writing_takes_long(tmp_path, monkeypatch):
    clock = iter(range(0, 10_000, 5))
    monkeypatch.setattr("sparsek.callbacks._run_checkpoint.time.monotonic", lambda: float(next(clock)))
    callback = RunCheckpoint(seconds=1.0)
    fit(tmp_path, callback, max_steps=2)
    assert callback._train_time_interval.total_seconds() == 250  # fifty times the five seconds of a saving


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seconds": 0.0}, "seconds must"),
        ({"keep": 0}, "keep must be at least 1, got 0"),
        ({"every_n_train_steps": 0}, "every_n_train_steps must be at least 1, got 0"),
    ],
)
def test_bad_arguments_are_one_clear_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        RunCheckpoint(**arguments)


def test_private_generators_are_found_once_wherever_they_are():
    shared = torch.Generator()
    module = nn.Sequential(nn.Identity(), nn.Dropout())
    module[1]._hidden, module.again = shared, shared
    module.options = {"a": [random.Random(0)], "b": (np.random.default_rng(0),)}
    found = private_generators({"module": module})
    assert sorted(map(type, found.values()), key=str) == sorted(
        (torch.Generator, random.Random, np.random.Generator), key=str
    )
    assert set(found) == {"module.1._hidden", "module.options.a.0", "module.options.b.0"}


def test_states_survive_a_file_without_pickled_code(tmp_path):
    generators = private_generators({"module": Noisy()})
    state = {"global": global_state(), "private": private_state(generators)}
    torch.save(state, tmp_path / "state")
    drawn = [_draw(generator) for generator in generators.values()]
    read = torch.load(tmp_path / "state", weights_only=True)
    set_private_state(generators, read["private"])
    assert [_draw(generator) for generator in generators.values()] == drawn


def _draw(generator):
    if isinstance(generator, torch.Generator):
        return torch.rand(2, generator=generator).tolist()
    return [generator.random() for _ in range(2)]


def test_a_generator_that_is_gone_is_one_clear_error():
    with pytest.raises(ValueError, match=r"generators that this run has not: module\.own"):
        set_private_state({}, {"module.own": torch.Generator().get_state()})
