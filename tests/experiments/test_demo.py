import csv
import logging
import runpy
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "experiments" / "00_demo"
NETWORK = "--model.init_args.network.init_args"

# Lightning 2.6 calls torch and jsonargparse by names that torch 2.13 and jsonargparse 4.53 are about to drop
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*deprecated"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]


@pytest.fixture
def tiny(tmp_path):
    """Words that make the demo's runs tiny."""
    for i in range(40):
        (tmp_path / f"{i}.txt").write_bytes(b"some words that come again and again, number %d. " % i * 4)
    source = f'{{"class_path": "sparsek.datamodules.Folder", "init_args": {{"name": "own", "root": "{tmp_path}"}}}}'
    sizes = {"d_model": 16, "num_layers": 1, "num_heads": 2, "d_hidden": 8, "num_experts": 4}
    return [
        *(f"{NETWORK}.{name}={size}" for name, size in sizes.items()),
        f"--data.init_args.sources=[{source}]",
        "--data.init_args.length=16",
        "--data.init_args.eval_windows=2",
        "--trainer.accelerator=cpu",
        "--trainer.max_steps=5",
        "--trainer.val_check_interval=5",
        "--trainer.log_every_n_steps=1",
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false",
    ]


def test_the_demo_trains_both_routers_prints_the_table_and_draws_the_figure(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(sys, "argv", ["run.py", "--seeds", "0", "1", "--results", "out/results.csv", "--", *tiny])
    level = logging.getLogger("lightning.pytorch").level
    runpy.run_path(str(FOLDER / "run.py"), run_name="__main__")
    logging.getLogger("lightning.pytorch").setLevel(level)
    printed = capsys.readouterr().out
    for expected in ("sigmoid top-k + dual bias | 2 |", "softmax + Switch loss | 2 |", "bits/byte", "out/results.png"):
        assert expected in printed
    assert Path("out/results.png").read_bytes().startswith(b"\x89PNG")
    with Path("out/results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    metrics = {"bits_per_byte", "max_vio", "load_cv", "utilisation", "unrouted", "seconds"}
    for name in ("sigmoid top-k + dual bias", "softmax + Switch loss"):
        for seed in ("0", "1"):
            mine = {row["metric"]: float(row["value"]) for row in rows if (row["row"], row["seed"]) == (name, seed)}
            assert metrics <= set(mine)
            assert 0 < mine["bits_per_byte"] < 9
            assert mine["unrouted"] == 0
