"""Mutation testing of `sparsek.functional` and `sparsek.sampling`: change the code at sampled places, and see whether a test fails.

The mutants are mutmut's, the runner is not: mutmut calls every function through a wrapper that reads a context variable, which
`torch.compile(fullgraph=True)` refuses. Here a copy of the tree is changed on disk, one mutant at a time. Tests are chosen by line, quick
ones first; a first run of them all, unchanged, says which they are. Started again, it goes on where it stopped; `--again survived` tries
those that had survived once more. Every twentieth trial is of an unchanged tree and has to survive.

    python scripts/mutation/run.py --minutes 15
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NoReturn

import covering
import trial
import trials_file
from mutants import Mutant, sample
from trials_file import Row

ROOT = Path(__file__).parents[2]
MUTATED = ("sparsek/functional", "sparsek/sampling")
TESTS = (
    *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "tests/functional").rglob("test_*.py")),
    *(f"tests/{name}" for name in ("sampling", "relaxations", "metrics", "nn/pooling", "test_constraints.py")),
    "tests/kernels/test_calls_of_triton.py",
    *MUTATED,
)
"""Those of the functions, the designs and what is next to them; others would kill some more."""
CONTROL = 20
"""One trial in so many is of the unchanged tree."""


def main() -> int:
    """Try what is left of the sample; return 1 where the unchanged tree fails."""
    options = _options()
    begun, tree = time.monotonic(), options.folder / "tree"
    _copy(tree)
    mutants = _sample(options.folder, options.size, options.seed)
    known = _covering(tree, options.folder, again=options.measure)
    path, sampled = trials_file.results(options.seed), {mutant.identity for mutant in mutants}
    rows = {row.identity: row for row in trials_file.read(path) if row.identity in sampled}
    left = [m for m in mutants if m.identity not in rows or rows[m.identity].verdict in options.again]
    left.sort(key=lambda mutant: mutant.identity)  # in no order of files: what is done is a sample, too
    if options.minutes <= 0:
        left = []
    trial.prepare()
    for i, mutant in enumerate(left):
        if time.monotonic() - begun > 60 * options.minutes:
            print(f"stopped after {options.minutes:g} minutes, {len(left) - i} are left: start it again to go on")
            break
        if i % CONTROL == 0 and not _control(tree, mutant, known, options):
            return 1
        rows[mutant.identity] = _tried(tree, mutant, known, options)
        trials_file.write(rows.values(), path)
        _show(i + 1, len(left), rows[mutant.identity], rows.values())
    print(trials_file.table(rows.values(), trials_file.equivalent()))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=int, default=180, help="mutants in the sample, about")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--minutes", type=float, default=600, help="stop after so many")
    parser.add_argument(
        "--most", type=float, default=12, help="seconds of tests for one mutant; slower tests are left out"
    )
    parser.add_argument("--again", nargs="*", default=[], help="verdicts that are tried once more: survived, uncovered")
    parser.add_argument("--measure", action="store_true", help="find out anew which tests run which lines")
    default = Path(tempfile.gettempdir()) / "sparsek-mutation"
    parser.add_argument("--folder", type=Path, default=default, help="where the copy of the tree lies")
    return parser.parse_args()


def _copy(tree: Path) -> None:
    """Make the copy that is changed, and make Python find it first, in place of the package that is installed."""
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir(parents=True)
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines():
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name)
    os.chdir(tree)
    sys.path.insert(0, str(tree))


def _sample(folder: Path, size: int, seed: int) -> list[Mutant]:
    paths = (path for part in MUTATED for path in sorted((ROOT / part).rglob("*.py")) if path.name != "__init__.py")
    return sample(ROOT, [path.relative_to(ROOT).as_posix() for path in paths], size, seed, folder)


def _covering(tree: Path, folder: Path, *, again: bool) -> covering.Covering:
    """Return what is stored of each part of the tests, or measure it in a fork: sparsek must not be imported where trials are forked."""
    parts = []
    for test in TESTS:
        stored = folder / f"covering-{test.replace('/', '-')}.json"
        if again or not stored.exists():
            child = os.fork()
            if child == 0:
                _measure(tree, test, stored)
            os.waitpid(child, 0)
        parts.append(covering.load(stored))
    return covering.together(parts)


def _measure(tree: Path, test: str, stored: Path) -> NoReturn:
    try:
        covering.save(covering.measure(tree, MUTATED, test), stored)
    except RuntimeError as error:
        print(error, file=sys.stderr)
    finally:
        os._exit(0)


def _control(tree: Path, mutant: Mutant, known: covering.Covering, options: argparse.Namespace) -> bool:
    tests = known.tests(mutant.file, mutant.lines, options.most)
    passed = not tests or trial.survives(
        tree, tests, sum(known.seconds[t] for t in tests), options.folder / "control.log"
    )
    if not passed:
        print(
            f"the unchanged tree fails its tests, see {options.folder / 'control.log'}: {' '.join(tests)}",
            file=sys.stderr,
        )
    return bool(passed)


def _tried(tree: Path, mutant: Mutant, known: covering.Covering, options: argparse.Namespace) -> Row:
    tests, begun = known.tests(mutant.file, mutant.lines, options.most), time.monotonic()
    verdict = "uncovered"
    if tests:
        with trial.changed(tree / mutant.file, mutant.source):
            passed = trial.survives(tree, tests, sum(known.seconds[t] for t in tests), options.folder / "trial.log")
        verdict = {True: "survived", False: "killed", None: "timeout"}[passed]
    spent = f"{time.monotonic() - begun:.0f}"
    return Row(
        mutant.file,
        str(mutant.line),
        mutant.function,
        mutant.mutation,
        verdict,
        str(len(tests)),
        spent,
        mutant.identity,
    )


def _show(done: int, all_of_them: int, row: Row, rows: object) -> None:
    counts = Counter(row.verdict for row in rows)
    summary = ", ".join(f"{counts[name]} {name}" for name in ("killed", "timeout", "survived", "uncovered"))
    print(
        f"{done}/{all_of_them}  {row.verdict:9} {row.seconds:>3} s  {row.file}:{row.line}  {row.mutation}  ({summary})",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
