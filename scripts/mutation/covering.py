"""Which tests run which lines, and how long each takes: measured once on the unchanged tree."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import coverage
import pytest
from hypothesis import HealthCheck, Phase, settings

OPTIONS = (
    "-q",
    "-p",
    "no:cacheprovider",
    "--doctest-modules",
    "-m",
    "not slow and not gpu",
    "-o",
    "addopts=",
    "--ignore-glob=*/conftest.py",  # as modules with doctests: there are several of one name
)


def same_examples_every_time() -> None:
    """Make hypothesis try the same examples in every process, and not look for smaller ones that fail."""
    phases = (Phase.explicit, Phase.generate)
    settings.register_profile(
        "mutation", derandomize=True, database=None, phases=phases, suppress_health_check=list(HealthCheck)
    )
    settings.load_profile("mutation")
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # they are imported already, of which pytest would warn


@dataclass(frozen=True)
class Covering:
    """What is known of the tests."""

    seconds: dict[str, float]
    """Of each test that passed."""
    lines: dict[str, dict[int, list[str]]]
    """The tests that run a line of a file."""

    def tests(self, file: str, lines: Iterable[int], most: float) -> list[str]:
        """Return the tests that run any of the lines, the quick ones first, of `most` seconds together."""
        of_line = self.lines.get(file, {})
        found = {test for line in lines for test in of_line.get(line, ()) if test in self.seconds}
        kept, total = [], 0.0
        for test in sorted(found, key=lambda test: (self.seconds[test], test)):
            total += self.seconds[test]
            if kept and total > most:
                break
            kept.append(test)
        return kept


class _Recorder:
    """A plugin of pytest: one context of coverage for each test, and its seconds."""

    def __init__(self, measured: coverage.Coverage) -> None:
        self.measured, self.seconds = measured, {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.measured.switch_context(item.nodeid)
        return (yield)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            self.seconds[report.nodeid] = round(report.duration, 3)


def measure(root: Path, folders: tuple[str, ...], tests: str) -> Covering:
    """Run a file or folder of tests with the lines of the folders recorded. The working folder is `root`."""
    same_examples_every_time()
    measured = coverage.Coverage(
        data_file=None, config_file=False, include=[f"{root}/{folder}/*" for folder in folders]
    )
    recorder = _Recorder(measured)
    measured.start()
    status = pytest.main([*OPTIONS, tests], plugins=[recorder])
    measured.stop()
    if status not in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}:
        raise RuntimeError(f"the unchanged tree must have tests that can be run, pytest ended with {status!r}")
    data, lines = measured.get_data(), {}
    for path in data.measured_files():
        by_line = data.contexts_by_lineno(path)
        lines[Path(path).relative_to(root).as_posix()] = {
            line: sorted(filter(None, found)) for line, found in by_line.items()
        }
    return Covering(recorder.seconds, lines)


def together(parts: list[Covering]) -> Covering:
    """Return what several runs say."""
    lines: dict[str, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for part in parts:
        for file, of_line in part.lines.items():
            for line, tests in of_line.items():
                lines[file][line] += tests
    return Covering({test: seconds for part in parts for test, seconds in part.seconds.items()}, lines)


def save(covering: Covering, path: Path) -> None:
    """Write it, each test once: lines name tests by number."""
    names = list(covering.seconds)
    number = {name: i for i, name in enumerate(names)}
    lines = defaultdict(dict)
    for file, of_line in covering.lines.items():
        for line, tests in of_line.items():
            lines[file][line] = [number[test] for test in tests if test in number]
    path.write_text(json.dumps({"seconds": covering.seconds, "lines": lines}), encoding="utf-8")


def load(path: Path) -> Covering:
    """Read what `save` wrote."""
    stored = json.loads(path.read_text(encoding="utf-8"))
    names = list(stored["seconds"])
    lines = {
        file: {int(line): [names[i] for i in tests] for line, tests in of_line.items()}
        for file, of_line in stored["lines"].items()
    }
    return Covering(stored["seconds"], lines)
