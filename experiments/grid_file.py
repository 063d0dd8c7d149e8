"""The grid.yaml of an experiment, with words of a command line in place of some of its values."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

HELP = "values in place of the grid's, such as scale.units=[1000] test.steps=2"


def add_argument(parser: argparse.ArgumentParser) -> None:
    """Let a script take `--set name.of.value=YAML …`."""
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help=HELP)


def read(path: Path, words: Iterable[str] = ()) -> dict[str, Any]:
    """The grid, changed by the words; each names a value that is there.

    Raises:
        ValueError: If a word names none.
    """
    grid: dict[str, Any] = yaml.safe_load(path.read_text())
    for word in words:
        name, _, value = word.partition("=")
        *folders, last = name.split(".")
        place = grid
        for folder in folders:
            place = place.get(folder, {})
        if last not in place:
            raise ValueError(f"set must name values of {path.name}, got {word!r}")
        place[last] = yaml.safe_load(value)
    return grid
