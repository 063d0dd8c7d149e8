"""`make fuzz`: every public name under thousands of hostile calls; prints what each of them came to.

python -m tests.fuzz.run [--cases N] [--seed N] [--only WORD]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

import torch

from tests.fuzz.every_case import SUBJECTS
from tests.fuzz.harness import REFUSED, RIGHT, Case, Tally, Undocumented, judge
from tests.fuzz.subjects import each_case

UNDOCUMENTED = "undocumented"


def shares(names: list[str], cases: int) -> dict[str, int]:
    """How many cases each name gets: its weight of the whole, rounded up."""
    total = sum(SUBJECTS[name].weight for name in names)
    return {name: -int(-cases * SUBJECTS[name].weight // total) for name in names}


def fuzz(name: str, count: int, number: int, tally: Tally) -> dict[str, str]:
    """Judge the cases of one name; return the undocumented ones, one note of each kind."""
    found: dict[str, str] = {}

    def visit(case: Case) -> None:
        try:
            end = judge(case)
        except Undocumented as outcome:
            end, text = UNDOCUMENTED, str(outcome)
            found.setdefault(text[:60], text)
        tally.add(name, case, end)

    each_case(SUBJECTS[name].maker, count, number, visit, shrink=False)
    return found


def line(name: str, ends: Counter[str], distinct: int) -> str:
    return f"{name:44}{sum(ends.values()):8}{distinct:10}{ends[RIGHT]:8}{ends[REFUSED]:9}{ends[UNDOCUMENTED]:14}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=21_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    names = sorted(name for name in SUBJECTS if chosen.only in name)
    tally, start = Tally(), time.monotonic()
    print(f"{'name':44}{'cases':>8}{'distinct':>10}{'right':>8}{'refused':>9}{'undocumented':>14}", flush=True)
    failures: dict[str, dict[str, str]] = {}
    for name, count in shares(names, chosen.cases).items():
        found = fuzz(name, count, chosen.seed, tally)
        print(line(name, tally.ends[name], len(tally.notes[name])), flush=True)
        if found:
            failures[name] = found
            for text in found.values():
                print("   ", text[:1200], flush=True)
    whole = sum(tally.ends.values(), Counter())
    print(line(f"all {len(names)} names", whole, sum(map(len, tally.notes.values()))))
    print(f"{tally.cases} cases executed in {time.monotonic() - start:.0f} s, seed {chosen.seed}")
    return 1 if failures or (not chosen.only and tally.cases < chosen.cases) else 0


if __name__ == "__main__":
    sys.exit(main())
