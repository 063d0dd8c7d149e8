"""Every notebook runs from top to bottom in a fresh kernel, and is committed with its pictures, small."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))

every = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def pictures(notebook):
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    return sum("image/png" in output.get("data", {}) for output in outputs)


def test_there_are_notebooks():
    assert {path.stem for path in NOTEBOOKS} >= {"operators", "routing"}


@every
def test_runs(path):
    notebook = nbformat.read(path, as_version=4)
    expected = pictures(notebook)
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    NotebookClient(notebook, kernel_name="python3", timeout=600, resources={"metadata": {"path": FOLDER}}).execute()
    assert pictures(notebook) == expected > 0
    streams = [o.text for cell in code_cells(notebook) for o in cell.outputs if o.output_type == "stream"]
    assert not [text for text in streams if "Warning" in text]


@every
def test_is_committed_executed_and_small(path):
    notebook = nbformat.read(path, as_version=4)
    assert [cell.execution_count for cell in code_cells(notebook)] == list(range(1, len(code_cells(notebook)) + 1))
    assert path.stat().st_size < 500_000
