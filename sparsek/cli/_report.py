"""`sparsek report`: one table and one figure of the runs in a folder."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path

from ._report_figure import report_figure
from ._report_runs import Run, read_runs
from ._report_table import Table, markdown, measured, table, write_csv

DESCRIPTION = """Turn any folder of runs (Lightning's CSV files, wandb's offline files) into one table and one figure.

sparsek report runs/sweeps/pooling

Writes report.csv (a line a run: the settings in which runs differ, and the last value of every metric), report.md (runs that differ in
the seed alone are one line, mean ± standard deviation) and report.png, and prints the table."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Report as the words of the command line say.

    Args:
        arguments: The words after `sparsek report`; by default those of this process.
    """
    parser = ArgumentParser(prog="sparsek report", description=DESCRIPTION, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="folder of runs")
    parser.add_argument(
        "--metrics", nargs="+", default=None, help="which, in this order; by default those of val/ and test/"
    )
    parser.add_argument("--out", default=None, help="folder of the report; by default that of the runs")
    words = parser.parse_args(arguments)
    try:
        runs = read_runs(words.folder)
        if not runs:
            raise ValueError(f"folder must hold runs (metrics.csv or *.wandb), got none in {words.folder!r}")
        report(runs, Path(words.out or words.folder), words.metrics)
    except ValueError as error:
        parser.error(str(error))


def report(runs: Sequence[Run], out: Path, metrics: Sequence[str] | None = None) -> Table:
    """Write `report.csv`, `report.md` and `report.png`, print the table and return it.

    Args:
        runs: At least one.
        out: Folder of the files, made where it is missing.
        metrics: Which, in this order; by default those of `val/` and `test/`, or all where there are none.

    Raises:
        ValueError: If no run has one of the metrics.
    """
    chosen = measured(runs, metrics)
    out.mkdir(parents=True, exist_ok=True)
    found = table(runs, chosen)
    write_csv(runs, out / "report.csv")
    text = markdown(found)
    (out / "report.md").write_text(text)
    report_figure(runs, chosen, found).savefig(out / "report.png", dpi=120)
    sys.stdout.write(f"{text}\n{out / 'report.csv'}\n{out / 'report.md'}\n{out / 'report.png'}\n")
    return found
