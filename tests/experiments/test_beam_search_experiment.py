"""experiments/08_beam_search: its README is drawn from its results, its arithmetic is right, and it runs where sequences are listed."""

import math
from collections import Counter
from pathlib import Path

import pytest
import torch
import yaml
from scipy import stats

FOLDER = Path(__file__).parents[2] / "experiments" / "08_beam_search"
MODULES = [path.stem for path in FOLDER.glob("*.py")] + ["results_file"]

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*deprecated"),
    pytest.mark.usefixtures("experiment"),
]


def described():
    return yaml.safe_load((FOLDER / "grid.yaml").read_text())


def measured():
    import results_file  # noqa: PLC0415 - from the folder of the experiments
    from figure import Results  # noqa: PLC0415 - from the folder of the experiment

    return Results(results_file.read(FOLDER / "results.csv"), described())


def test_tables_are_those_of_the_results_and_the_figure_is_drawn_again(tmp_path):
    from figure import draw, tables  # noqa: PLC0415 - from the folder of the experiment

    assert tables(measured(), described()) in (FOLDER / "README.md").read_text()
    for name in ("one.png", "two.png"):
        draw(measured(), described(), tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_every_row_has_every_seed():
    from figure import configs  # noqa: PLC0415 - from the folder of the experiment

    grid, found = described(), measured()
    for row, problems in grid["rows"].items():
        for problem in problems:
            for *_, config in configs(grid, problem):
                for seed in (grid["validation"]["seed"], *grid["test"]["seeds"]):
                    assert (config, row, seed) in found.errors, (config, row, seed)


def test_a_gain_is_a_geometric_mean_with_the_interval_of_student():
    from figure import Results  # noqa: PLC0415 - from the folder of the experiment

    ratios, lines = [2.0, 3.0, 4.5, 2.5, 8.0], []
    for seed, ratio in zip((0, 1, 2, 3, 4), ratios, strict=True):
        for row, values in (("with replacement", (ratio, 50.0)), ("a", (1.0, 9.0))):
            lines += [
                {"row": row, "seed": str(seed), "config": "c", "metric": f"score, {i}", "value": str(value)}
                for i, value in enumerate(values)
            ]
    for row in ("with replacement", "a"):  # validation likes the first
        lines += [
            {"row": row, "seed": "100", "config": "c", "metric": f"score, {i}", "value": str(i + 1)} for i in (0, 1)
        ]
    mean, low, high = Results(lines, described()).gain("c", "a", "score")
    logs = [math.log(ratio) for ratio in ratios]
    expected = stats.ttest_1samp(logs, 0).confidence_interval(0.95)
    assert mean == pytest.approx(stats.gmean(ratios))
    assert (math.log(low), math.log(high)) == pytest.approx((expected.low, expected.high))


def test_the_score_is_that_of_clipped_counts():
    from problems import bleu, grams  # noqa: PLC0415 - from the folder of the experiment

    target = grams([1, 2, 3])
    assert target == Counter([(1,), (2,), (3,), (1, 2), (2, 3)])
    assert bleu([1, 2, 3], target) == 1
    assert bleu([1, 1, 1], target) == pytest.approx(math.sqrt(2 / 4 * 1 / 3))  # 1 of 3 counts once; no pair
    assert bleu([4], target) == pytest.approx(math.sqrt(1 / 2))


def test_the_ways_to_write_entropy_agree_where_everything_is_taken():
    from methods import with_replacement  # noqa: PLC0415 - from the folder of the experiment
    from problems import table  # noqa: PLC0415 - from the folder of the experiment

    from sparsek.search import NextToken, estimate, resampled_beam_search  # noqa: PLC0415 - after the fixture

    problem = table({"vocabulary": 3, "scale": 1.0, "length": 3}, 0)
    beam = resampled_beam_search(NextToken(problem.model, 0.7), problem.prompts, 27, 3, eos=problem.eos)
    values = problem.values(beam, 0.7)
    found = [float(estimate(beam, values[name])) for name in ("entropy, -log p", "entropy, of each token")]
    assert found[0] == pytest.approx(found[1], abs=1e-10)
    drawn = with_replacement(problem.model, problem.prompts, 5, 3, eos=problem.eos)
    torch.testing.assert_close(drawn.weights, torch.full((1, 5), 0.2, dtype=torch.float64))


def test_it_runs_and_goes_on_where_it_was_stopped(tmp_path):
    import results_file  # noqa: PLC0415 - from the folder of the experiments
    import run  # noqa: PLC0415 - from the folder of the experiment

    grid = described()
    grid["exact"] |= {"vocabulary": 3, "length": 3, "repeats": 20, "k": [2], "temperatures": [1.0]}
    grid["test"] = {"seeds": [0, 1]}
    results = tmp_path / "results.csv"
    run.run_problem("exact", grid, results)
    lines = results_file.read(results)
    assert {line["row"] for line in lines} == set(grid["rows"])
    run.run_problem("exact", grid, results)
    assert results_file.read(results) == lines
    assert "Problem `exact`, expected entropy" in run.publish(results, grid)


def test_a_network_is_asked_once_about_a_prefix():
    from problems import Remembered  # noqa: PLC0415 - from the folder of the experiment

    asked = []

    def network(tokens):
        asked.append(len(tokens))
        return torch.nn.functional.one_hot(tokens[:, -1], 5).float()

    model = Remembered(network)
    tokens = torch.tensor([[1, 2], [3, 4], [1, 2]])
    for _ in range(2):
        assert model(tokens).argmax(-1).tolist() == [2, 4, 2]
    assert asked == [2]
