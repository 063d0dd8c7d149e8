"""Everything that is measured on a CUDA device, part after part: `python benchmarks/gpu.py`, or `make gpu`.

The parts stand in gpu.yaml. A part that was finished on this device with this driver, these versions and this commit is not run again, so
the same command goes on where it stopped; changes of the package that are in no commit have no name, and what was measured with them
is measured again. What was finished is in "gpu-DEVICE.csv" beside the results. A part that fails is said at the end, and the others run.
`--smoke` runs the same parts small and on the CPU, into a folder of its own.
"""

from __future__ import annotations

import argparse
import csv
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from environment import environment, slug
from results import FOLDER

ROOT = Path(__file__).parents[1]
PARTS = Path(__file__).with_name("gpu.yaml")
SAME = ("machine", "driver", "cuda", "torch", "triton", "commit")
"""What a finished part must have in common with this process."""


class Part(NamedTuple):
    """One entry of gpu.yaml."""

    name: str
    measures: str
    command: str
    writes: Sequence[str]
    smoke: Sequence[str]
    needs: Sequence[str]

    def words(self, places: Mapping[str, str], smoke: bool) -> list[str]:
        """What Python is given."""
        words = shlex.split(self.command) + [word for line in self.smoke if smoke for word in shlex.split(line)]
        return [sys.executable, *(filled(word, places) for word in words)]

    def files(self, places: Mapping[str, str]) -> list[Path]:
        """The results files."""
        return [Path(places["out"]) / filled(name, places) for name in self.writes]


def filled(text: str, places: Mapping[str, str]) -> str:
    """Put the places where their names stand in braces."""
    for name, value in places.items():
        text = text.replace(f"{{{name}}}", value)
    return text


def parts(path: Path = PARTS) -> list[Part]:
    """All parts, in their order."""
    return [part(name, entry) for name, entry in yaml.safe_load(path.read_text()).items()]


def part(name: str, entry: Mapping[str, Any]) -> Part:
    """One part; `smoke` is a line or several."""
    smoke = [entry["smoke"]] if isinstance(entry["smoke"], str) else entry["smoke"]
    return Part(name, entry["measures"], entry["command"], entry["writes"], smoke, entry.get("needs", ()))


class Record:
    """Which parts were finished, with what: a file that lines are added to."""

    def __init__(self, path: Path, columns: Mapping[str, str]) -> None:
        self.path, self.columns = path, columns

    def has(self, name: str) -> bool:
        """Whether a part was finished with the same device, versions and commit."""
        if self.columns["commit"].endswith("+") or not self.path.exists():
            return False
        with self.path.open(newline="") as file:
            lines = [line for line in csv.DictReader(file) if line["part"] == name]
        return any(all(line[column] == self.columns[column] for column in SAME) for line in lines)

    def add(self, name: str, seconds: float) -> None:
        """Write down that a part was finished."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = not self.path.exists()
        with self.path.open("a", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerows([["part", "seconds", *self.columns]] if new else [])
            writer.writerow([name, f"{seconds:.1f}", *self.columns.values()])


def run(chosen: Sequence[Part], places: Mapping[str, str], record: Record, smoke: bool) -> Iterator[str]:
    """Run the parts that are not finished; yield the names of those that failed."""
    for number, one in enumerate(chosen, 1):
        title = f"[{number}/{len(chosen)}] {one.name}"
        if lacking := [name for name in one.needs if name not in places]:
            said = f"left out: it needs {' '.join(f'--data {name}=FOLDER' for name in lacking)}"
        elif record.has(one.name):
            said = "finished before"
        else:
            print(f"{title}: {one.measures}", flush=True)
            seconds = execute(one, places, smoke)
            said = "failed" if seconds is None else f"{seconds:.0f} s"
            if seconds is None:
                yield one.name
            else:
                record.add(one.name, seconds)
        print(f"{title}: {said}", flush=True)


def execute(one: Part, places: Mapping[str, str], smoke: bool) -> float | None:
    """Run a part in a process of its own; its seconds, or None if it failed or did not write what it should."""
    begun = time.time()
    done = subprocess.run(one.words(places, smoke), cwd=ROOT, check=False)
    written = [path for path in one.files(places) if path.exists() and path.stat().st_mtime >= begun - 1]
    enough = bool(written) or not one.writes if smoke else all(path.exists() for path in one.files(places))
    return time.time() - begun if done.returncode == 0 and enough else None


def main(words: Sequence[str] | None = None) -> None:
    """Parse the arguments; run."""
    known = parts()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[one.name for one in known], help="these parts alone")
    parser.add_argument(
        "--data", nargs="+", default=[], metavar="NAME=FOLDER", help="what parts need: corpora, activations"
    )
    parser.add_argument("--out", type=Path, help="folder of the results files")
    parser.add_argument("--smoke", action="store_true", help="small, on the CPU, into runs/gpu-smoke")
    given = parser.parse_args(words)
    if not given.smoke and not torch.cuda.is_available():
        parser.exit(2, "gpu.py: error: there is no CUDA device; --smoke runs every part small on the CPU\n")
    device = "cpu" if given.smoke else "cuda"
    out = (given.out or (ROOT / "runs" / "gpu-smoke" if given.smoke else FOLDER)).resolve()
    columns = environment(device)
    places = {"device": device, "out": str(out), "slug": slug(device), "commit": columns["commit"].rstrip("+")}
    places |= {name: str(Path(folder).resolve()) for name, _, folder in (word.partition("=") for word in given.data)}
    chosen = [one for one in known if not given.only or one.name in given.only]
    failed = list(run(chosen, places, Record(out / f"gpu-{slug(device)}.csv", columns), given.smoke))
    if failed:
        sys.exit(f"gpu.py: failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
