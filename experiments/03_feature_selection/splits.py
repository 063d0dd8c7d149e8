"""The tables of the grid, with a test part chosen once, or anew for each seed; what is drawn is drawn anew for each seed."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from sparsek.datamodules import MeanImputation, TableDataModule

KEPT = 0.9
"""Share of the rows outside the test part (of the mice) that a seed selects and trains on: its own nine tenths."""


def data_of(described: Mapping[str, Any], root: str, seed: int) -> TableDataModule:
    """The table that the grid describes."""
    source = described["source"]
    arguments = source.get("init_args", {}) | ({"seed": seed} if described.get("drawn") else {})
    split = seed if described.get("resplit") else 0
    return _data(source["class_path"], json.dumps(arguments), described.get("test_fraction", 0.25), root, split)


@lru_cache(maxsize=2)
def _data(class_path: str, arguments: str, test_fraction: float, root: str, split: int) -> TableDataModule:
    module, _, name = class_path.rpartition(".")
    source = getattr(importlib.import_module(module), name)(**json.loads(arguments))
    parts = {"val_fraction": 0.2, "test_fraction": test_fraction, "seed": split}
    return TableDataModule(source, root, imputation=MeanImputation(), **parts)
