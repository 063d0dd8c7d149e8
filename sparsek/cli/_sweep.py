"""`sparsek sweep`: the runs of a sweep file of wandb, one after the other, without its server."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsek.callbacks._sealed_file import replacing

from ._report_runs import Run, read_runs
from ._sweep_points import Sweep, identity, read_sweep

DESCRIPTION = """Run every point of a sweep (wandb's YAML, grid or random) in processes of this machine.

sparsek sweep configs/sweeps/pooling.yaml
sparsek sweep configs/sweeps/sae_topk.yaml --data.init_args.folder=activations

Further words go to every run. The same command goes on where it stopped: finished points are not run again, and the run that was
killed goes on from its checkpoint. Points that failed are run again. Then `sparsek report runs/sweeps/NAME`."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a sweep as the words of the command line say.

    Args:
        arguments: The words after `sparsek sweep`; by default those of this process.
    """
    parser = ArgumentParser(prog="sparsek sweep", description=DESCRIPTION, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("file", help="a sweep, as wandb takes it")
    parser.add_argument("--folder", default="runs/sweeps", help="where runs are kept, in a folder of the sweep's name")
    parser.add_argument("--list", action="store_true", help="print the commands and run nothing")
    words, more = parser.parse_known_args(arguments)
    try:
        sweep = read_sweep(words.file)
    except ValueError as error:
        parser.error(str(error))
    folder = Path(words.folder) / sweep.name
    if words.list:
        sys.stdout.writelines(" ".join(_command(sweep, point, folder, more)) + "\n" for point in sweep.points)
        return
    failed = run_sweep(sweep, folder, more)
    if failed:
        sys.exit(f"sparsek sweep: {failed} of {len(sweep.points)} runs failed; see error.txt in their folders")


def run_sweep(sweep: Sweep, folder: Path, more: Sequence[str] = ()) -> int:
    """Run what is not finished yet, and say how far it is on standard error.

    Returns:
        How many runs failed.
    """
    failed, begun, done = 0, time.monotonic(), 0
    for number, point in enumerate(sweep.points, 1):
        place, name = folder / identity(point, more), f"[{number}/{len(sweep.points)}] {_shown(point)}"
        if _finished(place):
            _say(f"{name}: {_result(sweep, place)} (finished before)")
            continue
        _say(f"{name} …")
        ok = _execute(sweep, point, folder, more)
        failed, done = failed + (not ok), done + 1
        left = (time.monotonic() - begun) / done * (len(sweep.points) - number)
        _say(f"{name}: {_result(sweep, place) if ok else 'failed'}; about {_duration(left)} left")
    _say(_best(sweep, folder, more))
    return failed


def _execute(sweep: Sweep, point: Mapping[str, Any], folder: Path, more: Sequence[str]) -> bool:
    place = folder / identity(point, more)
    place.mkdir(parents=True, exist_ok=True)
    with (place / "output.txt").open("ab") as output, (place / "error.txt").open("wb") as errors:
        code = subprocess.run(
            _command(sweep, point, folder, more), stdout=output, stderr=errors, check=False
        ).returncode
    if code == 0:
        with replacing(place / "point.json") as file:
            file.write(json.dumps({"parameters": dict(point), "words": list(more)}).encode())
    return code == 0


def _command(sweep: Sweep, point: Mapping[str, Any], folder: Path, more: Sequence[str]) -> list[str]:
    """The words of a run; its logs go to the folder of the point."""
    logger = "--trainer.logger.init_args"
    where = [f"{logger}.save_dir={folder}", f"{logger}.name={identity(point, more)}", f"{logger}.version=run"]
    words = sweep.words(point, [*more, *where])
    if words[0] in ("sparsek", "${program}"):
        return [sys.executable, "-m", "sparsek.cli", *words[1:]]
    return [sys.executable if words[0] == "${interpreter}" else shutil.which(words[0]) or words[0], *words[1:]]


def _finished(place: Path) -> bool:
    return (place / "point.json").is_file()


def _run(place: Path) -> Run | None:
    return next(iter(read_runs(place)), None)


def _value(sweep: Sweep, place: Path) -> float | None:
    run = _run(place)
    return None if run is None else run.last(sweep.metric)


def _result(sweep: Sweep, place: Path) -> str:
    value = _value(sweep, place)
    return f"{sweep.metric} not logged" if value is None else f"{sweep.metric} {value:.5g}"


def _best(sweep: Sweep, folder: Path, more: Sequence[str]) -> str:
    found = [
        (value, point) for point in sweep.points if (value := _value(sweep, folder / identity(point, more))) is not None
    ]
    if not found:
        return "no run has logged the metric"
    value, point = (min if sweep.minimize else max)(found, key=lambda pair: pair[0])
    return f"best {sweep.metric}: {value:.5g} with {_shown(point)}"


def _shown(point: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.split('.')[-1]}={value}" for name, value in point.items())


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min" if minutes >= 10 else f"{minutes} min {rest} s"


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
