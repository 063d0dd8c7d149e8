"""NearestNeighbourTask: learns a metric that hides noise, compares with the rows it trained on, keeps them in checkpoints."""

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn
from torch.nn.functional import one_hot
from torch.utils.data import DataLoader, TensorDataset

from sparsek.estimators import StraightThrough
from sparsek.functional import sigmoid_topk
from sparsek.nn import DifferentiableKNN
from sparsek.relaxations import SuccessiveSoftmax
from sparsek.sampling import Pivotal
from sparsek.tasks import NearestNeighbourTask

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*The number of training batches"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*deprecated"),
]


def table(seed, rows=240):
    """The first of six columns decides, the others are five times as large."""
    x = torch.randn(rows, 6, generator=torch.Generator().manual_seed(seed)) * torch.tensor([1.0, 5, 5, 5, 5, 5])
    return TensorDataset(x, (x[:, 0] > 0).long())


def trainer(epochs, **options):
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_model_summary": False,
        "enable_progress_bar": False,
    }
    return Trainer(max_epochs=epochs, accelerator="cpu", check_val_every_n_epoch=epochs, **{**quiet, **options})


def task_of(smoothing=0.01, **parts):
    torch.manual_seed(0)
    knn = DifferentiableKNN(**{"k": 5, "embedding": nn.Linear(6, 1, bias=False), **parts})
    return NearestNeighbourTask(knn, classes=2, learning_rate=0.05, weight_decay=0.0, smoothing=smoothing)


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"design": Pivotal(), "estimator": StraightThrough(), "smoothing": 0.1},
        {"k": 1, "relaxation": SuccessiveSoftmax()},
    ],
    ids=["sigmoid top-k", "sampled", "softmax"],
)
def test_a_metric_is_learnt_that_hides_noise(parts):
    task, run = task_of(**parts), trainer(60)
    run.fit(task, DataLoader(table(0), 120, shuffle=True), DataLoader(table(1), 100))
    assert {"train/loss", "val/loss", "val/accuracy"} <= set(run.callback_metrics)
    learnt = run.test(task, DataLoader(table(2), 100), verbose=False)[0]["test/accuracy"]
    plain = NearestNeighbourTask(DifferentiableKNN(5), classes=2)
    plain.remember([table(0).tensors])
    unlearnt = trainer(1).test(plain, DataLoader(table(2), 100), verbose=False)[0]["test/accuracy"]
    assert learnt > 0.85 > unlearnt
    weight = task.neighbours.embedding.weight.detach().abs().squeeze()
    assert weight[0] > 3 * weight[1:].max()


def test_the_loss_is_that_of_a_row_among_the_others_of_its_batch():
    task = task_of(embedding=None)
    task.log = lambda *arguments, **options: None
    rows, target = (part[:20].double() if part.is_floating_point() else part[:20] for part in table(0).tensors)
    distances = torch.cdist(rows, rows).square().fill_diagonal_(torch.inf)
    probs = sigmoid_topk(-distances, 5) @ one_hot(target, 2).double() / 5
    expected = -(0.99 * probs[torch.arange(20), target] + 0.005).log().mean()
    torch.testing.assert_close(task.training_step((rows, target), 0), expected)
    alone = task.training_step((rows[:6], torch.tensor([0, 1, 1, 1, 1, 1])), 0)  # no neighbour of the first one's class
    assert alone.isfinite()


def test_the_rows_of_the_last_pass_are_the_references_and_a_checkpoint_holds_them(tmp_path):
    task, run = task_of(), trainer(2, num_sanity_val_steps=1)
    run.fit(task, DataLoader(table(0), 100, shuffle=True), DataLoader(table(1), 100))
    x, y = table(0).tensors
    order = task.references[:, 1].argsort()
    assert torch.equal(task.references[order], x[x[:, 1].argsort()])
    assert torch.equal(task.labels[order], y[x[:, 1].argsort()])
    run.save_checkpoint(tmp_path / "task.ckpt")
    fresh = NearestNeighbourTask.load_from_checkpoint(
        tmp_path / "task.ckpt", neighbours=DifferentiableKNN(5, nn.Linear(6, 1, bias=False)), weights_only=True
    )
    queries = table(3).tensors[0][:7]
    assert torch.equal(fresh.eval()(queries), task.eval()(queries))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": 1}, "classes must be a whole number >= 2, got 1"),
        ({"classes": 2, "learning_rate": 0.0}, "learning_rate must be"),
        ({"classes": 2, "weight_decay": -1.0}, "weight_decay must be at least 0, got -1.0"),
        ({"classes": 2, "smoothing": 0.0}, r"smoothing must lie in \(0, 1\), got 0.0"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        NearestNeighbourTask(DifferentiableKNN(1), **arguments)


def test_without_references_there_is_nothing_to_compare_with():
    with pytest.raises(ValueError, match="there must be references to compare with, got none"):
        NearestNeighbourTask(DifferentiableKNN(1), classes=2)(torch.zeros(1, 3))
