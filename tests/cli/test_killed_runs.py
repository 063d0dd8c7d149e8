"""Runs of every task, killed again and again and started by the same command, end as the run that was not interrupted."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
KILLS = 20
QUIET = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false",
         "--trainer.log_every_n_steps=1", "--trainer.callbacks+=sparsek.callbacks.RunCheckpoint",
         "--trainer.callbacks.every_n_train_steps=3"]  # fmt: skip


def configs(*names):
    return [word for name in names for word in ("-c", str(CONFIGS / f"{name}.yaml"))]


def language_model(folder):
    text = folder / "text"
    text.mkdir()
    for i in range(40):
        (text / f"{i}.txt").write_bytes(b"some words that come again and again, number %d. " % i * 8)
    sizes = {"d_model": 16, "num_layers": 2, "num_heads": 2, "d_hidden": 16, "num_experts": 4}
    source = {"class_path": "sparsek.datamodules.Folder", "init_args": {"name": "own", "root": str(text)}}
    data = {"sources": json.dumps([source]), "length": 24, "batch_size": 4, "eval_windows": 3, "steps_per_epoch": 40}
    return [
        *configs("moe/text", "selector/sampled"),
        *(f"--model.init_args.network.init_args.{name}={size}" for name, size in sizes.items()),
        *(f"--data.init_args.{name}={value}" for name, value in data.items()),
        "--trainer.max_steps=150",
        "--trainer.val_check_interval=30",
    ]


def autoencoder(folder):
    generator = torch.Generator().manual_seed(0)
    tokens = (torch.randn(4000, 64, generator=generator) - 1).relu() @ torch.randn(64, 32, generator=generator)
    (folder / "activations").mkdir()
    save_file({"activations": tokens}, folder / "activations" / "0.safetensors")
    sizes = "--model.init_args.autoencoder.init_args"
    return [
        *configs("sae/activations", "sae/random_k"),
        f"{sizes}.d_in=32",
        f"{sizes}.d_sae=128",
        f"--data.init_args.folder={folder / 'activations'}",
        "--data.init_args.by_document=false",
        "--data.init_args.batch_size=64",
        "--data.init_args.block_size=16",
        "--data.init_args.window_blocks=20",
        "--trainer.max_steps=150",
        "--trainer.val_check_interval=30",
    ]


def feature_selection(folder):
    return [*configs("feature_selection/digits", "feature_selection/xor2"), "--trainer.max_steps=300"]


def pooling(folder):
    return [*configs("pooling/planted", "pooling/sampled"), "--trainer.max_epochs=25"]


def nearest_neighbours(folder):
    return [*configs("nearest_neighbours/digits"), "--trainer.max_epochs=12", "--trainer.check_val_every_n_epoch=2"]


def sparse_network(folder):
    return [
        *configs("sparse_networks/mnist", "sparse_networks/digits", "sparse_networks/sampled"),
        "--trainer.max_steps=150",
    ]


TASKS = {
    "language model": language_model,
    "autoencoder": autoencoder,
    "feature selection": feature_selection,
    "pooling": pooling,
    "nearest neighbours": nearest_neighbours,
    "sparse network": sparse_network,
}


@pytest.fixture(scope="module")
def forks():
    """A process that starts runs at once."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    script = Path(__file__).with_name("forked_runs.py")
    process = subprocess.Popen(
        [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    yield process
    process.stdin.close()
    process.wait(60)
    process.stdout.close()


def start(forks, words, folder):
    forks.stdin.write(json.dumps({"words": words, "folder": str(folder)}) + "\n")
    forks.stdin.flush()
    return number(forks)


def status(forks):
    return number(forks)


def number(forks):
    """The next number that the process of forks says."""
    line = forks.stdout.readline()
    assert line, f"the process that starts runs has ended with {forks.wait(10)}"
    return int(line)


def lines(folder):
    """How many lines of metrics there are now."""
    return sum(path.read_bytes().count(b"\n") for path in folder.rglob("metrics.csv"))


def being_written(folder):
    return any(folder.rglob("checkpoints/.*.part"))


def wait_for(condition, process):
    """Whether the condition came true before the process ended."""
    while not condition():
        try:
            os.kill(process, 0)
            if Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return False
        except (ProcessLookupError, FileNotFoundError):
            return False
        time.sleep(0.0005)
    return True


def kill_somewhere(process, folder, moment, goal):
    """Let the run come to so many lines, then kill it: at once and after a moment, or while it writes a checkpoint."""
    alive = wait_for(lambda: lines(folder) >= goal, process)
    if moment is None:
        alive = alive and wait_for(lambda: being_written(folder), process)
    else:
        time.sleep(moment)
    if alive:
        os.kill(process, signal.SIGKILL)


@pytest.mark.parametrize("task", TASKS)
def test_twenty_kills_leave_no_trace(task, forks, tmp_path):
    words = ["fit", *TASKS[task](tmp_path), *QUIET]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    start(forks, words, whole)
    assert status(forks) == 0, (whole / "output.txt").read_text()
    total, source = lines(whole), random.Random(task)
    kills, in_checkpoints, attempts = 0, 0, 0
    while True:
        attempts += 1
        moment = None if attempts % 3 == 0 else source.uniform(0, 0.3)
        process = start(forks, words, killed)
        if kills < KILLS:
            kill_somewhere(process, killed, moment, goal=(kills + 1) * total // (KILLS + 2))
        code = status(forks)
        if code == 0:
            break
        assert code == -signal.SIGKILL, (killed / "output.txt").read_text()
        kills += 1
        in_checkpoints += being_written(killed)
    print(f"{task}: {kills} kills, {in_checkpoints} of them while a checkpoint was written")
    assert kills == KILLS
    assert in_checkpoints >= 3
    assert_equal_runs(whole, killed)


def assert_equal_runs(whole, killed):
    """One run in each folder, with the same files: the newest checkpoint, every CSV file."""
    (one,), (other,) = (sorted((folder / "runs" / "sparsek").iterdir()) for folder in (whole, killed))
    names = {path.relative_to(one) for path in one.rglob("*.c*") if path.suffix in (".csv", ".ckpt")}
    assert names == {path.relative_to(other) for path in other.rglob("*.c*") if path.suffix in (".csv", ".ckpt")}
    for name in names:
        if name.suffix == ".csv":
            assert (one / name).read_bytes() == (other / name).read_bytes(), name
        else:
            assert_same(*(torch.load(folder / name, weights_only=True) for folder in (one, other)), str(name))
    assert not list(killed.rglob(".*.part"))
    assert not (killed / "runs" / ".unfinished").exists()


def assert_same(one, other, place):
    """Weights, optimizers, schedules, counters, generators: everything but where the files are."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), place
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), place
        for name in one:
            if name != "RunCheckpoint":
                assert_same(one[name], other[name], f"{place}/{name}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), place
        for i, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{place}/{i}")
    else:
        assert repr(one) == repr(other), place  # NaN is NaN


def test_the_command_itself_goes_on(tmp_path):
    """Two kills of `python -m sparsek.cli`."""
    words = [sys.executable, "-W", "ignore", "-m", "sparsek.cli", "fit", *pooling(tmp_path), *QUIET]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    subprocess.run(words, cwd=whole, env=environment, check=True, capture_output=True)
    for goal in (40, 120):
        process = subprocess.Popen(
            words, cwd=killed, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        while lines(killed) < goal and process.poll() is None:
            time.sleep(0.001)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        process.stderr.close()
    done = subprocess.run(words, cwd=killed, env=environment, check=True, capture_output=True, text=True)
    assert "going on with the run in runs/sparsek/version_0 from" in done.stderr
    assert_equal_runs(whole, killed)
