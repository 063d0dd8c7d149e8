import collections
import importlib.util
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from sparsek.datamodules import Xor
from sparsek.estimators import StraightThrough
from sparsek.nn import Marginals

FOLDER = Path(__file__).parents[2] / "experiments" / "03_feature_selection"
MODULES = (
    "comparison",
    "concrete",
    "figure",
    "methods",
    "peers",
    "plan",
    "results_file",
    "run",
    "selections",
    "slow_gate",
    "splits",
)

# Lightning 2.6 calls torch by names that torch 2.13 is about to drop
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*deprecated"),
    pytest.mark.usefixtures("experiment"),
]


@pytest.fixture
def tiny_grid(tmp_path):
    """Two small tables, three methods, two seeds."""
    xor = {"class_path": "sparsek.datamodules.Xor", "init_args": {"order": 2, "columns": 6, "rows": 80}}
    wine = {"class_path": "sparsek.datamodules.ScikitLearnTable", "init_args": {"name": "wine"}}
    grid = {
        "seeds": [0, 1],
        "validation_seed": 100,
        "tables": {"xor": {"k": 2, "drawn": True, "rank": True, "source": xor}, "wine": {"k": 3, "source": wine}},
        "methods": {
            "random": {"function": "random_columns"},
            "concrete": {"function": "concrete", "gate": True, "settings": [{"steps": 2, "rate": 0.1}, {"steps": 3}]},
            "gate": {"function": "annealed", "tables": ["xor"], "settings": [{"max_steps": 3}]},
        },
    }
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid, sort_keys=False))
    return grid


def start(tmp_path, monkeypatch, *words):
    given = [
        "--data.root",
        str(tmp_path),
        "--grid",
        str(tmp_path / "grid.yaml"),
        "--results",
        str(tmp_path / "out.csv"),
    ]
    monkeypatch.setattr(sys, "argv", ["run.py", *given, *words])
    runpy.run_path(str(FOLDER / "run.py"), run_name="__main__")


def test_rows_are_tuned_measured_compared_and_tabulated_and_nothing_runs_twice(
    tiny_grid, tmp_path, monkeypatch, capsys
):
    import results_file  # noqa: PLC0415 - from the folder of the experiment
    import selections  # noqa: PLC0415 - from the folder of the experiment
    from comparison import measured  # noqa: PLC0415 - from the folder of the experiment

    start(tmp_path, monkeypatch, "--rows", "xor: random", "--minutes", "0")
    assert not (tmp_path / "out.csv").exists()
    start(tmp_path, monkeypatch, "--rows", "xor: *")
    kept = (tmp_path / "out.csv").read_text()
    assert "concrete (wine)" in capsys.readouterr().out.splitlines()[-1]  # not run
    start(tmp_path, monkeypatch)
    assert (tmp_path / "out.csv").read_text().startswith(kept)
    lines = results_file.read(tmp_path / "out.csv")
    rows = measured(lines, tiny_grid)
    assert set(rows) == {(t, m) for m in ("random", "concrete") for t in ("xor", "wine")} | {("xor", "gate")}
    for (table, method), row in rows.items():
        tuned = {line["config"] for line in lines if line["row"] == f"{table}: {method}" and "val/" in line["metric"]}
        assert len(tuned) == (2 if method == "concrete" else 0)
        assert not tuned or row.config in tuned
        assert ("recall" in row.values) == ("rank" in row.values) == (table == "xor")
        assert all(0 <= value <= 1 for value in row.values["stability"].values())
        if method != "concrete":  # whose choices may meet
            assert set(row.values["selected"].values()) == {tiny_grid["tables"][table]["k"]}
    chosen = selections.read(tmp_path / "selections.csv")
    assert len(chosen) == 5 * 2
    assert all(columns for columns in chosen.values())
    printed = capsys.readouterr().out
    assert "| gate | max_steps=3 |" in printed
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    start(tmp_path, monkeypatch)
    assert results_file.read(tmp_path / "out.csv") == lines


def test_the_test_part_is_chosen_once_or_anew_for_each_seed():
    from splits import data_of  # noqa: PLC0415 - from the folder of the experiment

    wine = {"source": {"class_path": "sparsek.datamodules.ScikitLearnTable", "init_args": {"name": "wine"}}}
    first, second = (data_of(wine, ".", seed) for seed in (1, 2))
    assert first is second
    parts = [data_of(wine | {"resplit": True}, ".", seed) for seed in (1, 2, 1)]
    for data in parts:
        data.prepare_data()
    tests = [data.rows["test"].tolist() for data in parts]
    assert tests[0] == tests[2] != tests[1]


def line(row, seed, metric, value, config):
    return {"row": row, "seed": str(seed), "metric": metric, "value": str(value), "config": config, "step": "0"}


def test_the_setting_is_chosen_on_validation_alone_and_unfinished_rows_are_left_out(tiny_grid):
    from comparison import measured  # noqa: PLC0415 - from the folder of the experiment
    from plan import chosen, final_runs  # noqa: PLC0415 - from the folder of the experiment

    first, second = "k=2 steps=2 rate=0.1", "k=2 steps=3"
    lines = [
        line("xor: concrete", 100, f"val/accuracy_{name}", value, config)
        for config, values in ((first, (0.8, 0.5)), (second, (0.7, 0.7)))
        for name, value in zip(("extratrees", "mlp"), values, strict=True)
    ]
    lines += [line("xor: concrete", 0, "accuracy_mlp", 1.0, first)]  # the test part is not looked at
    assert chosen(tiny_grid, "xor", "concrete", lines) == {"steps": 3}
    assert [run.seed for run in final_runs(tiny_grid, "xor", "concrete", lines)] == [0, 1]
    metrics = ("accuracy_extratrees", "accuracy_mlp", "seconds", "stability")
    complete = [line("xor: concrete", seed, metric, 0.5, second) for seed in (0, 1) for metric in metrics]
    assert ("xor", "concrete") in measured(lines + complete, tiny_grid)
    for missing in range(len(complete)):
        assert not measured(lines + complete[:missing] + complete[missing + 1 :], tiny_grid)


def test_differences_are_paired_by_seed_with_the_t_interval_of_their_mean():
    from comparison import paired  # noqa: PLC0415 - from the folder of the experiment
    from scipy import stats  # noqa: PLC0415 - one test

    values = np.random.default_rng(0).standard_normal((2, 5))
    one, other = ({seed: float(value) for seed, value in enumerate(row)} for row in values)
    found = paired(one | {9: 100.0}, other)  # no such seed in the other
    interval = stats.ttest_1samp(values[0] - values[1], 0).confidence_interval(0.95)
    assert found.mean - found.half == pytest.approx(interval.low)
    assert found.mean + found.half == pytest.approx(interval.high)


def test_stability_is_the_mean_jaccard_index_with_the_others():
    from selections import stabilities  # noqa: PLC0415 - from the folder of the experiment

    found = stabilities([frozenset({0, 1}), frozenset({0, 1}), frozenset({1, 2})])
    assert found == pytest.approx([(1 + 1 / 3) / 2, (1 + 1 / 3) / 2, 1 / 3])


def test_a_concrete_layer_mixes_when_warm_and_picks_one_column_a_choice_when_cold():
    from concrete import ConcreteLayer  # noqa: PLC0415 - from the folder of the experiment

    torch.manual_seed(0)
    layer = ConcreteLayer(5, 3, start=10.0, end=1e-3)
    input = torch.eye(5)
    for progress, cold in ((0.0, False), (1.0, True)):
        layer.progress = progress
        weights = layer(input).T  # (choices, columns)
        torch.testing.assert_close(weights.sum(-1), torch.ones(3))
        assert bool((weights.max(-1).values > 0.99).all()) is cold
    assert torch.equal(layer.eval()(input), input[:, layer.logits.argmax(-1)])


def test_a_concrete_selector_finds_what_matters_and_leaves_the_generator_alone():
    from concrete import ConcreteSelector  # noqa: PLC0415 - from the folder of the experiment

    X = np.random.default_rng(0).standard_normal((300, 6))
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one, two = (ConcreteSelector(1, steps=80, random_state=4).fit(X, X[:, 2] > 0) for _ in range(2))
    assert one.get_support(indices=True).tolist() == two.get_support(indices=True).tolist() == [2]
    assert torch.equal(torch.get_rng_state(), before)
    assert len(ConcreteSelector(5, steps=20).fit(X, X[:, 2] > 0).get_support(indices=True)) <= 5


def test_what_is_relaxed_above_k_is_drawn_at_it():
    from methods import RelaxedAbove  # noqa: PLC0415 - from the folder of the experiment

    scores, mode = torch.tensor([[0.3, -1.0, 2.0, 0.1]]), RelaxedAbove(end=2)
    assert torch.equal(mode(scores, torch.tensor(2.5)), Marginals()(scores, torch.tensor(2.5)))
    draws = [
        each(scores, torch.tensor(2.0), generator=torch.Generator().manual_seed(1))
        for each in (mode, StraightThrough())
    ]
    assert torch.equal(*draws)
    assert sorted(draws[0][0].tolist()) == [0, 0, 1, 1]


@pytest.mark.parametrize(
    "method", ["random_columns", "f_test", "mutual_information", "recursive_elimination", "forest"]
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_every_filter_selects_k_columns(method):
    import methods  # noqa: PLC0415 - from the folder of the experiment

    table = Xor(1, columns=8, rows=60).read()
    support = getattr(methods, method)(3, 0).fit(table.X, table.y).get_support(indices=True)
    assert len(support) == 3
    assert method == "random_columns" or set(table.known) <= set(support)


def test_a_screened_gate_selects_among_what_the_forest_leaves():
    import methods  # noqa: PLC0415 - from the folder of the experiment

    table = Xor(1, columns=12, rows=60).read()
    selector = methods.screened(2, 0, share=3, max_steps=3).fit(table.X, table.y)
    left = selector.first.get_support(indices=True)
    assert len(left) == 6
    assert len(selector.get_support(indices=True)) == 2
    assert set(selector.get_support(indices=True)) <= set(left)


def test_a_slow_gate_reads_signs_alone_selects_k_columns_and_leaves_the_generator_alone():
    from slow_gate import SlowGate  # noqa: PLC0415 - from the folder of the experiment

    table = Xor(2, columns=8, rows=400).read()
    X = table.X - np.median(table.X, axis=0)
    before = torch.get_rng_state()
    one, two = (SlowGate(2, steps=200, hidden=32, random_state=1).fit(each, table.y) for each in (X, X**3))
    assert one.get_support(indices=True).tolist() == two.get_support(indices=True).tolist() == list(table.known)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_old_names_of_collections_are_there_for_the_time_of_a_call_only():
    from peers import old_collections  # noqa: PLC0415 - from the folder of the experiment

    before = set(vars(collections))
    with old_collections():
        assert collections.Mapping is collections.abc.Mapping
    assert set(vars(collections)) == before


@pytest.mark.parametrize(("package", "peer"), [("stg", "StochasticGates"), ("lassonet", "LassoPath")])
def test_the_packages_of_others_select_k_columns(package, peer):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package}, in the environment that peers.sh makes")
    import peers  # noqa: PLC0415 - from the folder of the experiment

    table = Xor(1, columns=6, rows=60).read()
    arguments = {"steps": 20} if peer == "StochasticGates" else {"iterations": (5, 2), "factor": 2.0}
    selector = getattr(peers, peer)(2, hidden=4, **arguments).fit(table.X, table.y)
    assert len(selector.get_support(indices=True)) == 2


def test_the_tables_of_the_readme_are_those_of_the_results_and_the_figure_is_drawn_again(tmp_path):
    import results_file  # noqa: PLC0415 - from the folder of the experiment
    from figure import draw, tables  # noqa: PLC0415 - from the folder of the experiment

    lines, grid = results_file.read(FOLDER / "results.csv"), yaml.safe_load((FOLDER / "grid.yaml").read_text())
    assert tables(lines, grid) in (FOLDER / "README.md").read_text()
    draw(lines, grid, tmp_path / "drawn.png")
    for path in (tmp_path / "drawn.png", FOLDER / "results.png"):
        assert path.read_bytes().startswith(b"\x89PNG")


def test_every_row_in_the_results_has_all_its_seeds_and_says_what_was_selected():
    import results_file  # noqa: PLC0415 - from the folder of the experiment
    import selections  # noqa: PLC0415 - from the folder of the experiment
    from comparison import measured  # noqa: PLC0415 - from the folder of the experiment
    from plan import seeds  # noqa: PLC0415 - from the folder of the experiment

    lines, grid = results_file.read(FOLDER / "results.csv"), yaml.safe_load((FOLDER / "grid.yaml").read_text())
    rows, chosen = measured(lines, grid), selections.read(FOLDER / "selections.csv")
    assert {line["row"] for line in lines} == {f"{table}: {method}" for table, method in rows}
    for (table, method), row in rows.items():
        columns = [chosen[f"{table}: {method}", seed, row.config] for seed in seeds(grid, method)]
        assert [len(each) for each in columns] == [int(row.values["selected"][seed]) for seed in seeds(grid, method)]
        assert selections.stabilities(columns) == pytest.approx([*row.values["stability"].values()], rel=1e-4)
        if method.startswith("sparsek"):
            assert {len(each) for each in columns} == {grid["tables"][table]["k"]}


def test_every_table_has_a_row_of_random_columns_and_gates_are_tuned_over_equally_many_settings():
    import results_file  # noqa: PLC0415 - from the folder of the experiment
    from comparison import measured  # noqa: PLC0415 - from the folder of the experiment
    from plan import settings  # noqa: PLC0415 - from the folder of the experiment

    grid = yaml.safe_load((FOLDER / "grid.yaml").read_text())
    rows = measured(results_file.read(FOLDER / "results.csv"), grid)
    assert {table for table, _ in rows} == {table for table, method in rows if method == "random"}
    tuned = {method: len(settings(grid, method)) for method in grid["methods"]}
    assert {tuned[method] for method in ("STG", "concrete selector", "sparsek, k annealed", "sparsek, relaxed")} == {3}
