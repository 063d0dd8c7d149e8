"""For mkdocs: pages that lie beside their code (experiments, benchmarks) join the site, and formulas become MathML."""

from __future__ import annotations

import html
import os
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
GUESTS = ("experiments/*/README.md", "benchmarks/README.md", "CHANGELOG.md", "CONTRIBUTING.md")
PICTURES = ("experiments/*/*.png", "benchmarks/figures/*.svg")
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)(#[^)\s]*)?(?=\))")
FORMULA = re.compile(r'<(span|div) class="arithmatex">\s*(\\\(|\\\[)(.*?)(?:\\\)|\\\])\s*</\1>', re.DOTALL)


def on_files(files: Files, config: Any) -> Files:
    """Add guests at the path that they have in the repository."""
    for pattern in (*GUESTS, *PICTURES):
        for path in sorted(ROOT.glob(pattern)):
            files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turn a link that is right in the repository into one that is right in the site; to what the site has not, into text."""
    here = Path(page.file.abs_src_path).parent

    def target(match: re.Match[str]) -> str:
        path = Path(os.path.normpath(here / match[1]))
        inside = path.relative_to(ROOT / "docs") if path.is_relative_to(ROOT / "docs") else path.relative_to(ROOT)
        if files.get_file_from_path(inside.as_posix()) is None:
            return match[0]
        start = Path(page.file.src_uri).parent.as_posix()
        return Path(os.path.relpath(inside, start)).as_posix() + (match[2] or "")

    def known(match: re.Match[str]) -> str:
        path = Path(os.path.normpath(here / match[2]))
        outside = path.is_relative_to(ROOT) and not path.is_relative_to(ROOT / "docs")
        if outside and path.exists() and files.get_file_from_path(path.relative_to(ROOT).as_posix()) is None:
            return f"{match[1]} (`{path.relative_to(ROOT).as_posix()}`)"
        return match[0]

    markdown = re.sub(r"(?<!!)\[([^\]]*)\]\((?![a-z]+:|#)([^)\s#]+)(?:#[^)\s]*)?\)", known, markdown)
    return LINK.sub(target, markdown)


def on_page_content(content: str, page: Any, config: Any, files: Files) -> str:
    """Write formulas as MathML, which browsers draw without help."""

    def formula(match: re.Match[str]) -> str:
        return convert(html.unescape(match[3]).strip(), display="inline" if match[1] == "span" else "block")

    return FORMULA.sub(formula, content)
