"""Runs on two processes, one of them or both killed again and again, and started by the same command, end as the run that was not."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time

import pytest
from test_killed_runs import QUIET, TASKS, assert_equal_runs, being_written, forks, lines, number, wait_for

__all__ = ["forks"]  # a fixture

pytestmark = pytest.mark.slow

KILLS = 8
PATIENCE = 20.0
"""Seconds that a process has to end by itself once the other is gone; then it is killed, as launchers do it."""

DDP = ["--trainer.devices=2", "--trainer.strategy=ddp"]


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def start(forks, words, folder):
    """Two processes, as a launcher starts them."""
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "NODE_RANK": "0"}
    environments = [common | {"LOCAL_RANK": str(rank)} for rank in range(2)]
    forks.stdin.write(json.dumps({"words": words, "folder": str(folder), "environments": environments}) + "\n")
    forks.stdin.flush()
    return [number(forks) for _ in environments]


def kill(processes, victims, moment, folder, goal):
    """Let the run come to so many lines, then kill: after a moment, or while the first process writes a checkpoint."""
    alive = wait_for(lambda: lines(folder) >= goal, processes[0])
    if moment is None:
        alive = alive and wait_for(lambda: being_written(folder), processes[0])
    else:
        time.sleep(moment)
    if alive:
        for victim in victims:
            os.kill(processes[victim], signal.SIGKILL)
        end = time.monotonic() + PATIENCE
        for process in {*processes} - {processes[victim] for victim in victims}:
            if wait_for(lambda: time.monotonic() > end, process):  # it had not met the other yet
                os.kill(process, signal.SIGKILL)


@pytest.mark.parametrize("task", TASKS)
def test_kills_of_either_process_leave_no_trace(task, forks, tmp_path):
    words = ["fit", *TASKS[task](tmp_path), *QUIET, *DDP]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    start(forks, words, whole)
    assert [number(forks) for _ in range(2)] == [0, 0], (whole / "output.txt").read_text()
    total, source, kills = lines(whole), random.Random(task), 0
    while True:
        processes = start(forks, words, killed)
        victims = [(0,), (1,), (0, 1)][kills % 3]
        if kills < KILLS:
            moment = None if kills % 4 == 3 else source.uniform(0, 0.3)
            kill(processes, victims, moment, killed, goal=(kills + 1) * total // (KILLS + 2))
        codes = [number(forks) for _ in processes]
        if codes == [0, 0]:
            break
        assert 0 not in codes, (killed / "output.txt").read_text()
        assert -signal.SIGKILL in codes, (killed / "output.txt").read_text()
        kills += 1
    print(f"{task}: {kills} kills on two processes")
    assert kills == KILLS
    assert_equal_runs(whole, killed)


def test_the_command_itself_starts_two_processes_and_goes_on(tmp_path):
    """`python -m sparsek.cli fit … --trainer.devices=2`, as a person types it; the first process is killed, the second ends by itself."""
    words = [sys.executable, "-W", "ignore", "-m", "sparsek.cli", "fit", *TASKS["pooling"](tmp_path), *QUIET, *DDP]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    subprocess.run(words, cwd=whole, env=environment, check=True, capture_output=True)
    process = subprocess.Popen(
        words, cwd=killed, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    while lines(killed) < 40 and process.poll() is None:
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    wait_until_gone(process.pid)
    done = subprocess.run(words, cwd=killed, env=environment, check=True, capture_output=True, text=True)
    assert done.stderr.count("going on with the run in runs/sparsek/version_0 from") == 1
    assert_equal_runs(whole, killed)


def wait_until_gone(session, seconds=60):
    """Until no process of a session is left."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.killpg(session, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    os.killpg(session, signal.SIGKILL)
    raise AssertionError(f"the second process was still there {seconds} s after the first was killed")
