"""SparseNetworkTask: trains to exactly k weights, evaluates at exactly k at any time, and resumes bit for bit."""

import copy

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from sparsek.callbacks import SparsityAnnealing
from sparsek.nn import MLP, ConvNet, sparsity
from sparsek.nn.sparsity import LearntScores, NOfM, Unstructured
from sparsek.tasks import SparseNetworkTask

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*The number of training batches"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*deprecated"),
    pytest.mark.filterwarnings("ignore:.*checkpoint directory.*exists"),
]
PATTERNS = [
    Unstructured(k=12),
    Unstructured(sparsity=0.9, per_layer=True),
    NOfM(1, 4),
    Unstructured(k=12, scores=LearntScores()),
]


def loader(real=False, rows=192):
    """The class, or the number, is in columns 2 and 7 of 12."""
    x = torch.randn(rows, 12, generator=torch.Generator().manual_seed(0))
    y = x[:, [2]] - x[:, [7]]
    return DataLoader(TensorDataset(x, y if real else (y > 0).long().squeeze(1)), batch_size=64)


def task(pattern=PATTERNS[0], outputs=2, **options):
    torch.manual_seed(0)
    return SparseNetworkTask(MLP(12, outputs, hidden=(8,)), pattern, **{"learning_rate": 0.05} | options)


def trainer(epochs=30, **options):
    quiet = {"logger": False, "enable_model_summary": False, "enable_progress_bar": False, "accelerator": "cpu"}
    return Trainer(
        max_epochs=epochs,
        **{"enable_checkpointing": False, "check_val_every_n_epoch": epochs, "num_sanity_val_steps": 0}
        | quiet
        | options,
    )


@pytest.mark.parametrize(("real", "outputs"), [(False, 2), (True, 1)])
def test_it_learns_with_exactly_k_weights(real, outputs):
    trained, run = task(outputs=outputs), trainer()
    run.fit(trained, loader(real), loader(real))
    assert run.callback_metrics["train/k"].item() == pytest.approx(12, abs=1e-4)
    measured = run.test(trained, loader(real), verbose=False)[0]
    assert measured["test/weights"] == 12
    assert measured["test/loss"] < 0.25
    assert set(measured) == {"test/loss", "test/weights", *([] if real else ["test/accuracy"])}
    used = trained.pruned().layers[0].weight.abs().sum(0)
    assert set(used.topk(2).indices.tolist()) == {2, 7}
    random = sparsity.remove(copy.deepcopy(task(outputs=outputs).network))  # the twin that was not trained
    assert trainer().test(SparseNetworkTask(random), loader(real), verbose=False)[0]["test/loss"] > 0.4


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_masks_are_annealed_with_the_steps_and_exact_in_every_validation(pattern):
    seen, counted = [], []

    class Watch(Callback):
        def on_before_optimizer_step(self, trainer, module, optimizer):
            parts = [part for _, _, part in sparsity.parametrizations(module)]
            seen.append({float(part.progress) for part in parts})

        def on_validation_end(self, trainer, module):
            counted.append(int(trainer.callback_metrics["val/weights"]))

    trained = task(pattern)
    expected = sparsity.count(trained.pruned())[0]
    trainer(2, callbacks=[Watch()], check_val_every_n_epoch=1).fit(trained, loader(), loader())
    assert [max(values) for values in seen] == pytest.approx([step / 5 for step in range(6)])
    assert all(len(values) == 1 for values in seen)
    assert counted == [expected, expected]
    assert sparsity.count(trained.pruned())[0] == expected


class StopAt(Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = trainer.global_step >= self.step


def test_a_run_that_was_stopped_early_ends_at_the_last_k():
    trained = task()
    trainer(50, callbacks=[StopAt(1)]).fit(trained, loader(), loader())
    assert {float(part.progress) for _, _, part in sparsity.parametrizations(trained)} == {1.0}


@pytest.mark.parametrize("pattern", [PATTERNS[0], PATTERNS[3]], ids=str)
def test_a_checkpoint_resumes_bit_for_bit(pattern, tmp_path):
    class Save(Callback):
        def on_train_epoch_end(self, trainer, module):
            if trainer.current_epoch == 1:
                trainer.save_checkpoint(tmp_path / "half.ckpt")

    whole = task(pattern)
    trainer(4, callbacks=[Save()]).fit(whole, loader(), loader())
    resumed = task(pattern)
    trainer(4).fit(resumed, loader(), loader(), ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_the_pruned_network_gives_the_outputs_of_evaluation_and_the_task_goes_on():
    trained = task().eval()
    x = next(iter(loader()))[0]
    assert torch.equal(trained.pruned()(x), trained(x))
    assert not any(True for _ in sparsity.parametrizations(trained.pruned()))
    assert len(list(sparsity.parametrizations(trained))) == 2


def test_the_callback_anneals_any_module_and_refuses_one_without_sparse_weights():
    class Own(LightningModule):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def training_step(self, batch, index):
            return self.model(batch[0]).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.01)

    own = Own(sparsity.parametrize(nn.Linear(12, 3), k=5))
    trainer(2, callbacks=[SparsityAnnealing()]).fit(own, loader())
    assert sparsity.count(own.eval()) == (5, 36)
    with pytest.raises(ValueError, match="model must have sparse tensors"):
        trainer(1, callbacks=[SparsityAnnealing()]).fit(Own(nn.Linear(12, 3)), loader())


def test_learnt_scores_have_their_own_rate_and_no_decay():
    trained, rates = task(PATTERNS[3], weight_decay=0.1, score_rate=0.3), {}

    class Watch(Callback):
        def on_train_start(self, trainer, module):
            for group in trainer.optimizers[0].param_groups:
                rates[group["initial_lr"], group["weight_decay"]] = len(group["params"])

    trainer(1, callbacks=[Watch()]).fit(trained, loader(), loader())
    assert rates == {(0.05, 0.1): 2, (0.05, 0.0): 2, (0.3, 0.0): 2}


def test_without_a_pattern_it_trains_all_weights():
    dense, run = task(None), trainer(2)
    run.fit(dense, loader(), loader())
    assert run.callback_metrics["val/weights"] == 12 * 8 + 8 * 2
    assert "train/k" not in run.callback_metrics


@pytest.mark.parametrize("arguments", [{"learning_rate": 0.0}, {"score_rate": -1.0}, {"weight_decay": -0.1}])
def test_a_bad_number_is_refused(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        task(**arguments)


def test_a_pattern_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="k must be at most the number of units, 112"):
        task(Unstructured(k=113))
    with pytest.raises(ValueError, match="exactly one of k and sparsity"):
        task(Unstructured())


def test_convolutions_halve_images_of_any_size():
    for image in ((28, 28), (7, 9), (1, 1)):
        network = ConvNet(image, 3, channels=(4, 4), hidden=())
        assert network(torch.zeros(2, 5, image[0] * image[1])).shape == (2, 5, 3)
    for arguments, name in (
        (((28,), 3), "image"),
        (((28, 0), 3), "image"),
        (((28, 28), 0), "out_features"),
        (((28, 28), 3, ()), "channels"),
    ):
        with pytest.raises(ValueError, match=name):
            ConvNet(*arguments)
