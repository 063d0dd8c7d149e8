"""Cases that run in a process group of spawned processes, with gloo: one group for many cases, and one outcome each."""

import datetime
import json
import sys
import time
import traceback
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

COLLECTIVE_TIMEOUT = datetime.timedelta(seconds=40)
LIGHT = "importing sparsek loads no distributed code"
DEADLINE = 200, 40  # seconds for a start and for each case, on a busy machine; then the processes are killed


def group(world_size: int, module: str):
    """A fixture: what the ranks of one group say about the cases of a module."""

    @pytest.fixture(scope="module")
    def said(tmp_path_factory):
        return outcomes(module, world_size, tmp_path_factory.mktemp(f"ranks_{world_size}"))

    return said


def assert_silent(said: list[str]) -> None:
    """No rank has anything to say about a case."""
    for rank, text in enumerate(said):
        assert not text, f"rank {rank}: {text}"


def outcomes(module: str, world_size: int, folder: Path) -> dict[str, list[str]]:
    """What each rank has to say about each case of a module: nothing if it passed."""
    names = [LIGHT, *(case.__name__ for case in __import__(module).CASES)]
    most = DEADLINE[0] + DEADLINE[1] * len(names)
    context = mp.spawn(_rank, (module, world_size, str(folder)), nprocs=world_size, join=False)
    end = time.monotonic() + most
    try:
        while not context.join(timeout=1.0):
            if time.monotonic() > end:
                raise TimeoutError(f"the ranks did not end in {most} s")
    except (TimeoutError, mp.ProcessExitedException, mp.ProcessRaisedException) as error:
        ending = f"not run, or cut off by: {error}"
    else:
        ending = "not run"
    finally:
        for process in context.processes:
            process.kill()
    written = [folder / f"{rank}.json" for rank in range(world_size)]
    ranks = [
        json.loads(path.read_text()) if path.exists() else {} for path in written
    ]  # a rank may end before it writes
    return {name: [said.get(name, ending) for said in ranks] for name in names}


def _rank(rank: int, module: str, world_size: int, folder: str) -> None:
    torch.set_num_threads(1)
    said = {LIGHT: _import_is_light()}
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=world_size,
        timeout=COLLECTIVE_TIMEOUT,
    )
    for case in __import__(module).CASES:
        said[case.__name__] = _attempt(case, rank, world_size)
        Path(folder, f"{rank}.json").write_text(json.dumps(said))
        worst = torch.tensor([bool(said[case.__name__])], dtype=torch.int64)
        try:
            dist.all_reduce(worst, op=dist.ReduceOp.MAX)
        except RuntimeError:  # another rank waits in the case: no later one could be trusted
            break
    dist.destroy_process_group()


def _import_is_light() -> str:
    import sparsek  # noqa: F401, PLC0415 - in the fresh process

    loaded = {"sparsek.distributed", "torch.distributed.tensor"} & set(sys.modules)
    return f"loaded {loaded}" if loaded else ""


def _attempt(case, rank: int, world_size: int) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings(
                "ignore", ".torch.jit.script. is deprecated"
            )  # by torch, at the first forward derivative
            warnings.filterwarnings("ignore", "DTensor random operators")  # by torch 2.6, of every CPU
            case(rank, world_size)
    except BaseException:
        return traceback.format_exc()
    return ""
