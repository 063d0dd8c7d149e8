"""The task of attribution: what it learns, logs, reads and refuses."""

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from sparsek.nn import Attribution, UnitSite
from sparsek.tasks import AttributionTask, TargetLoss

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*deprecated"),
]
QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_model_summary": False,
    "enable_progress_bar": False,
}


def task(**options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(6).repeat(2, 1))
        model[2].weight.fill_(1.0)
        model[2].weight[:, 4:] *= 0.01  # the first four hidden units do the work
    return AttributionTask(Attribution(model, [UnitSite("1", 12)]), TargetLoss(), 0.1, **options)


def rows(model):
    x = torch.randn(256, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return DataLoader(TensorDataset(x, model(x)), batch_size=64)


def test_a_run_ranks_what_the_model_needs_and_leaves_the_model():
    learnt = task(shares=(0.25, 1.0))
    model = learnt.attribution.model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    data = rows(model)
    trainer = Trainer(max_epochs=15, check_val_every_n_epoch=15, **QUIET)
    trainer.fit(learnt, data, data)
    assert set(learnt.attribution.ranking()[:4].tolist()) == {0, 1, 2, 3}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    metrics = trainer.callback_metrics
    assert metrics["val/loss@1"] < metrics["val/loss@0.25"]
    assert metrics["val/loss"] == pytest.approx((metrics["val/loss@1"] + metrics["val/loss@0.25"]) / 2)
    assert {"train/loss", "train/k"} <= set(metrics)


def test_weights_are_read_from_a_checkpoint(tmp_path):
    saved = task().attribution.model
    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": {f"network.{name}": value + 1 for name, value in saved.state_dict().items()}}, path)
    read = task(weights=str(path)).attribution.model
    assert all(torch.equal(a, b + 1) for a, b in zip(read.parameters(), saved.parameters(), strict=True))
    with pytest.raises(ValueError, match=r"do not fit the model under the prefix 'model\.'"):
        task(weights=str(path), prefix="model.")
    torch.save({"weights": 1}, path)
    with pytest.raises(ValueError, match="is not a Lightning checkpoint"):
        task(weights=str(path))
    with pytest.raises(ValueError, match="weights must be a checkpoint file, got 'none'"):
        task(weights="none")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shares": ()}, r"shares must be numbers in \(0, 1\], at least one"),
        ({"shares": (0.5, 1.5)}, r"shares must be numbers in \(0, 1\]"),
    ],
)
def test_bad_numbers_are_said(options, message):
    with pytest.raises(ValueError, match=message):
        task(**options)
    with pytest.raises(ValueError, match="learning_rate must be a finite number > 0"):
        AttributionTask(task().attribution, TargetLoss(), learning_rate=0)
