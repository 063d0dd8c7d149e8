"""What every rank checks of experts under Lightning: `Trainer.fit` on two processes against `Trainer.fit` on one."""

import io
import re
import tempfile
import warnings
from contextlib import contextmanager, redirect_stdout
from functools import partial
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import nn

from sparsek.nn import (
    DualBias,
    Experts,
    FeedForward,
    MixtureOfExperts,
    Router,
    ShardedExperts,
    clip_sharded_grad_norm_,
    exclude_sharded_experts,
    gather_expert_state,
    sharded_parameters,
)

D, H, E, TOKENS, STEPS, EPOCHS = 8, 12, 4, 24, 3, 2
"""Sizes, tokens of one step on all ranks together, steps of an epoch, and epochs."""
CLIP = 0.3
PAGE = Path(__file__).parents[2] / "docs" / "experts.md"

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the imports of Lightning
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.plugins.environments import ClusterEnvironment
    from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy


class Started(ClusterEnvironment):
    """The processes and their group are there."""

    creates_processes_externally = True
    main_address, main_port = "localhost", 0

    @staticmethod
    def detect():
        return False

    def world_size(self):
        return dist.get_world_size()

    def global_rank(self):
        return dist.get_rank()

    local_rank = global_rank

    def node_rank(self):
        return 0

    def set_world_size(self, size):
        pass

    set_global_rank = set_world_size


class Network(nn.Module):
    """A linear layer and a balanced mixture."""

    def __init__(self, experts, group):
        super().__init__()
        router = Router(D, E, 2, balancer=DualBias(0.05))
        router.process_group = group
        self.linear = nn.Linear(D, D)
        self.mixture = MixtureOfExperts(D, H, E, router, experts=experts, shared=FeedForward(D, 4))

    def forward(self, x):
        return self.mixture(self.linear(x))


class Task(LightningModule):
    """Regression under DDP, as a user would write it."""

    def __init__(self, experts, group=None):
        super().__init__()
        self.experts, self.group, self.network, self.seen = experts, group, None, []

    def configure_model(self):
        if self.network is None:
            torch.manual_seed(0)
            self.network = Network(self.experts, self.group).double()
            self.parallelize()

    def parallelize(self):
        exclude_sharded_experts(self)

    def training_step(self, batch, batch_idx):
        output, routing = self.network(batch[0])
        self.network.mixture.router.observe(routing)
        loss = (output - batch[0].flip(-1)).square().mean()
        self.seen.append(loss.detach())
        return loss

    def optimizer_step(self, *arguments, **named):
        super().optimizer_step(*arguments, **named)
        self.network.mixture.router.step()

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.02)
        gather_expert_state(optimizer, self)
        return optimizer

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
        clip_sharded_grad_norm_(self, gradient_clip_val)


class ShardedTask(Task):
    """The same under FSDP2; experts on ranks of their own are left alone."""

    def parallelize(self):
        from torch.distributed.fsdp import fully_shard  # noqa: PLC0415 - not loaded by `import sparsek`: a case checks that

        mesh = self.device_mesh["data_parallel"]
        local = set(sharded_parameters(self).values())
        for part in (*self.network.children(), self.network):
            fully_shard(part, mesh=mesh, ignored_params=local)


def batches(rank, world_size):
    """The tokens of a rank, a batch a step: equal shares, so that the mean of the ranks' means is the mean of all."""
    x = torch.randn(STEPS, world_size, TOKENS // world_size, D, generator=torch.Generator().manual_seed(1)).double()
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x[:, rank]), batch_size=None)


def fit(task, data, epochs, resume=None, save=None, **options):
    """Train; return what has been learnt, whole."""
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        gradient_clip_val=CLIP,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **options,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's, about workers, and those that it causes in torch
        trainer.fit(task, data, ckpt_path=resume)
    if save:
        trainer.save_checkpoint(save)
    state = task.state_dict()
    return {name: value.full_tensor() if hasattr(value, "full_tensor") else value for name, value in state.items()}


def compare(make, strategy, world_size, rank, experts):
    """Straight through, and with a stop and a resumption half-way, against one process."""
    alone = [dist.new_group([other]) for other in range(world_size)][rank]
    whole = [
        torch.cat(x) for x in zip(*(batches(r, world_size).dataset.tensors[0] for r in range(world_size)), strict=True)
    ]
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.stack(whole)), batch_size=None)
    single, pair = Task(Experts, alone), make(experts)
    expected = fit(single, data, EPOCHS, devices=1)
    two = {"devices": world_size, "plugins": [Started()]}
    learnt = fit(pair, batches(rank, world_size), EPOCHS, strategy=strategy(), **two)
    agree(learnt, expected)
    seen = torch.stack(pair.seen)
    dist.all_reduce(seen)
    torch.testing.assert_close(seen / world_size, torch.stack(single.seen), rtol=0, atol=1e-10)
    with common_folder(rank) as folder:
        path = folder / "half.ckpt"
        fit(make(experts), batches(rank, world_size), EPOCHS // 2, strategy=strategy(), save=path, **two)
        resumed = fit(make(experts), batches(rank, world_size), EPOCHS, strategy=strategy(), resume=path, **two)
        dist.barrier()
    agree(resumed, expected)


@contextmanager
def common_folder(rank):
    """A folder that all ranks see, made and removed by the first."""
    with tempfile.TemporaryDirectory() as own:
        names = [own]
        dist.broadcast_object_list(names)
        yield Path(names[0])


def agree(learnt, expected):
    assert learnt.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            learnt[name], value, rtol=0, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}"
        )


def fsdp2(world_size):
    return partial(ModelParallelStrategy, data_parallel_size=world_size, tensor_parallel_size=1)


def ddp_trains_sharded_experts_as_one_process(rank, world_size):
    compare(Task, DDPStrategy, world_size, rank, ShardedExperts)


def ddp_trains_ordinary_experts_as_one_process(rank, world_size):
    compare(Task, DDPStrategy, world_size, rank, Experts)


def fsdp2_trains_sharded_experts_as_one_process(rank, world_size):
    compare(ShardedTask, fsdp2(world_size), world_size, rank, ShardedExperts)


def fsdp2_trains_ordinary_experts_as_one_process(rank, world_size):
    compare(ShardedTask, fsdp2(world_size), world_size, rank, Experts)


def the_tasks_of_the_page_train(rank, world_size):
    """The code of `docs/experts.md`, block after block: all processes learn the same, and something."""
    page = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        with redirect_stdout(io.StringIO()):
            exec(compile(block, str(PAGE), "exec"), page)
    x = torch.randn(STEPS, TOKENS, D, generator=torch.Generator().manual_seed(rank))
    data = torch.utils.data.DataLoader(x, batch_size=None)
    torch.manual_seed(0)
    before = MixtureOfExperts(D, 16, E, Router(D, E, 2)).state_dict()
    for name, strategy in (("Task", DDPStrategy), ("ShardedTask", fsdp2(world_size))):
        learnt = fit(page[name](), data, 1, strategy=strategy(), devices=world_size, plugins=[Started()])
        for key, value in learnt.items():
            everyone = [torch.empty_like(value) for _ in range(world_size)]
            dist.all_gather(everyone, value.contiguous())
            assert all(torch.equal(other, value) for other in everyone)
            assert torch.equal(value, before[key.removeprefix("mixture.")]) == key.endswith("bias")


def untold_a_trainer_learns_something_else(rank, world_size):
    """The sabotaged twins: each of the three things that a task says is left out."""
    told = {
        "exclude_sharded_experts": lambda module: None,
        "gather_expert_state": lambda optimizer, module: None,
        "clip_sharded_grad_norm_": lambda module, bound: nn.utils.clip_grad_norm_(module.parameters(), bound),
    }
    for name, stand_in in told.items():
        with mock.patch.dict(globals(), {name: stand_in}), pytest.raises(AssertionError, match="not close"):
            compare(Task, DDPStrategy, world_size, rank, ShardedExperts)


CASES = [
    ddp_trains_ordinary_experts_as_one_process,
    ddp_trains_sharded_experts_as_one_process,
    fsdp2_trains_ordinary_experts_as_one_process,
    fsdp2_trains_sharded_experts_as_one_process,
    the_tasks_of_the_page_train,
    untold_a_trainer_learns_something_else,
]
