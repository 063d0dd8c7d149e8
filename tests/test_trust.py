"""What docs/trust.md says of coverage and mutation is what the commands printed, and the commands count rightly."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "scripts/mutation")]
import coverage_table  # noqa: E402 - of the folder above
import trials_file  # noqa: E402 - of the folder above

PAGE = (ROOT / "docs/trust.md").read_text(encoding="utf-8")


def file(lines, all_lines, branches, all_branches):
    keys = ("covered_lines", "num_statements", "covered_branches", "num_branches")
    return {"summary": dict(zip(keys, (lines, all_lines, branches, all_branches), strict=True))}


def report(**files):
    return {"files": {name.replace("__", "/") + ".py": counts for name, counts in files.items()}}


def test_files_of_a_folder_are_added_and_what_has_no_branch_is_whole():
    folders = coverage_table.read(report(a__x=file(3, 4, 1, 2), a__y=file(6, 6, 2, 2), b__z=file(1, 2, 0, 0)))
    assert folders == {"a": (9, 10, 3, 4), "b": (1, 2, 0, 0)}
    assert coverage_table.table(folders).splitlines()[2:] == [
        "| `a` | 10 | 90.0 % | 4 | 75.0 % |",
        "| `b` | 2 | 50.0 % | 0 | 100.0 % |",
        "| all | 12 | 83.3 % | 4 | 75.0 % |",
    ]


@pytest.mark.parametrize(
    ("counts", "status"), [((95, 100, 19, 20), 0), ((94, 100, 20, 20), 1), ((100, 100, 18, 20), 1)], ids=str
)
def test_too_few_lines_or_branches_of_one_folder_fail(monkeypatch, capsys, counts, status):
    whole = report(a__x=file(*counts), b__y=file(1000, 1000, 1000, 1000))
    monkeypatch.setattr(
        coverage_table.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, stdout=json.dumps(whole))
    )
    assert coverage_table.main() == status
    assert ("under 95 %: a;" in capsys.readouterr().err) == bool(status)


def row(verdict, identity, folder="functional"):
    return trials_file.Row(f"sparsek/{folder}/_x.py", "1", "f", "a → b", verdict, "3", "1", identity)


def test_scores_count_timeouts_as_kills_and_set_the_equivalent_apart():
    rows = [row(verdict, verdict) for verdict in ("killed", "timeout", "survived", "uncovered")] + [
        row("survived", "same")
    ]
    score = trials_file.score(rows, {"same", "killed"})
    assert score[:3] == (5, 2, 1)
    assert score.plain == pytest.approx(40)
    assert score.without_equivalent == pytest.approx(50)
    assert 0 < score.low < 50 < score.high < 100


def test_wilson_is_the_textbook_interval():
    """Newcombe 1998, Statistics in Medicine 17, table I: 81 of 263 and 0 of 20."""
    assert trials_file._wilson(81, 263) == pytest.approx((25.53, 36.62), abs=0.01)
    assert trials_file._wilson(0, 20) == pytest.approx((0.0, 16.11), abs=0.01)


def test_rows_are_read_as_they_were_written(tmp_path):
    rows = [row("killed", "b"), row("survived", "a", "sampling")]
    trials_file.write(rows, tmp_path / "x.csv")
    assert trials_file.read(tmp_path / "x.csv") == rows
    assert trials_file.read(tmp_path / "none.csv") == []


def test_the_page_has_the_scores_of_the_results():
    for seed in (0, 1):
        assert trials_file.table(trials_file.read(trials_file.results(seed)), trials_file.equivalent()) in PAGE


def test_every_equivalent_mutant_is_of_the_sample_survived_and_has_a_reason():
    rows, reasons = {row.identity: row for row in trials_file.read()}, trials_file.equivalent()
    assert [name for name in reasons if name not in rows or rows[name].verdict not in {"survived", "uncovered"}] == []
    assert all(len(reason.split()) >= 5 for reason in reasons.values())
