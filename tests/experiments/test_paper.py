"""The paper's claims: every part runs and is resumed, what is wrong is seen, and the README says what the results say."""

# ruff: noqa: PLC0415 - modules of the experiment's folder can be imported inside of its fixture alone
import re
from pathlib import Path

import pytest
import torch
import yaml

FOLDER = Path(__file__).parents[2] / "experiments" / "00_paper"
MODULES = (
    *(
        "claims",
        "estimation",
        "figure",
        "grid_file",
        "inclusion",
        "optimum",
        "part",
        "planted_k",
        "results_file",
        "run",
    ),
    *("scale", "shapes", "subset", "summary", "memory", "timing"),
)
pytestmark = pytest.mark.usefixtures("experiment")

TINY = {
    "shapes": {"points": 5, "seeds": [0], "temperatures": [0.1, 10], "simplex": [1.5], "draws": 1},
    "optimum": {"seeds": [0], "units": [5], "large": 1000},
    "designs": {"seeds": [0], "units": 4, "k": [1, 2.5], "draws": 2000, "large": 1000},
    "first_order": {"seeds": [0], "units": 4, "draws": 200, "curvatures": [0.01, 0.03, 0.1, 0.3, 1.0, 3.0]},
    "subset": {"seeds": [0], "units": 4, "k": 2, "steps": 10, "rates": [0.1, 0.3]},
    "planted_k": {"seeds": [0], "units": 8, "planted": [2], "start": 4, "steps": 60, "batch": 16},
    "scale": {"seeds": [0], "units": [1000], "growing": {"units": 100, "k": [1]}, "budget": 0.0},
}


@pytest.fixture
def grid():
    described = yaml.safe_load((FOLDER / "grid.yaml").read_text())
    described["roots"]["seeds"] = [0]
    return described | {part: described[part] | values for part, values in TINY.items()}


@pytest.mark.parametrize("part", ["shapes", "optimum", "designs", "first_order", "subset", "planted_k", "scale"])
def test_a_part_runs_once_and_is_drawn(part, grid, tmp_path):
    from figure import publish
    from results_file import append, lines
    from run import missing

    results = tmp_path / "results.csv"
    left = missing(part, grid, results, "cpu")
    for step in left:
        append(results, lines(step.row, step.seed, step.measure(), 0, step.config))
    assert len(left) > 0
    assert missing(part, grid, results, "cpu") == []
    if part != "scale":  # its claim is about a million units
        publish(results, grid)
        assert part in ("optimum", "designs") or list(tmp_path.glob("*.png"))


def test_a_copied_bisection_is_wrong_where_ours_is_not(grid):
    from optimum import errors_of_the_sum, hard_rows

    rows = hard_rows(0)
    errors = {name: errors_of_the_sum(rows[name]) for name in ("two plateaus", "geometric", "offset of 1e6")}
    assert max(error["sigmoid top-k"] for error in errors.values()) < 5e-7
    assert min(error["bisection of [-10, 10]"] for error in errors.values()) > 1


def test_the_published_sinkhorn_loop_ends_where_newton_does():
    from scale import published_sinkhorn

    from sparsek.functional import sinkhorn_topk

    x = torch.rand(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = (x - x.min()) / (x.max() - x.min())  # the published one scales scores to [0, 1]
    torch.testing.assert_close(
        published_sinkhorn(x, 5, rounds=5000), sinkhorn_topk(x, 5, epsilon=0.1), rtol=0, atol=1e-6
    )


def test_bias_tells_exact_estimators_from_biased_ones(grid):
    from estimation import ON_DESIGNS, biases

    described = grid["first_order"] | {"draws": 20_000, "curvatures": [1.0]}
    for name, linear in (("straight-through", True), ("ReinMax, k-hot", False)):
        found = biases(ON_DESIGNS[name], "conditional Poisson", described, 0)
        assert (found["bias, linear"] < 4 * found["standard error, linear"] + 1e-9) is linear


def test_the_readme_says_what_the_results_say():
    import claims
    from results_file import read
    from summary import Results

    written = (FOLDER / "README.md").read_text()
    table = claims.table(Results(read(FOLDER / "results.csv")), yaml.safe_load((FOLDER / "grid.yaml").read_text()))
    assert table in written
    assert [name for name in re.findall(r"\]\((\w+\.png)\)", written) if not (FOLDER / name).is_file()] == []


def test_nothing_is_left_to_run():
    from run import PARTS, missing

    described = yaml.safe_load((FOLDER / "grid.yaml").read_text())
    assert {part: missing(part, described, FOLDER / "results.csv", "cpu") for part in PARTS} == {
        part: [] for part in PARTS
    }
