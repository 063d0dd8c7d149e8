"""Print how much of each folder of `sparsek` the tests ran, and fail where too little: `make coverage`.

Reads the data that `coverage run` left. A line counts when it ran; a branch counts when both of its ways were taken.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

LEAST = 95.0
"""Per cent of the lines and of the branches of every folder."""


class Counts(NamedTuple):
    """What ran of what there is."""

    lines: int
    all_lines: int
    branches: int
    all_branches: int

    def plus(self, other: Counts) -> Counts:
        """Return the sums."""
        return Counts(*(mine + its for mine, its in zip(self, other, strict=True)))

    def shares(self) -> tuple[float, float]:
        """Return the per cent of lines and of branches; what is empty is whole."""
        return (
            100 * self.lines / self.all_lines if self.all_lines else 100.0,
            100 * self.branches / self.all_branches if self.all_branches else 100.0,
        )


def read(report: dict[str, dict[str, dict[str, dict[str, int]]]]) -> dict[str, Counts]:
    """Return the counts of each folder from the JSON report of coverage."""
    folders: dict[str, Counts] = defaultdict(lambda: Counts(0, 0, 0, 0))
    for name, file in report["files"].items():
        summary = file["summary"]
        keys = ("covered_lines", "num_statements", "covered_branches", "num_branches")
        folder = Path(name).parent.as_posix()
        folders[folder] = folders[folder].plus(Counts(*(summary[key] for key in keys)))
    return dict(sorted(folders.items()))


def table(folders: dict[str, Counts]) -> str:
    """Return the table in Markdown, with the sum of all folders in the last row."""
    total = Counts(0, 0, 0, 0)
    lines = ["| folder | lines | run | branches | run |", "|---|---|---|---|---|"]
    for folder, counts in folders.items():
        lines.append(_row(f"`{folder}`", counts))
        total = total.plus(counts)
    return "\n".join([*lines, _row("all", total)])


def _row(name: str, counts: Counts) -> str:
    lines, branches = counts.shares()
    return f"| {name} | {counts.all_lines:,} | {lines:.1f} % | {counts.all_branches:,} | {branches:.1f} % |"


def main() -> int:
    """Print the table, then the folders that are under the least share; return the exit status."""
    command = [sys.executable, "-m", "coverage", "json", "--quiet", "--fail-under=0", "-o", "-"]
    folders = read(json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout))
    print(table(folders))
    low = [folder for folder, counts in folders.items() if min(counts.shares()) < LEAST]
    if low:
        print(f"under {LEAST:g} %: {', '.join(low)}; `coverage report --show-missing` names the lines", file=sys.stderr)
    return 1 if low else 0


if __name__ == "__main__":
    sys.exit(main())
