"""Clocks, peaks and counts of the benchmarks on calls whose cost is known, and every script on tiny shapes."""

import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"


def test_calls_take_turns_in_their_contexts_and_give_their_medians(load):
    timing = load("timing")
    log = []

    @contextmanager
    def context():
        log.append("enter")
        yield
        log.append("leave")

    class Script:
        """The clock of a script: the call says how long it took."""

        stretch = 0.0

        def __call__(self, run, loops):
            return run()

    times = iter([9.0, 9.0, 9.0, *(1.0, 2.0, 30.0, 4.0, 5.0)])
    calls = {
        "a": timing.Call(lambda: log.append("a") or next(times), context),
        "b": timing.Call(lambda: log.append("b") or 7.0),
    }
    medians = timing.interleave(calls, Script(), budget=0.0, least=5)
    assert medians == {"a": timing.Median(4.0, 5), "b": timing.Median(7.0, 5)}
    assert log[-4 * 5 :] == ["enter", "a", "leave", "b"] * 5


def test_processor_time_leaves_out_waiting(load):
    seconds = load("timing").ProcessorTime()(lambda: __import__("time").sleep(0.05), 2)
    assert seconds < 0.025


def test_peak_memory_is_counted_to_the_byte(load):
    call, peak = load("timing").Call, load("memory").peak_bytes
    x = torch.randn(1000)
    assert peak(call(x.clone), "cpu") == 4000
    assert peak(call(lambda: x.double().float()), "cpu") == 8000 + 4000
    assert load("memory").highest([5, -5, 3, 4, -7, 1]) == 7


def test_traffic_and_rotation(load):
    bandwidth = load("bandwidth")
    assert bandwidth.traffic(1024, 16_384, 4, "forward") == 2 * 2**26
    assert bandwidth.traffic(1, 10**7, 4, "forward") == 3 * 4 * 10**7
    assert bandwidth.copies(2**26, 50 * 2**20) * 2**26 >= 4 * 50 * 2**20
    assert bandwidth.copies(2**30, 50 * 2**20) == 2
    assert bandwidth.copies(4, 50 * 2**20) == bandwidth.MOST_INPUTS


def test_peers_put_out_probabilities_that_sum_to_k(load):
    peers = load("operators").peers(16, 3)
    if not peers:
        pytest.skip("no peer is installed")
    x = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    for name, operator in peers.items():
        total = 1 if "k = 1" in name else 3
        assert (operator.function(x).sum(-1) - total).abs().max() < 1e-3, name


WORDS = ["--budget", "0.0001", "--executions", "eager", "native"]
TINY = {
    "relaxations": [*WORDS, "--shapes", "1x1000"],
    "samplers": [*WORDS, "--shapes", "1x64", "--largest", "1000"],
    "growth": [*WORDS, "--most", "1000"],
    "dispatch": [*WORDS, "--shapes", "64x4", "64x8"],
}
RUN = """
import importlib, sys
sys.path.insert(0, sys.argv[1])
importlib.import_module("r_sampling").ROUNDS = 1
tiny = {tiny!r}
for name, words in tiny.items():
    importlib.import_module(name).main([*words, "--out", sys.argv[2]])
from pathlib import Path
print(*importlib.import_module("figures").draw(Path(sys.argv[2]), Path(sys.argv[2])))
"""


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory):
    """The folder that every script wrote into, and what they printed. They pin themselves to a core: another process."""
    out = tmp_path_factory.mktemp("results")
    command = [sys.executable, "-c", RUN.format(tiny=TINY), str(FOLDER), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out, done.stdout


@pytest.mark.parametrize("name", ["sigmoid_topk", "relaxations", "growth_n", "growth_batch"])
def test_relaxations_are_measured(name, tiny_run, load):
    out, printed = tiny_run
    rows = load("results").stored(name, out)["cpu"].rows
    assert {row.direction for row in rows} == {"forward", "forward+backward"}
    assert any(row.key == ("sigmoid_topk", "eager") for row in rows)
    assert all(row.seconds > 0 and row.softmax_seconds > 0 for row in rows)
    assert all((row.peak_bytes is not None) == name.startswith("growth") for row in rows)
    assert re.search(r"sigmoid_topk, eager \| [\d.e+]+ (✗|✓|✓✓) \|", printed)


def test_designs_are_measured(tiny_run, load):
    rows = load("results").stored("samplers", tiny_run[0])["cpu"].rows
    designs = {
        "Systematic()",
        "Pivotal()",
        "Pivotal().log_prob",
        "Poisson()",
        "ConditionalPoisson()",
        "Brewer()",
        "Sampford()",
    }
    assert designs <= {row.operation for row in rows}
    assert all(row.ratio > 0 for row in rows)


@pytest.mark.parametrize("name", ["dispatch", "dispatch_kept"])
def test_a_mixture_is_measured_with_every_product(name, tiny_run, load):
    results = load("results").stored(name, tiny_run[0])["cpu"]
    operations = {"dense layer", "bare products", "dispatched", "with router", "loop with masks"}
    assert {row.operation for row in results.rows} == operations
    executions = {row.execution for row in results.rows if row.operation == "dispatched"}
    fused = {"fused"} if hasattr(torch.nn.functional, "grouped_mm") else set()
    assert executions == {"automatic", "loop", "padded"} | fused
    assert ("MALLOC_MMAP_THRESHOLD_=" in results.environments[0]["allocator"]) == (name == "dispatch_kept")


def test_both_passes_of_a_mixture_are_measured_apart(tiny_run, load):
    out, printed = tiny_run
    rows = load("results").stored("dispatch_growth", out)["cpu"].rows
    assert {row.direction for row in rows} == {"forward", "backward"}
    assert re.search(r"dispatched, without these two, automatic \| -?[\d.]+ \| -?[\d.]+ \|", printed)


def test_every_kind_of_figure_is_drawn(tiny_run):
    out, printed = tiny_run
    for name in ("sigmoid_topk", "relaxations", "samplers", "growth", "dispatch"):
        assert str(out / f"{name}-cpu.svg") in printed
        assert "<svg" in (out / f"{name}-cpu.svg").read_text()
