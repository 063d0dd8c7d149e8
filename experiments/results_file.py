"""The results.csv of an experiment: long, one line per run and metric; lines are added, never changed. Tables in a README."""

from __future__ import annotations

import csv
import datetime
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

HEADER = ("row", "seed", "metric", "value", "step", "config", "commit", "device", "torch", "date")


def lines(
    row: str, seed: int, metrics: Mapping[str, float], step: int, config: str, device: str = "cpu"
) -> Iterator[tuple[str, ...]]:
    """The lines that one run gives."""
    described = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    context = (str(step), config, described.stdout.strip(), device, torch.__version__)
    for metric, value in metrics.items():
        yield (row, str(seed), metric, f"{value:.6g}", *context, datetime.date.today().isoformat())


def device_text(device: torch.device | str) -> str:
    """A device in the results: a CUDA device by its name, CUDA and its driver."""
    device = torch.device(device)
    if device.type != "cuda":
        return device.type
    benchmarks = str(Path(__file__).parents[1] / "benchmarks")
    sys.path.append(benchmarks)
    from environment import driver  # noqa: PLC0415 - of the benchmarks, where there is a device to describe

    sys.path.remove(benchmarks)
    return f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}, driver {driver()}"


def append(path: Path, added: Iterator[tuple[str, ...]]) -> None:
    """Add lines to a results file; what is in it stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([HEADER] if new else [])
        writer.writerows(added)


def read(path: Path) -> list[dict[str, str]]:
    """All lines, by the names of the header; none if there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_into(readme: Path, name: str, text: str) -> None:
    """Put a text between `<!-- name -->` and `<!-- end of name -->`."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, rest = readme.read_text().split(begin)
    _, after = rest.split(end)
    readme.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")
