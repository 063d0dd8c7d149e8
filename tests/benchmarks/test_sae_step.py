"""The step of a sparse autoencoder against its dense reference."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"
PAGE = FOLDER / "README.md"


def test_every_selection_is_timed_against_the_dense_reference(tmp_path, load):
    command = [sys.executable, str(FOLDER / "sae_step.py"), "--sizes", "64", "--k", "4", "--budget", "0.0001"]
    done = subprocess.run([*command, "--out", str(tmp_path)], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = load("results").stored("sae_step", tmp_path)["cpu"].rows
    assert {row.operation for row in rows} >= {"dense reference", "encoder product", "TopK", "NestedTopK", "BatchTopK"}
    reference = next(row.seconds for row in rows if row.operation == "dense reference")
    for row in rows:
        assert abs(row.ratio - row.seconds / reference) < 1e-4 * row.ratio
        assert load("sae_step").line(row) in done.stdout


def test_the_dense_reference_is_the_loss_of_top_k(load):
    module = load("sae_step")
    torch.manual_seed(0)
    sae, x = module.DenseAutoencoder(8, 64, module.TopK(4)), torch.randn(20, 8)
    dense, sparse = sae.step(x), module.sparse_loss(sae, x)
    torch.testing.assert_close(dense, sparse)
    for a, b in zip(*(torch.autograd.grad(loss, [*sae.parameters()]) for loss in (dense, sparse)), strict=True):
        torch.testing.assert_close(a, b)


def test_a_peer_is_timed_by_what_its_own_process_says(load):
    module = load("peer_steps")
    echo = "import sys; print('ready', flush=True); [print(0.25 * i, flush=True) for i, _ in enumerate(sys.stdin, 1)]"
    with module.PeerStep([sys.executable, "-c", echo], {}) as step:
        assert [step(), step()] == [0.25, 0.5]
        assert module.Reported()(step, 2) == (0.75 + 1.0) / 2
    assert 0 <= module.Reported()(lambda: None, 3) < 0.25
    with pytest.raises(RuntimeError, match="the peer stopped: ValueError: no such thing"):
        module.PeerStep([sys.executable, "-c", "raise ValueError('no such thing')"], {}).__enter__()
    with module.peer_steps(None, {}) as none:
        assert none == {}


def test_the_page_has_what_was_measured(load):
    stored = [r for name in ("sae_step", "sae_peers") for r in load("results").stored(name).values()]
    page = PAGE.read_text(encoding="utf-8")
    assert stored
    for results in stored:
        for row in results.rows:
            assert load("sae_step").line(row) in page
    measured = sum(row.operation == "dense reference" for results in stored for row in results.rows)
    assert len(re.findall(r"\| dense reference \|", page)) == measured
