"""The register: a strategy of cases for each public name, filled by the modules `*_cases.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

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


def fuzzes(*names: str, weight: float = 1.0) -> Callable[[Callable[..., Case]], Callable[..., Case]]:
    """Register a function that draws a case for a public name ("functional.sigmoid_topk").

    Of several names it gets the one that is meant as the argument `name`, without its module.
    """

    def register(maker: Callable[..., Case]) -> Callable[..., Case]:
        for name in names:
            enter(name, maker if len(names) == 1 else partial(maker, name=name.split(".", 1)[1]), weight)
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
