"""What is measured of a map: the error of its nearest neighbours, their number chosen on validation."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from data import Split
from embeddings import Map, learn
from plan import Run
from sklearn.neighbors import KNeighborsClassifier


def measure(run: Run, split: Split, grid: Mapping[str, Any]) -> dict[str, float]:
    """Error on validation; for the seeds of the test also on test rows, and seconds of learning."""
    start = time.perf_counter()
    embed = learn(run.row, split.train, run.dim, run.setting, run.seed, grid)
    seconds = time.perf_counter() - start
    if run.seed == grid["validation"]["seed"]:
        return {f"val/{run.name}/error": errors(embed, split, grid)[1]}
    number, error = errors(embed, split, grid)
    classifier = KNeighborsClassifier(number).fit(embed(split.train.X), split.train.y)
    test = 1 - classifier.score(embed(split.test.X), split.test.y)
    return {
        f"{run.name}/error": test,
        f"{run.name}/validation error": error,
        f"{run.name}/neighbours": number,
        f"{run.name}/seconds": seconds,
    }


def errors(embed: Map, split: Split, grid: Mapping[str, Any]) -> tuple[int, float]:
    """The number of voters with the least error on validation, the least of equal ones, and that error."""
    train, val = embed(split.train.X), embed(split.val.X)
    found = {
        k: 1 - float(KNeighborsClassifier(k).fit(train, split.train.y).score(val, split.val.y))
        for k in grid["neighbours"]
    }
    best = min(found, key=found.__getitem__)
    return best, found[best]
