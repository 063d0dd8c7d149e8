"""Loads every module of cases, so that the register is complete."""

from importlib import import_module
from pathlib import Path

from tests.fuzz.subjects import SUBJECTS

for _path in sorted(Path(__file__).parent.glob("*_cases.py")):
    if _path.stem != Path(__file__).stem:
        import_module(f"tests.fuzz.{_path.stem}")

__all__ = ["SUBJECTS"]
