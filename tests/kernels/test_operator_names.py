"""Operators of the library have names of their own: torch lets a second registration replace the first without a word."""

import re
from collections import Counter
from pathlib import Path

import sparsek

ROOT = Path(sparsek.__file__).parent
REGISTERED = re.compile(r'custom_op\(\s*"sparsek::(\w+)"|_LIBRARY\.define\(\s*"(\w+)\(')


def names(text):
    return [first or second for first, second in REGISTERED.findall(text)]


def test_no_two_operators_share_a_name():
    found = Counter(name for path in ROOT.rglob("*.py") for name in names(path.read_text(encoding="utf-8")))
    assert {"topk_mask", "topk_mask_rows", "implicit_topk", "sparse_bags"} <= found.keys()
    assert [name for name, times in found.items() if times > 1] == []


def test_a_second_registration_would_be_seen():
    text = '@torch.library.custom_op("sparsek::a", mutates_args=())\n_LIBRARY.define(\n    "a(Tensor x) -> Tensor"\n)'
    assert names(text) == ["a", "a"]
