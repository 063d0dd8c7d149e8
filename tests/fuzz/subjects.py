"""The register: a strategy of cases for each public name, filled by the modules `*_cases.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.fuzz.harness import Case
from tests.fuzz.tensors import Draw

Maker = Callable[[Draw], Case]


@dataclass(frozen=True)
class Subject:
    """What draws the cases of one public name, and its share of them."""

    maker: Maker
    weight: float = 1.0


SUBJECTS: dict[str, Subject] = {}


def fuzzes(*names: str, weight: float = 1.0) -> Callable[[Maker], Maker]:
    """Register a function that draws a case for these public names ("functional.sigmoid_topk")."""

    def register(maker: Maker) -> Maker:
        for name in names:
            enter(name, maker, weight)
        return maker

    return register


def enter(name: str, maker: Maker, weight: float = 1.0) -> None:
    if name in SUBJECTS:
        raise KeyError(f"{name} is fuzzed twice")
    SUBJECTS[name] = Subject(maker, weight)


def each_case(maker: Maker, count: int, number: int, visit: Callable[[Case], None], *, shrink: bool = True) -> None:
    """Visit `count` cases, the same ones for the same number."""

    phases = (Phase.generate, Phase.shrink) if shrink else (Phase.generate,)

    @seed(number)
    @settings(max_examples=count, deadline=None, database=None, phases=phases, suppress_health_check=list(HealthCheck))
    @given(st.integers(0, 2**62))
    def one(start: int) -> None:
        visit(maker(Draw(start)))

    one()
