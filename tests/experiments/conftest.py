import contextlib
import logging
import sys
import warnings
from pathlib import Path

import pytest
import torch
import yaml

FOLDER = Path(__file__).parents[2] / "experiments" / "01_routers"
MODULES = ("comparison", "figure", "gradient_error", "grid_file", "plan", "results_file", "run", "st_moe")
SAE_MODULES = (
    "absorption",
    "causal",
    "comparison",
    "extract",
    "features",
    "figure",
    "library",
    "measure",
    "models",
    "offset",
    "plan",
    "probing",
    "results_file",
    "run",
    "threshold",
    "train",
)


@contextlib.contextmanager
def importing(folder, names):
    """Import modules of an experiment's folder, and leave the process as it was."""
    loggers = [logging.getLogger(f"lightning.{part}") for part in ("pytorch", "fabric")]
    levels, threads, path = [logger.level for logger in loggers], torch.get_num_threads(), list(sys.path)
    sys.path[:0] = [str(folder), str(folder.parent)]
    for name in names:
        sys.modules.pop(name, None)
    with warnings.catch_warnings():
        yield
    for name in names:
        sys.modules.pop(name, None)
    sys.path[:] = path
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
    torch.set_num_threads(threads)


@pytest.fixture
def experiment(request):
    """The modules of the experiment that the module of the test names by FOLDER and MODULES."""
    with importing(request.module.FOLDER, request.module.MODULES):
        yield


@pytest.fixture
def routers():
    """The modules of 01_routers."""
    with importing(FOLDER, MODULES):
        yield


@pytest.fixture
def sae():
    """The modules of 02_sae."""
    with importing(FOLDER.parent / "02_sae", SAE_MODULES):
        yield


@pytest.fixture
def tiny_grid(tmp_path):
    """A grid of two rows and three steps, and its text."""
    for i in range(40):
        (tmp_path / f"{i}.txt").write_bytes(b"some words that come again and again, number %d. " % i * 4)
    (tmp_path / "tiny.yaml").write_text(
        yaml.safe_dump(
            {
                "model": {"init_args": {"network": {"init_args": {"d_model": 16, "d_hidden": 8, "num_experts": 4}}}},
                "data": {"init_args": {"length": 16, "eval_windows": 4}},
                "trainer": {"accelerator": "cpu"},
            }
        )
    )
    grid = yaml.safe_load((FOLDER / "grid.yaml").read_text())
    names = list(grid["rows"])[:2]
    grid |= {
        "rows": {
            name: grid["rows"][name] | {"configs": [*grid["rows"][name]["configs"], str(tmp_path / "tiny.yaml")]}
            for name in names
        },
        "text": [{"name": "own", "paths": ["*.txt"]}],
        "validation": {"seed": 100, "steps": 2, "learning_rates": [1e-3]},
        "test": {"seeds": [0, 1], "steps": 3},
        "max_vio": 10.0,
    }
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid, sort_keys=False))
    return grid
