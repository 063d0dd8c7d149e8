"""The layers hold: a folder imports only from folders above it, and `import sparsek` loads torch and nothing else heavy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import sparsek

ROOT = Path(sparsek.__file__).parent

LAYERS = [
    {"_version", "_validation", "_records"},
    {"kernels"},
    {"functional", "constraints"},
    {"distributed"},
    {"relaxations", "sampling"},
    {"distributions", "estimators", "search"},
    {"nn", "metrics"},
    {"datamodules", "tasks", "callbacks"},
    {"integrations"},
    {"cli", "lab", "__main__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}

HEAVY = {
    "lightning",
    "torchmetrics",
    "wandb",
    "matplotlib",
    "jsonargparse",
    "scipy",
    "sklearn",
    "pandas",
    "transformers",
}
MAY_IMPORT = {
    "metrics": {"torchmetrics"},
    "datamodules": {"lightning", "scipy", "sklearn", "transformers"},
    "tasks": {"lightning", "torchmetrics"},
    "callbacks": {"lightning", "torchmetrics", "matplotlib"},
    "cli": {"lightning", "jsonargparse", "transformers", "matplotlib", "wandb"},
    "lab": HEAVY,
    "integrations": HEAVY,
}


def imports(path: Path, source: str) -> set[str]:
    """Dotted names that a file imports, relative ones resolved against its package."""
    package = ("sparsek", *path.relative_to(ROOT).parent.parts)
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else ()
            module = ".".join((*base, *([node.module] if node.module else [])))
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return found


def part(path: Path) -> str:
    """The folder (or top-level module) of the package that a file belongs to."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def violations(path: Path, source: str) -> list[str]:
    own = part(path)
    if own == "__init__":
        return []
    bad = []
    for name in imports(path, source):
        pieces = name.split(".")
        if pieces[0] == "sparsek" and len(pieces) > 1 and pieces[1] in LEVEL and pieces[1] != own:
            if LEVEL[pieces[1]] >= LEVEL[own]:
                bad.append(f"{own} imports {name}, which is not above it")
        elif pieces[0] in HEAVY and pieces[0] not in MAY_IMPORT.get(own, set()):
            bad.append(f"{own} imports {name}")
        elif pieces[0] in {"experiments", "notebooks", "benchmarks", "tests"}:
            bad.append(f"{own} imports {name}: nothing in sparsek may")
    return bad


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_file_imports_only_from_above(path):
    assert part(path) in LEVEL or part(path) == "__init__", f"{path} has no layer"
    assert violations(path, path.read_text()) == []


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("functional/_x.py", "from sparsek.nn import Router"),
        ("functional/_x.py", "from ..sampling import Pivotal"),
        ("sampling/_x.py", "import sparsek.relaxations"),
        ("nn/_x.py", "import lightning"),
        ("nn/_x.py", "from tests import oracle"),
    ],
)
def test_a_violation_is_seen(file, line):
    assert violations(ROOT / file, line)


def test_import_loads_nothing_heavy():
    code = (
        "import sys, sparsek, sparsek.functional, sparsek.relaxations, sparsek.sampling, sparsek.distributions, "
        "sparsek.estimators, sparsek.search, sparsek.nn, sparsek.constraints; "
        f"print(sorted({HEAVY!r} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert result.stdout.strip() == "[]"
