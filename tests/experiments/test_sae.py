import csv
import hashlib
import runpy
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

FOLDER = Path(__file__).parents[2] / "experiments" / "02_sae"

# Lightning 2.6 calls torch by a name that torch 2.13 is about to drop
pytestmark = [pytest.mark.filterwarnings("ignore:.*LeafSpec.*deprecated"), pytest.mark.usefixtures("sae")]


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Tokens of a small sparse model, a grid of three rows, and no peers."""
    folder = tmp_path_factory.mktemp("sae")
    (folder / "quick").mkdir()
    generator = torch.Generator().manual_seed(0)
    codes = torch.rand(4000, 32, generator=generator) * (torch.rand(4000, 32, generator=generator) < 0.1)
    tokens = codes @ torch.randn(32, 12, generator=generator) + 3
    document = torch.arange(4000, dtype=torch.int32) // 40
    save_file({"activations": tokens, "document": document}, folder / "quick" / "0.safetensors")
    grid = yaml.safe_load((FOLDER / "grid.yaml").read_text())
    names = ["nested top-k", "batch top-k", "JumpReLU"]
    sizes = {"d_sae": 48, "k": 4, "batch_size": 64, "levels": [2, 4, 8], "threshold_l0": 4, "eval_tokens": 200}
    rows = {name: dict(grid["rows"][name]) for name in names}
    for name in names[:2]:
        rows[name]["selection"] = grid["rows"][name]["selection"] | {"init_args": {"k": 4}}
    lengths = {"quick": {"part": "quick", "steps": 12, "seeds": [0, 1], "learning_rates": [1e-3, 1e-2]}}
    grid |= sizes | {
        "rows": rows,
        "lengths": lengths,
        "dead_tokens": 500,
        "reference": names[0],
        "several": [],
        "task": {},
    }
    (folder / "grid.yaml").write_text(yaml.safe_dump(grid, sort_keys=False))
    return folder, grid


def start(folder, monkeypatch, *words):
    given = ["--activations", str(folder), "--grid", str(folder / "grid.yaml"), "--results", str(folder / "out.csv")]
    monkeypatch.setattr(sys, "argv", ["run.py", *given, *words])
    runpy.run_path(str(FOLDER / "run.py"), run_name="__main__")


def test_rows_are_tuned_tested_and_tabulated_and_nothing_runs_twice(tiny, monkeypatch, capsys):
    folder, grid = tiny
    first, *_ = grid["rows"]
    start(folder, monkeypatch, "--rows", first)
    kept = (folder / "out.csv").read_text()
    start(folder, monkeypatch)
    assert (folder / "out.csv").read_text().startswith(kept)
    lines = rows_of(folder / "out.csv")
    metrics = {f"fvu_{word}k{k}" for k in (2, 4, 8) for word in ("", "refined_")} | {
        "fvu_threshold_l0_4",
        "l0_threshold",
        "dead",
        "step_ms",
    }
    for row, described in grid["rows"].items():
        mine = [line for line in lines if line["row"] == row]
        tried = {line["config"] for line in mine if line["seed"] == "0"}
        assert len(tried) == len(described.get("coefficients", [0])) * len(described.get("learning_rates", [0, 0]))
        assert len({line["config"] for line in mine if line["seed"] == "1"}) == 1
        for seed in "01":
            assert metrics | {"val/fvu_k4"} <= {line["metric"] for line in mine if line["seed"] == seed}
    found = {line["metric"]: float(line["value"]) for line in lines if line["row"] == first and line["seed"] == "1"}
    assert 0 < found["fvu_k8"] < found["fvu_k4"] < found["fvu_k2"] < 2
    assert found["step_ms"] > 0
    assert f"| {first} | lr " in capsys.readouterr().out
    assert (folder / "out.png").read_bytes().startswith(b"\x89PNG")
    start(folder, monkeypatch)
    assert len(rows_of(folder / "out.csv")) == len(lines)


def test_the_choice_is_made_on_validation_at_the_k_of_the_row():
    from plan import final_runs, tuning_runs  # noqa: PLC0415 - from the folder of the experiment

    grid = {
        "k": 32,
        "rows": {"a": {"k": 8}},
        "lengths": {"quick": {"part": "quick", "steps": 4, "seeds": [0, 1], "learning_rates": [0.1, 0.2]}},
    }
    tried = list(tuning_runs(grid, "a", "quick"))
    lines = []
    for run, validation, test in zip(tried, (0.5, 0.4), (0.1, 0.9), strict=True):
        assert list(final_runs(grid, "a", "quick", lines)) == []  # not before all were tried
        for metric, value in (("val/fvu_k8", validation), ("val/fvu_k32", -validation), ("fvu_k8", test)):
            line = {"row": "a", "seed": "0", "step": "4", "config": run.config, "metric": metric, "value": str(value)}
            lines.append(line)
    assert [run.learning_rate for run in final_runs(grid, "a", "quick", lines)] == [0.2, 0.2]
    diverged = [line | {"value": "nan"} if "=0.2" in line["config"] else line for line in lines]
    assert [run.learning_rate for run in final_runs(grid, "a", "quick", diverged)] == [0.1, 0.1]


def test_a_peer_trains_on_the_tokens_that_a_row_of_this_package_sees(tiny):
    from train import ordered_tokens  # noqa: PLC0415 - from the folder of the experiment

    from sparsek.datamodules import ActivationDataModule  # noqa: PLC0415 - after the fixture's imports

    folder, _ = tiny
    data = ActivationDataModule(folder / "quick", batch_size=64, seed=5)
    loader, seen = data.train_dataloader(), []
    while len(seen) < 60:  # more than one epoch
        seen += [batch.input for batch in loader]
    assert torch.equal(ordered_tokens(data, 60), torch.cat(seen[:60]).half())


def test_weights_of_a_peer_give_its_own_reconstructions():
    from train import imported  # noqa: PLC0415 - from the folder of the experiment

    torch.manual_seed(0)
    encoder, bias, decoder, centre = torch.randn(30, 6), torch.randn(30), 3 * torch.randn(30, 6), torch.randn(6)
    names = ("encoder_weight", "encoder_bias", "decoder_weight", "decoder_bias")
    weights = dict(zip(names, (encoder, bias, decoder, centre), strict=True)) | {"step_ms": torch.tensor(5.0)}
    trained = imported(weights, 4)
    x = torch.randn(9, 6)
    pre = (x - centre) @ encoder.T + bias
    ranked = (pre * decoder.norm(dim=1)).topk(4, dim=-1).indices  # by contribution, as SAELens ranks
    expected = torch.zeros_like(pre).scatter(-1, ranked, pre.gather(-1, ranked).relu()) @ decoder + centre
    torch.testing.assert_close(trained.autoencoder(x).reconstruction, expected, rtol=1e-5, atol=1e-5)
    assert trained.step_ms == 5


def test_differences_are_paired_by_seed_with_the_t_interval_of_their_mean():
    from comparison import Tested, paired  # noqa: PLC0415 - from the folder of the experiment
    from scipy import stats  # noqa: PLC0415 - one test

    generator = torch.Generator().manual_seed(0)
    other = {seed: {"dead": float(torch.randn((), generator=generator))} for seed in range(4)}
    mine = {seed: {"dead": value["dead"] + 0.1 * seed * (-1) ** seed} for seed, value in other.items()} | {
        9: {"dead": 1e3}
    }
    found = paired(Tested(None, mine), Tested(None, other), "dead")
    interval = stats.ttest_1samp([0.1 * seed * (-1) ** seed for seed in range(4)], 0).confidence_interval(0.95)
    assert found.mean - found.half == pytest.approx(interval.low)
    assert found.mean + found.half == pytest.approx(interval.high)


def test_the_geometric_mean_is_that_of_all_k_of_the_test_split():
    from comparison import Tested  # noqa: PLC0415 - from the folder of the experiment

    values = {"fvu_k4": 0.4, "fvu_k8": 0.1, "val/fvu_k4": 9.0, "fvu_threshold_l0_32": 7.0}
    assert Tested(None, {0: values}).mean("gmean") == pytest.approx(0.2)


def test_a_row_that_is_trained_with_refined_values_is_read_so():
    from comparison import tested_rows  # noqa: PLC0415 - from the folder of the experiment
    from figure import tables  # noqa: PLC0415 - with it
    from plan import Run, criterion  # noqa: PLC0415 - with it

    rows = {"several": {"refinement": {}}, "one": {"k": 4}, "two": {"k": 8}}
    length = {"part": "quick", "steps": 4, "seeds": [0], "learning_rates": [0.1]}
    grid = {"k": 8, "rows": rows, "several": ["several"], "single": {4: "one", 8: "two"}, "lengths": {"quick": length}}
    grid |= {"threshold_l0": 8, "reference": "one", "levels": [4, 8]}
    assert [criterion(grid, row) for row in rows] == ["fvu_refined_k8", "fvu_k4", "fvu_k8"]
    plain, better = {"k4": 0.4, "k8": 0.2, "threshold_l0_8": 0.3}, {"k4": 0.3, "k8": 0.1, "threshold_l0_8": 0.2}
    found = {f"fvu_{name}": value for name, value in plain.items()}
    found |= {f"fvu_refined_{name}": value for name, value in better.items()}
    found |= {f"val/{name}": value for name, value in found.items()} | {"dead": 0.0, "step_ms": 1.0, "l0_threshold": 8}
    config = Run("", 0, 4, 0.1).config
    lines = [
        {"row": row, "seed": "0", "step": "4", "config": config, "metric": metric, "value": str(value)}
        for row in rows
        for metric, value in found.items()
    ]
    tested = tested_rows(lines, grid, "quick")
    assert [round(tested[row].mean("fvu_k8"), 9) for row in rows] == [0.1, 0.2, 0.2]
    assert tested["several"].mean("gmean") == pytest.approx((0.3 * 0.1) ** 0.5)
    assert tested["one"].read_refined().mean("fvu_threshold_l0_8") == 0.2
    assert "| several | -25.0 | -50.0 |" in tables(lines, grid)
    assert "| several; both refined | +0.0 | +0.0 |" in tables(lines, grid)


def test_refined_errors_are_those_of_refined_codes(tiny):
    from measure import at_threshold, by_k  # noqa: PLC0415 - from the folder of the experiment

    from sparsek.functional import fvu  # noqa: PLC0415 - with it
    from sparsek.nn import SparseAutoencoder, TopK  # noqa: PLC0415 - with it

    torch.manual_seed(0)
    sae, x = SparseAutoencoder(12, 48, TopK(4)).eval().requires_grad_(False), torch.randn(100, 12)
    found = by_k(sae, [(x[:60], x[:60]), (x[60:], x[60:])], [2, 4]) | at_threshold(sae, [(x, x)], 0.5, 4)
    for steps, word in enumerate(("", "refined_")):
        for k in (2, 4):
            expected = fvu(sae.decode(sae.encode(x, k=k, refine=steps)), x)
            assert found[f"fvu_{word}k{k}"] == pytest.approx(float(expected), rel=1e-5)
        expected = fvu(sae.decode(sae.encode(x, threshold=0.5, refine=steps)), x)
        assert found[f"fvu_{word}threshold_l0_4"] == pytest.approx(float(expected), rel=1e-5)
    assert found["fvu_refined_k4"] < found["fvu_k4"]


def test_the_tables_of_the_readme_are_those_of_the_results_and_the_figure_is_drawn_again(tmp_path):
    import results_file  # noqa: PLC0415 - from the folder of the experiment
    from figure import draw, tables  # noqa: PLC0415 - from the folder of the experiment

    lines = results_file.read(FOLDER / "results.csv")
    grid = yaml.safe_load((FOLDER / "grid.yaml").read_text())
    assert tables(lines, grid) in (FOLDER / "README.md").read_text()
    for name in ("one.png", "two.png"):
        draw(lines, grid, tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert (FOLDER / "results.png").read_bytes().startswith(b"\x89PNG")


def test_every_row_was_tuned_over_as_many_settings():
    from plan import tuning_runs  # noqa: PLC0415 - from the folder of the experiment

    grid = yaml.safe_load((FOLDER / "grid.yaml").read_text())
    assert {len(list(tuning_runs(grid, row, "quick"))) for row in grid["rows"]} == {3}
    assert {line["row"] for line in rows_of(FOLDER / "results.csv")} <= set(grid["rows"])


def test_every_selection_of_the_grid_is_one():
    from plan import selection, tuning_runs  # noqa: PLC0415 - from the folder of the experiment

    grid = yaml.safe_load((FOLDER / "grid.yaml").read_text())
    for row, described in grid["rows"].items():
        if "peer" not in described:
            for run in tuning_runs(grid, row, "quick"):
                selection(described, run.coefficient).check(grid["d_sae"])


def test_documentation_is_docstrings_and_comments():
    from library import documentation  # noqa: PLC0415 - from the folder of the experiment

    source = b'"""Module."""\n# a remark\nx = 1  # another\n\n\ndef f():\n    """Function."""\n    return "no doc"\n'
    assert documentation(source) == "Module.\n\nFunction.\n\na remark\nanother"


def test_a_probe_finds_the_latents_that_tell_the_classes_and_sees_training_documents_alone():
    from probing import probe  # noqa: PLC0415 - from the folder of the experiment

    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (600,), generator=generator)
    features = torch.rand(600, 40, generator=generator)
    features[:, 7] += labels
    features[:, 30] -= labels * 0.5
    train = torch.arange(600) < 300
    found = probe(features, labels, train, 1)
    assert found["accuracy_1"] > 0.95
    assert probe(features, labels, train, 5)["auc_5"] > found["auc_1"] - 0.02
    swapped = torch.where(train, labels, 1 - labels)  # the other documents have the opposite labels
    assert probe(features, swapped, train, 1)["accuracy_1"] < 0.05


def test_films_that_were_chosen_by_their_hash_are_split_by_another():
    from probing import is_for_training  # noqa: PLC0415 - from the folder of the experiment

    films = [f"film {i}" for i in range(2000)]
    chosen = sorted(films, key=lambda film: hashlib.sha256(film.encode()).digest())[:400]
    share = sum(map(is_for_training, chosen)) / 400
    assert abs(share - 0.5) < 4 * (0.25 / 400) ** 0.5  # z = 4


def test_pooling_is_the_mean_over_the_tokens_of_a_document_without_masked_ones(tmp_path):
    from probing import pooled  # noqa: PLC0415 - from the folder of the experiment

    from sparsek.datamodules._activation_shards import open_store  # noqa: PLC0415 - with it
    from sparsek.nn import SparseAutoencoder, TopK  # noqa: PLC0415 - with it

    tokens = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    document, mask = torch.arange(50, dtype=torch.int32) // 7, torch.arange(50) % 5 > 0
    save_file({"activations": tokens, "document": document, "mask": mask}, tmp_path / "0.safetensors")
    store = open_store(tmp_path)
    autoencoder = SparseAutoencoder(6, 20, TopK(3))
    values, indices = autoencoder.encode(tokens)
    dense = torch.zeros(50, 20).scatter(1, indices, values.detach())
    for features, found in ((dense, pooled(store, autoencoder)), (tokens, pooled(store, None))):
        expected = torch.stack([features[(document == i) & mask].mean(0) for i in range(8)])
        torch.testing.assert_close(found, expected)


def test_the_offset_is_of_its_length_and_the_rest_of_a_shard_stays(tmp_path):
    from offset import write  # noqa: PLC0415 - from the folder of the experiment
    from safetensors.torch import load_file  # noqa: PLC0415 - with it

    from sparsek.datamodules._activation_manifest import ActivationManifest, write_manifest  # noqa: PLC0415 - with it

    tokens = torch.randn(400, 16, generator=torch.Generator().manual_seed(0))
    (tmp_path / "quick").mkdir()
    save_file(
        {"activations": tokens, "mask": torch.ones(400, dtype=torch.bool)}, tmp_path / "quick" / "000000.safetensors"
    )
    names = {"model": "m", "model_digest": "", "where": (), "text_digest": "", "documents": ("d",), "dtype": "float32"}
    manifest = ActivationManifest(**names, length=8, shard_tokens=400, shape=(16,), rows=(400,), complete=True)
    write_manifest(tmp_path / "quick", manifest)
    assert write(tmp_path / "quick", tmp_path / "offset", gamma=3.0) == manifest
    moved = load_file(tmp_path / "offset" / "000000.safetensors")
    added = moved["activations"] - tokens
    torch.testing.assert_close(added, added[0].expand(400, 16), rtol=1e-4, atol=1e-4)
    spread = (tokens - tokens.mean(0)).square().sum(1).mean().sqrt()
    torch.testing.assert_close(added[0].norm(), 3 * spread, rtol=1e-4, atol=1e-4)
    assert bool(moved["mask"].all())


def test_kept_weights_are_read_again(tmp_path):
    import models  # noqa: PLC0415 - from the folder of the experiment
    from plan import Run  # noqa: PLC0415 - from the folder of the experiment

    from sparsek.nn import SparseAutoencoder, TopK  # noqa: PLC0415 - with it

    run, other = Run("a", 0, 4, 0.1), Run("a", 1, 4, 0.1)
    autoencoder, x = SparseAutoencoder(6, 20, TopK(3)).eval(), torch.randn(5, 6)
    models.save(autoencoder, run, tmp_path)
    assert torch.equal(models.load(run, tmp_path, 3)(x).reconstruction, autoencoder(x).reconstruction)
    with pytest.raises(ValueError, match="are not in"):
        models.load(other, tmp_path, 3)
