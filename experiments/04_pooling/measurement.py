"""What is measured of a pooling: its task on clean and on noisy tokens, padding, what it retains, seconds."""

from __future__ import annotations

import time
from collections.abc import Mapping
from statistics import median
from typing import Any

import torch
from noise import padded, with_noise, with_noise_tokens
from people import People, against_people
from plan import Run
from poolings import IMAGE, LOCAL
from retention import retained
from torch import Tensor, nn
from training import Data, pooled

from sparsek.datamodules import FeatureSet
from sparsek.metrics import RetrievalPrecision, RetrievalRecall, SameLabelAUROC

Metrics = dict[str, float]
EMBEDDINGS = {"recall@1": RetrievalRecall, "map": RetrievalPrecision, "auroc": SameLabelAUROC}


def measure(
    run: Run,
    pool: nn.Module,
    head: nn.Module | None,
    data: Data,
    grid: Mapping[str, Any],
    people: People | None,
) -> Metrics:
    """Everything about one run; only the metric of the task on validation."""
    torch.manual_seed(run.seed)
    described = grid["tasks"][run.task]
    features = data.features.subset(torch.tensor(data.split(run.seed, run.split)))
    metric = f"{run.task}/{described['metric']}"
    if run.split == "val":
        return {f"val/{metric}": quality(described["metric"], pool, head, features)}
    found = {metric: quality(described["metric"], pool, head, features)}
    for name, version in versions(run, features, data.kind == IMAGE, grid).items():
        found[f"{metric}, {name}"] = quality(described["metric"], pool, head, version)
    if run.row not in LOCAL and run.row != "SampledTokenPool":
        found[f"{run.task}/padding shift"] = padding_shift(pool, features)
    if described["objective"] == "classes":
        kept = {} if data.kind == IMAGE else retained(pool, data, run)
        return found | {f"{run.task}/{name}": value for name, value in kept.items()}
    found |= {f"{run.task}/{name}": quality(name, pool, head, features) for name in ("recall@1", "auroc")}
    return found | ({} if people is None else against_people(pool, people))


def quality(name: str, pool: nn.Module, head: nn.Module | None, features: FeatureSet) -> float:
    """Accuracy of classes, or retrieval or verification by label."""
    embeddings = pooled(pool, features)
    if name != "accuracy":
        metric = EMBEDDINGS[name]()
        metric.update(embeddings, features.labels)
        return metric.compute().item()
    assert head is not None, "classes need a head"
    with torch.no_grad():
        return (head(embeddings).argmax(-1) == features.labels).float().mean().item()


def versions(run: Run, features: FeatureSet, positive: bool, grid: Mapping[str, Any]) -> dict[str, FeatureSet]:
    """The test rows under noise."""
    scales = grid["noise"].get(run.task, [1.0])
    found = {f"noise {scale:g}": with_noise(features, scale, positive, run.seed) for scale in scales}
    if run.row not in LOCAL:
        found["noise tokens"] = with_noise_tokens(features, positive, run.seed)
    return found


@torch.no_grad()
def padding_shift(pool: nn.Module, features: FeatureSet) -> float:
    """Largest change of an output, over the largest output, when NaN fills padded slots and as many more on both sides."""
    batch = features.batch(torch.arange(min(64, len(features.labels))))
    output = pool(batch.tokens, batch.mask)
    shift: Tensor = (pool(*padded(batch.tokens, batch.mask)) - output).abs().max() / output.abs().max()
    return shift.item()


def seconds(pool: nn.Module, tokens: Tensor, repeats: int = 15) -> Metrics:
    """Milliseconds of processor time per 1,000 rows: median of the forward pass alone, and with backward to tokens and parameters."""
    mask = torch.ones(tokens.shape[:2], dtype=torch.bool)
    factor = 1e6 / len(tokens)

    def forward() -> None:
        with torch.no_grad():
            pool(tokens, mask)

    def backward() -> None:
        pool(tokens.detach().requires_grad_(), mask).sum().backward()

    return {"forward": _median(forward, repeats) * factor, "forward and backward": _median(backward, repeats) * factor}


def _median(call: Any, repeats: int) -> float:
    call()
    times = []
    for _ in range(repeats):
        start = time.process_time()  # of this process alone, whatever else runs
        call()
        times.append(time.process_time() - start)
    return median(times)
