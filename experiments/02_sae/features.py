"""Tables of what was asked of trained autoencoders: probing.csv, absorption.csv, threshold.csv, causal.csv, as far as they are there.

python experiments/02_sae/features.py            # prints the tables, and puts them into README.md
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from plan import Line

sys.path.insert(0, str(Path(__file__).parents[1]))
import results_file

HERE = Path(__file__).parent
PARTS = {
    "probing": (
        "Film reviews, fresh or rotten, from 1, 5 and 20 latents",
        {f"{name}_{size}": f"{word}, {size}" for size in (1, 5, 20) for name, word in (("accuracy", "accuracy"), ("auc", "AUC"))},
    ),
    "absorption": (
        "First letters",
        {"absorbed": "absorbed", "missed": "missed", "latents_per_letter": "latents a letter", "f1": "F1 of a letter's latents"},
    ),
    "threshold": (
        "Held-out error of a threshold calibrated to L0 = 32 on",
        {"l0_error_mean": "mean size, %", "l0_error_95": "95 of 100 are below, %"},
    ),
    "causal": (
        "Layer 15 of SmolLM2",
        {"cross_entropy_recovered": "cross-entropy recovered", "kl_recovered": "divergence recovered",
         "cross_entropy_clean": "nats a token, model", "cross_entropy_spliced": "with the dictionary",
         "cross_entropy_ablated": "with the mean"},
    ),
}  # fmt: skip


def table(title: str, columns: dict[str, str], lines: Sequence[Line]) -> str:
    """Every row's metrics, mean over seeds, in the order of the file."""
    out = [f"| {title} | seeds | " + " | ".join(columns.values()) + " |", "|---" * (len(columns) + 2) + "|"]
    for row in dict.fromkeys(line["row"] for line in lines):
        mine = [line for line in lines if line["row"] == row]
        values = [statistics.fmean(float(line["value"]) for line in mine if line["metric"] == name) for name in columns]
        seeds = len({line["seed"] for line in mine})
        out.append(f"| {row} | {seeds} | " + " | ".join(f"{value:.3f}" for value in values) + " |")
    return "\n".join(out)


def tables(folder: Path) -> str:
    """All of them."""
    found = {name: results_file.read(folder / f"{name}.csv") for name in PARTS}
    return "\n\n".join(table(*PARTS[name], lines) for name, lines in found.items() if lines)


if __name__ == "__main__":
    written = tables(HERE)
    results_file.write_into(HERE / "README.md", "tables of features.py", written)
    print(written)
