"""The launches of docs/distributed.md, torchrun on two nodes and Slurm's variables, train the same run. Both nodes are this machine."""

import json
import os
import subprocess
import sys

import pytest
from test_killed_ranks import free_port
from test_killed_runs import CONFIGS, QUIET, forks, lines, number

__all__ = ["forks"]  # a fixture

pytestmark = pytest.mark.slow

TWO_NODES = ["--trainer.num_nodes=2", "--trainer.devices=1", "--trainer.strategy=ddp"]
WORDS = ["fit", "-c", str(CONFIGS / "pooling/planted.yaml"), "--trainer.max_epochs=2", *QUIET, *TWO_NODES]


def torchrun(folder):
    """The command of the page on either node."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    port = free_port()
    nodes = []
    for node in range(2):
        place = [f"--node-rank={node}", "--master-addr=127.0.0.1", f"--master-port={port}"]
        start = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
        command = [*start, *place, "-m", "sparsek.cli", *WORDS]
        nodes.append(
            subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        )
    said = [node.communicate(timeout=300)[0].decode() for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], "\n".join(said)


def slurm(forks, folder):
    """What `srun` sets for a task on each of two nodes."""
    common = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "1", "SLURM_JOB_NAME": "job", "SLURM_JOB_ID": "7"}
    common |= {"SLURM_NODELIST": "127.0.0.1", "SLURM_LOCALID": "0", "MASTER_PORT": free_port()}
    environments = [common | {"SLURM_PROCID": str(node), "SLURM_NODEID": str(node)} for node in range(2)]
    start(forks, folder, environments)
    assert [number(forks) for _ in environments] == [0, 0], (folder / "output.txt").read_text()


def start(forks, folder, environments):
    forks.stdin.write(json.dumps({"words": WORDS, "folder": str(folder), "environments": environments}) + "\n")
    forks.stdin.flush()
    return [number(forks) for _ in environments]


def test_torchrun_and_slurm_train_the_same_run(forks, tmp_path):
    folders = [tmp_path / name for name in ("torchrun", "slurm")]
    for folder in folders:
        folder.mkdir()
    torchrun(folders[0])
    slurm(forks, folders[1])
    (one,), (other,) = ([*folder.rglob("metrics.csv")] for folder in folders)  # one run each
    assert lines(folders[0]) > 10
    assert one.read_bytes() == other.read_bytes()
