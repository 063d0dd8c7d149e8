import sys
from pathlib import Path

import pytest
import torch

from sparsek.cli import main, run
from sparsek.nn import SigmoidTopKGate

ROOT = Path(__file__).parents[2]
TEXT = ROOT / "configs" / "moe" / "text.yaml"
OVERLAYS = sorted(
    path.relative_to(ROOT)
    for folder in ("logger", "moe", "selector")  # those of other tasks have tests of their own
    for path in (ROOT / "configs" / folder).glob("*.yaml")
    if path != TEXT
)
NETWORK = "--model.init_args.network.init_args"

# Lightning 2.6 calls torch and jsonargparse by names that torch 2.13 and jsonargparse 4.53 are about to drop
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*deprecated"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    """Run in a folder with nothing in it but some text, and without the words of pytest's own command line."""
    text = tmp_path / "text"
    text.mkdir()
    for i in range(40):
        (text / f"{i}.txt").write_bytes(b"some words that come again and again, number %d. " % i * 4)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(sys, "argv", ["sparsek"])
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")


def words(command, *configs, root="../text", steps=2):
    source = f'{{"class_path": "sparsek.datamodules.Folder", "init_args": {{"name": "own", "root": "{root}"}}}}'
    return [
        command,
        *(word for config in (TEXT, *configs) for word in ("-c", str(ROOT / config))),
        *(f"{NETWORK}.{name}={size}" for name, size in {"d_model": 16, "num_layers": 1, "num_heads": 2}.items()),
        *(f"{NETWORK}.{name}={size}" for name, size in {"d_hidden": 8, "num_experts": 4}.items()),
        f"--data.init_args.sources=[{source}]",
        "--data.init_args.length=16",
        "--data.init_args.batch_size=2",
        "--data.init_args.eval_windows=2",
        "--trainer.accelerator=cpu",
        f"--trainer.max_steps={steps}",
        f"--trainer.val_check_interval={steps}",
        "--trainer.log_every_n_steps=1",
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false",
    ]


def nothing_written():
    return not any(Path().iterdir())


@pytest.mark.parametrize("overlay", [None, *OVERLAYS], ids=lambda path: path.stem if path else "alone")
def test_every_configuration_runs(overlay):
    configs = [] if overlay is None else [overlay]
    eager = ["--model.init_args.compile=false"]  # compiling has a test of its own
    cli = run([*words("fit", *configs), *eager, "--trainer.fast_dev_run=true"])
    assert cli.trainer.state.finished
    assert torch.isfinite(cli.trainer.callback_metrics["val/bits_per_byte"])


@pytest.mark.slow  # a minute of compiling
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
def test_the_large_configuration_is_in_bfloat16_and_compiled():
    cli = run([*words("fit", "configs/moe/large.yaml"), "--trainer.fast_dev_run=true"])
    assert cli.trainer.precision == "bf16-mixed"
    assert torch.isfinite(cli.trainer.callback_metrics["val/bits_per_byte"])


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_half_precision_trains_and_keeps_the_bias_in_full(precision):
    cli = run([*words("fit", "configs/selector/sigmoid_topk.yaml", steps=3), f"--trainer.precision={precision}"])
    router = cli.model.network.routers[0]
    assert router.bias.dtype == torch.float32
    assert router.weight.dtype == (torch.bfloat16 if precision == "bf16-true" else torch.float32)
    assert router.bias.abs().max() > 0
    assert 0 < cli.trainer.callback_metrics["val/bits_per_byte"] < 9


def test_the_main_configuration_names_the_text_that_every_machine_has():
    cli = run(["fit", "-c", str(TEXT), f"{NETWORK}.d_model=16", f"{NETWORK}.num_layers=1", "--trainer.fast_dev_run=true",
               "--trainer.accelerator=cpu", "--data.init_args.length=16", "--trainer.enable_progress_bar=false"])  # fmt: skip
    assert cli.datamodule.domains == ("python", "english", "c++")


def test_overlays_choose_the_parts_by_class_path():
    parts = {}
    for name in ("sigmoid_topk", "softmax_switch", "sampled"):
        cli = run([*words("fit", f"configs/selector/{name}.yaml"), "--trainer.fast_dev_run=true"])
        router = cli.model.network.routers[0]
        parts[name] = tuple(type(part).__name__ for part in (router.gate, router.selection, router.balancer))
    assert parts == {
        "sigmoid_topk": ("SigmoidTopKGate", "HardTopK", "DualBias"),
        "softmax_switch": ("SoftmaxGate", "HardTopK", "SwitchLoss"),
        "sampled": ("SigmoidTopKGate", "Sampled", "DualBias"),
    }


@pytest.mark.parametrize("temperature", [0.25, 1.0])
@pytest.mark.parametrize("balancer", ["DualBias", "SwitchLoss"])
def test_the_temperature_of_the_gate_and_the_balancer_are_chosen_apart(temperature, balancer):
    router = f"{NETWORK}.router.init_args"
    chosen = [f"{router}.gate.init_args.temperature={temperature}", f"{router}.balancer=sparsek.nn.{balancer}"]
    cli = run([*words("fit", "configs/selector/sigmoid_topk.yaml"), *chosen, "--trainer.fast_dev_run=true"])
    found = cli.model.network.routers[0]
    assert (found.gate, type(found.balancer).__name__) == (SigmoidTopKGate(temperature), balancer)


# a new run keeps its checkpoints in a folder of its own, and Lightning says so
@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_fit_then_validate_test_and_resume_from_its_checkpoint():
    selector = "configs/selector/sigmoid_topk.yaml"
    fitted = run(words("fit", selector))
    folder = Path(fitted.trainer.log_dir)
    assert {"metrics.csv", "config.yaml", "hparams.yaml", "routing.png"} <= {path.name for path in folder.iterdir()}
    (checkpoint,) = folder.rglob("*.ckpt")
    torch.load(checkpoint, weights_only=True)
    for command in ("validate", "test"):
        cli = run([*words(command, selector), f"--ckpt_path={checkpoint}", "--weights_only=true"])
        for name, tensor in fitted.model.state_dict().items():
            assert torch.equal(cli.model.state_dict()[name], tensor)
    assert cli.trainer.callback_metrics["test/bits_per_byte"] < 9
    resumed = run([*words("fit", selector, steps=3), f"--ckpt_path={checkpoint}", "--weights_only=true"])
    assert resumed.trainer.global_step == 3


def test_a_run_can_be_repeated_from_the_configuration_that_it_saved():
    first = run(words("fit", "configs/selector/softmax_switch.yaml"))
    second = run(["fit", "-c", f"{first.trainer.log_dir}/config.yaml"])
    for name, tensor in first.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[name], tensor)


def test_wandb_logs_offline_by_one_overlay():
    wandb = pytest.importorskip("wandb")
    run(words("fit", "configs/logger/wandb.yaml"))
    wandb.teardown()
    assert list(Path("runs").rglob("offline-run-*/*.wandb"))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--trainer.max_stepz=3"], "max_stepz"),
        ([f"{NETWORK}.d_modle=16"], "d_modle"),
        (["--model.class_path=sparsek.tasks.NoSuchTask"], "NoSuchTask"),
        (["-c", "missing.yaml"], "missing.yaml"),
        (["--ckpt_path=missing.ckpt"], "'missing.ckpt', which is not there"),
    ],
)
def test_a_wrong_word_is_one_clear_error_and_nothing_is_written(extra, message, capsys):
    with pytest.raises(SystemExit) as exit_status:
        run([*words("fit"), *extra])
    assert exit_status.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert "usage" not in error
    assert nothing_written()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut short"], ids=["empty", "text", "cut"])
def test_a_corrupt_checkpoint_is_one_clear_error_and_nothing_is_written(content, capsys):
    Path("../bad.ckpt").write_bytes(content)
    with pytest.raises(SystemExit):
        run([*words("test"), "--ckpt_path=../bad.ckpt"])
    assert "'../bad.ckpt' cannot be read as a checkpoint" in capsys.readouterr().err
    assert nothing_written()


def test_a_checkpoint_that_would_run_code_is_refused(capsys):
    torch.save({"state_dict": {}, "code": print}, "../bad.ckpt")
    with pytest.raises(SystemExit):
        run([*words("test"), "--ckpt_path=../bad.ckpt"])
    assert "cannot be read as a checkpoint" in capsys.readouterr().err


def test_a_file_without_weights_is_refused(capsys):
    torch.save({"weights": torch.zeros(2)}, "../bad.ckpt")
    with pytest.raises(SystemExit):
        run([*words("test"), "--ckpt_path=../bad.ckpt"])
    assert "holds no state_dict" in capsys.readouterr().err


@pytest.mark.parametrize("root", ["../missing", "../work"])
def test_an_empty_corpus_is_one_clear_error_and_nothing_is_written(root):
    with pytest.raises(ValueError, match="text source 'own'"):
        run(words("fit", root=root))
    assert nothing_written()


def test_the_command_has_a_help_that_names_its_commands(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["sparsek", "--help"])
    with pytest.raises(SystemExit) as exit_status:
        main()
    assert exit_status.value.code == 0
    output = capsys.readouterr().out
    assert all(command in output for command in ("fit", "validate", "test"))
