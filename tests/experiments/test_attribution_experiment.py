"""experiments/09_attribution: its README is drawn from its results, its rankings are right, and it runs on a small network."""

from pathlib import Path

import pytest
import torch
import yaml

FOLDER = Path(__file__).parents[2] / "experiments" / "09_attribution"
MODULES = [path.stem for path in FOLDER.glob("*.py")] + ["results_file", "problems"]

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*deprecated"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:.*in eval mode at the start"),
    pytest.mark.usefixtures("experiment"),
]


def described():
    return yaml.safe_load((FOLDER / "grid.yaml").read_text())


def lines():
    import results_file  # noqa: PLC0415 - from the folder of the experiments

    return results_file.read(FOLDER / "results.csv")


def test_tables_are_those_of_the_results_and_the_figure_is_drawn_again(tmp_path):
    from figure import collect, draw, tables, validation_table  # noqa: PLC0415 - from the folder of the experiment

    found, readme = collect(lines(), described()), (FOLDER / "README.md").read_text()
    assert tables(found, described()) in readme
    assert validation_table(lines(), described()) in readme
    for name in ("one.png", "two.png"):
        draw(found, described(), tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_every_run_of_a_test_has_the_setting_that_validation_chose():
    from run import chosen, config  # noqa: PLC0415 - from the folder of the experiment

    grid, measured = described(), lines()
    seeds = {str(seed) for seed in grid["test"]["seeds"]}
    for line in measured:
        if line["seed"] in seeds:
            problem = line["config"].partition(" {")[0]
            assert line["config"] == config(problem, chosen(measured, line["row"], grid))


def small_problem():
    """A network in which hidden unit 2 matters most, then 0; the others do nothing."""
    from models import Problem  # noqa: PLC0415 - from the folder of the experiment

    from sparsek.nn import UnitSite  # noqa: PLC0415 - after the fixture
    from sparsek.tasks import TargetLoss  # noqa: PLC0415 - after the fixture

    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(5, 5, bias=False), torch.nn.Identity(), torch.nn.Linear(5, 1, bias=False)
    )
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(5))
        model[2].weight.copy_(torch.tensor([[2.0, 0.0, 4.0, 0.0, 0.0]]))
        batches = [(x, model(x) + 1) for x in torch.randn(60, 16, 5)]
    single = [(x[:1], y[:1]) for x, y in batches]
    return Problem(model, [UnitSite("1", 5)], TargetLoss(), batches, single, batches[:4], batches[4:8], zero=True)


def test_a_gradient_is_that_of_switching_units_off_a_little():
    from rankings import gradient  # noqa: PLC0415 - from the folder of the experiment

    problem = small_problem()
    x, y = problem.single[0]
    residual = problem.model(x) - y
    expected = -2 * residual * problem.model[2].weight * x
    one = type(problem)(**{**vars(problem), "single": problem.single[:1]})
    torch.testing.assert_close(gradient(one, "gain"), expected[0].detach())
    torch.testing.assert_close(gradient(one, "mean absolute"), expected[0].abs().detach())
    all_rows = gradient(problem, "mean absolute")
    assert (all_rows >= gradient(problem, "absolute mean") - 1e-6).all()


@pytest.mark.parametrize("row", ["learned", "learned, sampled"])
def test_what_is_learned_is_the_order_of_the_units(row):
    from rankings import curve, scores  # noqa: PLC0415 - from the folder of the experiment

    problem = small_problem()
    found = scores(row, {"learning_rate": 0.1}, problem, 0)
    assert found.argsort(descending=True)[:2].tolist() == [2, 0]
    losses = curve(found, problem, [0.2, 0.4, 1.0], problem.test)
    assert losses["loss@0.2"] > losses["loss@0.4"] == pytest.approx(losses["loss@1"])
    assert losses["loss@1"] == pytest.approx(1, abs=1e-5)


def test_it_runs_and_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    import results_file  # noqa: PLC0415 - from the folder of the experiments
    import run  # noqa: PLC0415 - from the folder of the experiment

    monkeypatch.setattr(run, "load", lambda name, described, seed: small_problem())
    grid = described() | {"shares": [0.2, 1.0], "test": {"seeds": [0]}}
    results = tmp_path / "results.csv"
    run.run_problem("language model", grid, results, float("inf"))
    found = results_file.read(results)
    assert {line["seed"] for line in found} == {"0", "100"}
    run.run_problem("language model", grid, results, float("inf"))
    assert results_file.read(results) == found
    assert "| learned |" in run.publish(results, grid)
    run.run_problem("sentence encoder", grid, results, 0.0)  # no time left: nothing is begun
    assert results_file.read(results) == found
