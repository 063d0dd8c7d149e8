"""Training ends at the first number that is not finite, and the error says where it came from."""

import math

import pytest
import torch
from resume_cases import Noisy, fit
from torch import nn

from sparsek.callbacks import NonFiniteError, RunCheckpoint, StopAtNonFinite

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*deprecated")


class Breaks(nn.Module):
    """The identity until its call number `at`; then something else."""

    def __init__(self, at, value=math.nan):
        super().__init__()
        self.at, self.value, self.calls = at, value, 0

    def forward(self, x):
        self.calls += self.training
        return x * self.value if self.calls > self.at else x


class Deep(Noisy):
    """A module with parts."""

    def __init__(self, part):
        super().__init__()
        self.inner = nn.Sequential(nn.Identity(), nn.Sequential(part, nn.Identity()))

    def training_step(self, batch, index):
        return self.layer(self.inner(batch[0])).square().mean()


def failure(tmp_path, module, **options):
    with pytest.raises(NonFiniteError) as caught:
        fit(tmp_path, StopAtNonFinite(), RunCheckpoint(every_n_train_steps=2), module=module, max_steps=12, **options)
    return caught.value


def test_the_error_names_the_step_the_batch_and_the_module(tmp_path):
    error = failure(tmp_path, Deep(Breaks(at=6)))
    assert (error.step, error.epoch, error.batch) == (6, 1, 1)
    assert error.module == "inner.1.0"
    assert "first in the output of module 'inner.1.0' (Breaks)" in str(error)
    assert "step=6.ckpt" in str(error)
    kept = torch.load(error.file, weights_only=True)
    assert kept["batch"]["0"].shape == (4, 3)
    good = tmp_path / "x" / "version_0" / "checkpoints" / "run-epoch=1-step=6.ckpt"
    assert all(value.isfinite().all() for value in torch.load(good, weights_only=True)["state_dict"].values())


def test_infinities_are_named_where_there_is_no_nan(tmp_path):
    error = failure(tmp_path, Deep(Breaks(at=3, value=math.inf)))
    assert error.step == 3
    assert error.module == "inner.1.0"


def test_the_twin_without_the_callback_trains_on(tmp_path):
    result = fit(tmp_path, module=Deep(Breaks(at=3)), max_steps=6)
    assert any(value.isnan().any() for value in result["weights"].values())


def test_a_batch_that_is_not_finite_is_named(tmp_path, monkeypatch):
    module = Deep(nn.Identity())
    monkeypatch.setattr("resume_cases.torch.arange", lambda *a: torch.full((int(a[0]),), math.nan))
    error = failure(tmp_path, module)
    assert error.step == 0
    assert error.module is None
    assert "the batch itself is not finite, in '0'" in str(error)
    assert "there is no checkpoint yet" in str(error)


class Root(torch.autograd.Function):
    """Its value is finite and its gradient is not."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * math.nan


class BadGradient(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return Root.apply(x * self.weight)


def test_a_gradient_that_is_not_finite_stops_before_it_moves_a_weight(tmp_path):
    module = Deep(BadGradient())
    error = failure(tmp_path, module)
    assert (error.step, error.module) == (0, "inner.1.0")
    assert "the gradient of parameter 'inner.1.0.weight'" in str(error)
    assert module.inner[1][0].weight == 1


def test_weights_that_are_not_finite_are_not_kept(tmp_path):
    module = Deep(nn.Identity())
    callback = StopAtNonFinite(gradients=False, every_n_steps=1000)
    real = module.optimizer_step

    def breaking(*arguments, **options):
        real(*arguments, **options)
        if module.global_step == 3:
            module.layer.weight.data[0, 0] = math.nan

    module.optimizer_step = breaking
    with pytest.raises(NonFiniteError, match="no checkpoint is written of weights that are not finite"):
        fit(tmp_path, callback, RunCheckpoint(every_n_train_steps=1), module=module, max_steps=6)
    kept = sorted(path.name for path in (tmp_path / "x" / "version_0" / "checkpoints").iterdir())
    assert kept == ["run-epoch=0-step=2.ckpt", "run-epoch=0-step=3.ckpt"]


def test_bad_arguments_are_one_clear_error():
    with pytest.raises(ValueError, match="every_n_steps must be at least 1, got 0"):
        StopAtNonFinite(every_n_steps=0)
