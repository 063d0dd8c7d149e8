"""Training steps of other packages, each in a process and an environment of its own, timed in the same rounds as ours."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from timing import Call

PEERS = {"saelens": "SAELens", "dictionary_learning": "dictionary_learning", "sparsify": "sparsify"}
"""Environments in the folder of peers, and the names of their packages."""
WORKER = Path(__file__).with_name("sae_peer_step.py")


class Reported:
    """A clock: the seconds that a run returns, where another process measured it; processor seconds of this one otherwise."""

    stretch = 2e-3

    def __call__(self, run: Callable[[], object], loops: int) -> float:
        """Return the mean over the loops."""
        start = time.process_time()
        returned = [run() for _ in range(loops)]
        own = time.process_time() - start
        reported = [seconds for seconds in returned if isinstance(seconds, float)]
        return (sum(reported) if reported else own) / loops


class PeerStep:
    """A worker that makes a step and returns its seconds when it is called.

    Args:
        words: The command that starts it.
        plan: What it is told.
    """

    def __init__(self, words: list[str], plan: Mapping[str, Any]) -> None:
        clean = {name: word for name, word in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
        clean |= {"WANDB_MODE": "disabled", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        self._said: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the worker
        self._worker = subprocess.Popen(
            [*words, json.dumps(plan)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, text=True, env=clean,
        )  # fmt: skip

    def __enter__(self) -> PeerStep:
        """Wait until it is ready."""
        try:
            self._answer()
        except RuntimeError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it."""
        with suppress(BrokenPipeError), self._worker:  # closes its pipes and waits
            self._worker.kill()
        self._said.close()

    def __call__(self) -> float:
        """Have one step made."""
        assert self._worker.stdin is not None
        with suppress(BrokenPipeError):  # of a worker that is gone; there is no answer then
            self._worker.stdin.write("step\n")
            self._worker.stdin.flush()
        return float(self._answer())

    def _answer(self) -> str:
        assert self._worker.stdout is not None
        found = self._worker.stdout.readline().strip()
        if not found:
            self._said.seek(0)
            raise RuntimeError(
                "the peer stopped: " + (self._said.read().strip().splitlines() or ["without a word"])[-1]
            )
        return found


@contextmanager
def peer_steps(folder: Path | None, plan: Mapping[str, Any]) -> Iterator[dict[tuple[str, str], Call]]:
    """The steps of all peers that the folder has an environment for; none without a folder.

    Args:
        folder: What experiments/02_sae/peers.sh was given.
        plan: `d_in`, `d_sae`, `k` and `tokens`.
    """
    with ExitStack() as stack:
        found = {}
        for package, name in PEERS.items():
            python = None if folder is None else folder / package / "bin" / "python"
            if python is not None and python.is_file():
                words = [str(python), "-W", "ignore", str(WORKER)]
                found[name, "own"] = Call(stack.enter_context(PeerStep(words, {"package": package, **plan})))
        yield found
