"""Train every row of grid.yaml, print the table, draw the figure.

python experiments/00_demo/run.py                  # one seed: what `make demo` runs
python experiments/00_demo/run.py --seeds 0 1 2    # the committed results.csv
"""

from __future__ import annotations

import argparse
import logging
import re
import sys
import time
import warnings
from pathlib import Path

import yaml
from figure import draw, read_results, table

from sparsek.cli import run

sys.path.insert(0, str(Path(__file__).parents[1]))
import results_file

HERE = Path(__file__).parent
METRICS = ("bits_per_byte", "max_vio", "load_cv", "utilisation", "unrouted")


def train(name: str, configs: list[str], seed: int, overrides: list[str]) -> tuple[Path, dict[str, float], int]:
    """Train one row with one seed through the command line; return its folder, its test metrics and its steps."""
    version = f"{re.sub('[^a-z0-9]+', '-', name.lower())}-seed{seed}-{time.strftime('%Y%m%d-%H%M%S')}"
    words = ["fit", *(word for config in configs for word in ("-c", str(HERE.parents[1] / config)))]
    words += [f"--seed_everything={seed}", f"--data.init_args.seed={seed}"]
    words += ["--trainer.logger.init_args.name=demo", f"--trainer.logger.init_args.version={version}", *overrides]
    start = time.perf_counter()
    cli = run(words)
    seconds = time.perf_counter() - start
    (tested,) = cli.trainer.test(
        cli.model, datamodule=cli.datamodule, ckpt_path="best", weights_only=True, verbose=False
    )
    metrics = {name.removeprefix("test/"): value for name, value in tested.items()}
    return Path(cli.trainer.log_dir or "."), {**metrics, "seconds": seconds}, cli.trainer.global_step


def main() -> None:
    """Train, tabulate, draw."""
    parser = argparse.ArgumentParser(description="Sigmoid-top-k routing against the ordinary softmax router.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--results", type=Path, help="results.csv to add to; by default a new one under runs/demo")
    parser.add_argument(
        "overrides", nargs="*", help="further words for `sparsek fit`, such as --trainer.max_steps=50, after --"
    )
    arguments = parser.parse_args()
    sys.argv = sys.argv[:1]  # LightningCLI is given its words; it must not read ours
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*deprecated")
    results = arguments.results or Path("runs/demo") / f"results-{time.strftime('%Y%m%d-%H%M%S')}.csv"
    folders: dict[str, Path] = {}
    for seed in arguments.seeds:
        for name, configs in yaml.safe_load((HERE / "grid.yaml").read_text())["rows"].items():
            print(f"\n{name}, seed {seed}", flush=True)
            folders[name], metrics, step = train(name, configs, seed, arguments.overrides)
            results_file.append(results, results_file.lines(name, seed, metrics, step, " ".join(configs)))
    figure = draw(folders, results.with_suffix(".png"))
    print(f"\n{table(read_results(results))}\n\nresults: {results}\nfigure:  {figure}")


if __name__ == "__main__":
    main()
