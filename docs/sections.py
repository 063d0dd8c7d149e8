"""For mkdocstrings: `Example:` is its `Examples:`, references are points of a list, and roles are links."""

from __future__ import annotations

import importlib
import re
from typing import Any

from griffe import Extension, Object

REFERENCES = re.compile(r"(?m)^(References:\n)((?:[ ]{4}.*\n?)+)")
ROLE = re.compile(r":(?:class|func|meth|attr|mod|data|exc|obj):`~?\.?([\w.]+)`")
PACKAGES = (
    *(
        "constraints",
        "functional",
        "relaxations",
        "sampling",
        "distributions",
        "estimators",
        "search",
        "nn",
        "nn.sparsity",
        "metrics",
    ),
    *("datamodules", "tasks", "callbacks", "distributed", "kernels"),
    *("integrations.sklearn", "integrations.transformers", "integrations.saelens"),
    *("integrations.dictionary_learning", "integrations.sparsify", "integrations.folder", "integrations.dynamics"),
)


class Sections(Extension):
    """Rewrites docstrings when they are read."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Prepare the docstring of a module, class or function."""
        if obj.docstring is not None:
            text = re.sub(r"(?m)^Example:$", "Examples:", obj.docstring.value)
            text = ROLE.sub(lambda match: linked(match[1], obj.path), text)
            obj.docstring.value = REFERENCES.sub(listed, text)


def listed(match: re.Match[str]) -> str:
    """A reference begins where a year and a title are; a line that has none goes on with the one before."""
    lines: list[str] = []
    for line in match[2].splitlines():
        begins = re.match(r"\s{4}\S.*?, \d{4}[a-z]?, ", line) or not lines
        lines.append(f"    - {line.strip()}" if begins else f"      {line.strip()}")
    return match[1] + "\n".join(lines) + "\n"


def linked(name: str, path: str) -> str:
    """What a role names, as a link where the site documents it: in full, or a public name, of the same package first."""
    short = name.rpartition(".")[2]
    if name in DOCUMENTED:
        return f"[`{short}`][{name}]"
    found = [full for full in DOCUMENTED if full.rpartition(".")[2] == short] if "." not in name else []
    near = [full for full in found if path.startswith(full.rpartition(".")[0] + ".")]
    choice = near or (found if len(found) == 1 else [])
    return f"[`{short}`][{choice[0]}]" if choice else f"`{name}`"


def public(package: str) -> list[str]:
    """Full names of what a package exports: those of `__all__`, or of functions and classes that are its own."""
    module = importlib.import_module(f"sparsek.{package}")
    own = [name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
    return [f"sparsek.{package}.{name}" for name in getattr(module, "__all__", own) if not name.startswith("_")]


DOCUMENTED = frozenset(name for package in PACKAGES for name in public(package))
