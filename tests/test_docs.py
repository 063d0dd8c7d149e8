"""The pages of the site hold: their code runs and prints what it says, their tables are those of the results, the site builds."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path for path in (ROOT / "docs").glob("*.md") if path.name != "experts.md"
)  # that one: tests/nn, tests/distributed


def blocks(page):
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*deprecated")  # Lightning asks torch for a name that torch 2.13 renames
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.stem)
def test_code_runs_and_prints_what_its_comments_say(page, capsys, tmp_path, monkeypatch):
    """The blocks of a page follow one another in one namespace."""
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    with torch.random.fork_rng():
        for block in blocks(page):
            exec(compile(block, page.name, "exec"), names)
    expected = re.findall(r"^ *print\(.*\)  # (.*)$", "\n".join(blocks(page)), re.MULTILINE)
    assert [line for line in capsys.readouterr().out.splitlines() if line] == expected


def test_every_page_is_in_the_menu():
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert [page.name for page in (ROOT / "docs").glob("**/*.md") if page.name not in menu] == []


def test_commands_name_configurations_that_exist():
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    named = re.findall(r"(?:-c |`)(configs/[\w/]+\.yaml)", text)
    assert len(named) >= 3
    assert [path for path in named if not (ROOT / path).is_file()] == []


def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs", reason="the site needs the extra `docs`")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr
    assert (tmp_path / "index.html").is_file()
    assert "<math" in (tmp_path / "api" / "functional.html").read_text(encoding="utf-8")
