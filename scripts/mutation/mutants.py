"""The mutants of a source tree, as mutmut makes them, and a sample of them that edits elsewhere do not change."""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import libcst
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.file_mutation import MutationVisitor, deep_replace
from mutmut.mutation.mutators import mutation_operators
from mutmut.mutation.pragma_handling import IgnoredCode

WIDTH = 60
"""Characters of a mutation's text on each side; the middle of what is longer is left out."""


class Mutant(NamedTuple):
    """One change of one file."""

    file: str
    """Path from the root of the tree."""
    function: str
    line: int
    lines: list[int]
    """Lines of the statement that is changed; those of the whole function where its head is changed."""
    mutation: str
    """Before → after."""
    identity: str
    """Of file, function and change: stays when lines move."""
    source: str
    """The changed file."""


@dataclass(frozen=True)
class Candidate:
    """A mutant that is written out only if it is chosen."""

    file: str
    function: str
    line: int
    text: str
    identity: str
    module: libcst.Module
    before: libcst.CSTNode
    after: libcst.CSTNode

    def mutant(self) -> Mutant:
        """Write it out."""
        source = deep_replace(self.module, self.before, self.after).code
        lines = _statement(ast.parse(self.module.code), self.line)
        return Mutant(self.file, self.function, self.line, lines, _shortened(self.text), self.identity, source)


def sample(root: Path, files: list[str], size: int, seed: int, stored: Path) -> list[Mutant]:
    """Return the sample of these files; what was stored of the same files, size and seed is read."""
    digest = hashlib.sha256(f"{size} {seed}".encode())
    for file in files:
        digest.update((root / file).read_bytes())
    path = stored / f"sample-{digest.hexdigest()[:12]}.json"
    if not path.exists():
        found = chosen((candidate for file in files for candidate in candidates(root, file)), size, seed)
        path.write_text(json.dumps([candidate.mutant() for candidate in found]), encoding="utf-8")
    return [Mutant(*fields) for fields in json.loads(path.read_text(encoding="utf-8"))]


def candidates(root: Path, file: str) -> Iterator[Candidate]:
    """Yield the mutants of a file: those of mutmut, less changes of texts in `raise` statements."""
    code = (root / file).read_text(encoding="utf-8")
    wrapper = MetadataWrapper(libcst.parse_module(code))
    module, positions = wrapper.module, wrapper.resolve(PositionProvider)
    visitor = MutationVisitor(mutation_operators, IgnoredCode(set(), set(), set()))
    wrapper.visit(visitor)
    refused, seen = _raised(ast.parse(code)), Counter()
    for mutation in visitor.mutations:
        outer = mutation.contained_by_top_level_function
        node = mutation.original_node
        if not isinstance(outer, libcst.FunctionDef) or node not in positions:
            continue
        line = positions[node].start.line
        if isinstance(node, libcst.SimpleString) and line in refused:
            continue
        text = " → ".join(_text(module, side) for side in (node, mutation.mutated_node))
        key = f"{file}:{outer.name.value}:{text}"
        seen[key] += 1
        yield Candidate(
            file=file,
            function=outer.name.value,
            line=line,
            text=text,
            identity=hashlib.sha256(f"{key}:{seen[key]}".encode()).hexdigest()[:12],
            module=module,
            before=node,
            after=mutation.mutated_node,
        )


def chosen(mutants: Iterable[Candidate], size: int, seed: int) -> list[Candidate]:
    """Return about `size` mutants, from each file its share and at least two, chosen by a digest of seed and identity."""
    files = defaultdict(list)
    for mutant in mutants:
        files[mutant.file].append(mutant)
    every = sum(map(len, files.values()))
    found = []
    for file in sorted(files):
        ranked = sorted(files[file], key=lambda mutant: hashlib.sha256(f"{seed}:{mutant.identity}".encode()).digest())
        found += ranked[: max(2, round(size * len(ranked) / every))]
    return found


def _raised(tree: ast.Module) -> set[int]:
    """Return the lines of `raise` statements."""
    found = (n for n in ast.walk(tree) if isinstance(n, ast.Raise))
    return {line for n in found for line in range(n.lineno, (n.end_lineno or n.lineno) + 1)}


def _statement(tree: ast.Module, line: int) -> list[int]:
    """Return the lines of the innermost statement at a line, of the condition alone where it has a body."""
    around = [n for n in ast.walk(tree) if isinstance(n, ast.stmt) and n.lineno <= line <= (n.end_lineno or n.lineno)]
    inner = min(around, key=lambda n: (n.end_lineno or n.lineno) - n.lineno)
    body = getattr(inner, "body", None)
    if isinstance(inner, ast.FunctionDef):
        return list(range(inner.body[0].lineno, (inner.end_lineno or inner.lineno) + 1))
    last = body[0].lineno - 1 if isinstance(body, list) else inner.end_lineno or inner.lineno
    return list(range(inner.lineno, max(last, inner.lineno) + 1))


def _text(module: libcst.Module, node: libcst.CSTNode) -> str:
    return re.sub(r"\s+", " ", module.code_for_node(node)).strip()


def _shortened(text: str) -> str:
    before, after = text.split(" → ")
    same = next(
        (i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), min(map(len, (before, after)))
    )
    start = max(0, same - WIDTH // 3)
    return " → ".join(
        ("…" * (start > 0)) + side[start : start + WIDTH] + "…" * (len(side) > start + WIDTH)
        for side in (before, after)
    )
