import math
from functools import partialmethod

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint

from sparsek.callbacks import RoutingRecord, RoutingRecorder, routing_figure
from sparsek.datamodules import Folder, TextDataModule
from sparsek.functional import bits_per_byte, gradient_snr
from sparsek.nn import DualBias, MoETransformer, Router, SwitchLoss
from sparsek.tasks import LanguageModelTask
from sparsek.tasks._optimisation import parameter_groups, warmup_cosine

# Lightning 2.6 asks torch for a name that torch 2.13 renames
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*deprecated")

WORDS = [b"the cat sat on the mat. ", b"def f(x): return x + 1\n", b"int main() { return 0; }\n"]


@pytest.fixture
def data(tmp_path):
    sources = []
    for name, words in zip(("cat", "python", "c"), WORDS, strict=True):
        root = tmp_path / name
        root.mkdir()
        for i in range(40):
            (root / f"{i}.txt").write_bytes(words * 5 + str(i).encode())
        sources.append(Folder(name, str(root)))
    return TextDataModule(sources, length=24, batch_size=4, steps_per_epoch=100, eval_windows=3)


def make_task(balancer=None, **arguments):
    seed_everything(0, verbose=False)
    network = MoETransformer(16, 2, 2, 16, 4, lambda d, e: Router(d, e, 2, balancer=balancer or DualBias(0.1)))
    return LanguageModelTask(network, **arguments)


def make_trainer(folder, steps, **arguments):
    defaults = {"logger": False, "enable_checkpointing": False, "callbacks": []}
    return Trainer(
        accelerator="cpu",
        max_steps=steps,
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        **(defaults | arguments),
    )


def test_training_lowers_the_loss_and_measures_what_it_says(data, tmp_path):
    task = make_task(learning_rate=2e-2)
    trainer = make_trainer(tmp_path, 40, limit_val_batches=0)
    (before,) = trainer.test(task, datamodule=data, verbose=False)
    trainer.fit(task, datamodule=data)
    (after,) = trainer.test(task, datamodule=data, verbose=False)
    assert before["test/bits_per_byte"] == pytest.approx(8, abs=0.2)
    assert after["test/bits_per_byte"] < 2.5
    names = {"bits_per_byte", "max_vio", "max_vio_batch", "load_cv", "utilisation", "unrouted", "router_entropy"}
    assert set(after) == {f"test/{name}" for name in names}
    batches = list(data.test_dataloader())
    task.eval()
    with torch.no_grad():
        bits = [bits_per_byte(task(b.tokens[:, :-1], b.mask).logits, b.tokens[:, 1:], b.mask) for b in batches]
    weights = torch.stack([b.mask.sum() for b in batches])
    expected = (torch.stack(bits) * weights).sum() / weights.sum()
    assert after["test/bits_per_byte"] == pytest.approx(expected.item(), rel=1e-5)


def test_the_bias_moves_once_per_optimizer_step_and_never_in_evaluation(data, tmp_path, monkeypatch):
    loads = []
    step = Router.step
    monkeypatch.setattr(Router, "step", lambda router: (loads.append(router.load.clone()), step(router)))
    task = make_task()
    trainer = make_trainer(tmp_path, 3, accumulate_grad_batches=4, val_check_interval=4)
    trainer.fit(task, datamodule=data)
    assert len(loads) == 3 * 2  # steps × layers, however many batches there were
    assert all(load.sum() == 4 * 4 * 24 * 2 for load in loads)  # batches × rows × bytes × k, all before the step
    kept = [router.bias.clone() for router in task.network.routers]
    assert any(bias.abs().max() > 0 for bias in kept)
    trainer.validate(task, datamodule=data, verbose=False)
    assert all(torch.equal(router.bias, bias) for router, bias in zip(task.network.routers, kept, strict=True))
    assert all(router.load.sum() == 0 for router in task.network.routers)


def test_the_losses_of_the_routers_are_in_the_objective(data):
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    objectives = []
    for balancer in (SwitchLoss(0.0), SwitchLoss(10.0)):
        task = make_task(balancer)
        task.log = lambda *arguments, **options: None
        objectives.append(task.training_step(batch, 0)["loss"])
    assert objectives[1] > objectives[0] + 2 * 10 * 0.9  # two layers, each at least about 1


def test_a_resumed_run_is_the_run_that_was_not_interrupted(data, tmp_path):
    def fit(task, **arguments):
        checkpoints = ModelCheckpoint(tmp_path / "kept", filename="{step}", every_n_train_steps=3, save_top_k=-1)
        trainer = make_trainer(tmp_path, 6, limit_val_batches=0, callbacks=[checkpoints], enable_checkpointing=True)
        trainer.fit(task, datamodule=data, **arguments)

    whole = make_task()
    fit(whole)
    resumed = make_task()
    with torch.no_grad():
        resumed.network.head.weight.normal_()  # must be overwritten
    path = tmp_path / "moved" / "step=3.ckpt"
    (tmp_path / "kept").rename(tmp_path / "moved")
    fit(resumed, ckpt_path=path, weights_only=True)
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], tensor, rtol=0, atol=0, msg=name)


# torch 2.13's compiler uses what torch has deprecated, and looks at the gradient of activations
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
def test_a_compiled_network_trains_as_the_eager_one_and_has_its_names(data, tmp_path, monkeypatch):
    monkeypatch.setattr(MoETransformer, "compile", partialmethod(MoETransformer.compile, backend="aot_eager"))
    tasks = [make_task(compile=compile) for compile in (False, True)]
    for task in tasks:
        trainer = make_trainer(tmp_path, 3, limit_val_batches=0)
        trainer.fit(task, datamodule=data)
        trainer.validate(task, datamodule=data, verbose=False)
    eager, compiled = tasks
    assert list(compiled.state_dict()) == list(eager.state_dict())
    for name, tensor in eager.state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[name], tensor, rtol=1e-4, atol=1e-5, msg=name)
    assert all(router.bias.abs().max() > 0 for router in compiled.network.routers)


def test_checkpoints_hold_plain_values_and_the_bias(data, tmp_path):
    task = make_task()
    trainer = make_trainer(tmp_path, 2)
    trainer.fit(task, datamodule=data)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    checkpoint = torch.load(tmp_path / "model.ckpt", weights_only=True)
    assert checkpoint["hyper_parameters"] == {"learning_rate": 3e-3, "weight_decay": 0.1, "warmup_fraction": 0.05}
    bias = checkpoint["state_dict"]["network.blocks.0.mixture.router.bias"]
    assert torch.equal(bias, task.network.routers[0].bias)
    assert bias.abs().max() > 0
    other = LanguageModelTask.load_from_checkpoint(
        tmp_path / "model.ckpt", network=make_task().network, weights_only=True
    )
    tokens = torch.randint(0, 256, (1, 10))
    assert torch.equal(other.eval()(tokens).logits, task.eval()(tokens).logits)


def test_the_recorder_keeps_load_over_time_and_by_kind_and_draws_it(data, tmp_path):
    from lightning.pytorch.loggers import CSVLogger  # noqa: PLC0415 - one test writes logs

    recorder = RoutingRecorder(every_n_steps=2)
    trainer = make_trainer(tmp_path, 6, callbacks=[recorder], logger=CSVLogger(tmp_path), val_check_interval=6)
    trainer.fit(make_task(), datamodule=data)
    folder = trainer.log_dir
    record = RoutingRecord.read(type(tmp_path)(folder))
    assert [step for step, _ in record.loss] == [2, 4, 6]
    assert len(record.load) == 3 * 2 * 4
    for step in (2, 4, 6):
        for layer in (0, 1):
            assert sum(s for t, n, _, s in record.load if (t, n) == (step, layer)) == pytest.approx(1, abs=1e-5)
    assert {domain for domain, *_ in record.domain} == {"cat", "python", "c"}
    assert len(record.domain) == 3 * 2 * 4
    assert {f"val/bits_per_byte/{kind}" for kind in ("cat", "python", "c")} <= set(trainer.callback_metrics)
    assert 0 <= trainer.callback_metrics["val/domain_information"] <= math.log2(3)
    picture = (type(tmp_path)(folder) / "routing.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(routing_figure({"one": record, "two": record}).axes) == 1 + 2 * 3 + 2  # loss, panels, colour bars
    assert f"corpus_digest: {data.corpus.digest}" in (type(tmp_path)(folder) / "hparams.yaml").read_text()


def test_the_recorder_measures_the_gradient_to_the_routers_before_clipping(data, tmp_path):
    seen = []

    class Keep(Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            seen.append(torch.stack([router.weight.grad.flatten() for router in pl_module.network.routers]))

    recorder = RoutingRecorder(snr_steps=3)
    trainer = make_trainer(tmp_path, 5, callbacks=[recorder, Keep()], limit_val_batches=0, gradient_clip_val=1e-3)
    trainer.fit(make_task(), datamodule=data)
    expected = gradient_snr(torch.stack(seen[:3])).mean()
    assert trainer.callback_metrics["train/router_gradient_snr"] == pytest.approx(expected.item(), rel=1e-4)
    assert seen[0].norm() > 1e-3


def test_weight_decay_spares_gains_and_embeddings():
    network = MoETransformer(16, 1, 2, 8, 4)
    decayed, spared = (group["params"] for group in parameter_groups(network, 0.1))
    assert len(decayed) + len(spared) == len(list(network.parameters()))
    assert all(parameter.dim() > 1 for parameter in decayed)
    embeddings = list(network.embedding.parameters())
    assert all(any(parameter is other for other in spared) for parameter in embeddings)


def test_the_schedule_rises_falls_and_stays_above_its_floor():
    factors = [warmup_cosine(step, total=100, warmup=10) for step in range(120)]
    assert factors[:11] == sorted(factors[:11])
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert max(factors) == 1
    assert min(factors[10:]) == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate must be finite and > 0, got 0.0"),
        ({"weight_decay": -1.0}, "weight_decay must be finite and >= 0, got -1.0"),
        ({"warmup_fraction": 1.0}, r"warmup_fraction must lie in \[0, 1\), got 1.0"),
    ],
)
def test_bad_input_is_one_clear_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_task(**arguments)


def test_bad_input_to_the_recorder():
    with pytest.raises(ValueError, match="every_n_steps must be at least 1, got 0"):
        RoutingRecorder(0)
    with pytest.raises(ValueError, match="snr_steps must be at least 2, got 1"):
        RoutingRecorder(snr_steps=1)
    with pytest.raises(ValueError, match="runs must hold at least one record"):
        routing_figure({})
