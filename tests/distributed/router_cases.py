"""Routers and their measures on batches spread over processes, against one process with the whole batch."""

import copy
import warnings
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from sparsek.metrics import BatchMaxViolation, DomainInformation, GradientSNR, LoadCV, MaxViolation, RouterEntropy
from sparsek.nn import (
    AdaptiveL1,
    Balancers,
    BudgetBalance,
    DefaultVector,
    DualBias,
    MixtureOfExperts,
    MoETransformer,
    Positive,
    QuantileBalance,
    ReLUGate,
    Router,
    SignBias,
    SwitchLoss,
    ZLoss,
)

BALANCERS = [
    DualBias(0.1),
    SignBias(0.1),
    QuantileBalance(),
    BudgetBalance(),
    SwitchLoss(1.0),
    ZLoss(1.0),
    Balancers([QuantileBalance(), SwitchLoss(1.0), ZLoss(1.0)]),
]
STEPS, TOKENS = 3, 48


def alone():
    """A group of this process only."""
    groups = [dist.new_group([rank]) for rank in range(dist.get_world_size())]
    return groups[dist.get_rank()]


def batches():
    """The same everywhere: tokens, mask, and a target."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        tokens = torch.randn(TOKENS, 8, generator=generator, dtype=torch.float64) + 1
        mask = torch.rand(TOKENS, generator=generator) > torch.linspace(0, 0.6, TOKENS)  # ranks differ in real tokens
        yield tokens, mask


def share(value, rank, world_size):
    return value.chunk(world_size)[rank]


def train(mixture, rank, world_size, wrap, accumulate=1):
    """Three steps of SGD on the losses of the router and a sum over tokens; returns what has been learnt."""
    model = wrap(mixture)
    for tokens, mask in batches():
        parts = share(tokens, rank, world_size), share(mask, rank, world_size)
        for piece, kept in zip(*(part.chunk(accumulate) for part in parts), strict=True):
            output, routing = model(piece, kept)
            mixture.router.observe(routing)
            objective = output.square().sum() * world_size / TOKENS + sum(routing.losses.values()) / accumulate
            objective.backward()
        with torch.no_grad():
            for parameter in mixture.parameters():
                if parameter.grad is not None:
                    parameter.sub_(0.05 * parameter.grad)
                    parameter.grad = None
        mixture.router.step()
    return [mixture.router.bias, *mixture.parameters(), *mixture.buffers()]


def make(**parts):
    torch.manual_seed(0)
    return MixtureOfExperts(8, 4, 6, Router(8, 6, 2, **parts)).double()


def agree(rank, world_size, wrap, accumulate=1, **parts):
    one, many = make(**parts), make(**parts)
    one.router.process_group = alone()
    expected = train(one, 0, 1, lambda mixture: mixture)
    found = train(many, rank, world_size, wrap, accumulate)
    assert any((value.abs() > 1e-3).any() for value in expected)
    for value, other in zip(expected, found, strict=True):
        torch.testing.assert_close(other, value, rtol=0, atol=1e-6)


def balancers_agree_under_data_parallel(rank, world_size):
    for balancer in BALANCERS:
        agree(rank, world_size, DistributedDataParallel, balancer=balancer)
    penalty = AdaptiveL1(initial=0.1)
    agree(rank, world_size, DistributedDataParallel, gate=ReLUGate(), selection=Positive(), balancer=penalty)


def accumulated_batches_agree_under_data_parallel(rank, world_size):
    for balancer in (DualBias(0.1), QuantileBalance()):  # losses are of each batch: they are not among these
        agree(rank, world_size, DistributedDataParallel, accumulate=4, balancer=balancer)


def mean_outputs_agree_under_data_parallel(rank, world_size):
    agree(rank, world_size, DistributedDataParallel, gradient=DefaultVector(), balancer=DualBias(0.1))


def counts_that_stay_apart_would_be_seen(rank, world_size):
    """The sabotaged twin: each process balances its own part."""
    one, many = make(balancer=DualBias(0.1)), make(balancer=DualBias(0.1))
    one.router.process_group = many.router.process_group = alone()
    expected = train(one, 0, 1, lambda mixture: mixture)[0]
    found = train(many, rank, world_size, lambda mixture: mixture)[0]
    assert (expected - found).abs().max() > 1e-3


def a_process_without_tokens_does_not_hang_the_others(rank, world_size):
    router = Router(8, 6, 2, balancer=QuantileBalance())
    if rank == 0:
        router.observe(router(torch.randn(20, 8)))
    router.step()
    biases = [torch.empty_like(router.bias) for _ in range(world_size)]
    dist.all_gather(biases, router.bias)
    assert all(torch.equal(bias, biases[0]) for bias in biases)
    assert biases[0].abs().max() > 0


def evaluation_waits_for_nobody(rank, world_size):
    router = Router(8, 6, 2, balancer=Balancers([SwitchLoss(), ZLoss()])).eval()
    for _ in range(rank):  # another number of batches on every process
        router(torch.randn(5, 8))
    dist.barrier()


def measures_agree(rank, world_size):
    generator = torch.Generator().manual_seed(0)
    indices = [torch.randint(0, 6, (8, 5, 2), generator=generator) ** 2 // 5 for _ in range(2)]
    marginals = [torch.rand(8, 5, 6, generator=generator, dtype=torch.float64) for _ in range(2)]
    domain, mask = torch.arange(8) % 3, torch.rand(8, 5, generator=generator) > 0.3
    gradients = torch.randn(4, 2, 7, generator=generator, dtype=torch.float64)
    cases = {
        MaxViolation(6, 2): (indices, mask),
        LoadCV(6, 2): (indices, mask),
        DomainInformation(6, 3, 2): (indices, domain, mask),
        RouterEntropy(6, 2): (marginals, mask),
    }
    for metric, arguments in cases.items():
        whole = copy.deepcopy(metric)
        whole.sync_on_compute = False
        whole.update(*arguments)
        metric.update(*(cut(argument, rank, world_size) for argument in arguments))
        torch.testing.assert_close(metric.compute(), whole.compute(), rtol=0, atol=1e-6)
    by_batch, whole = BatchMaxViolation(6, 2), BatchMaxViolation(6, 2)
    whole.sync_on_compute = False
    for part in range(world_size):
        whole.update(cut(indices, part, world_size), cut(mask, part, world_size))
    by_batch.update(cut(indices, rank, world_size), cut(mask, rank, world_size))
    torch.testing.assert_close(by_batch.compute(), whole.compute(), rtol=0, atol=1e-6)
    snr, whole = GradientSNR(7, 2), GradientSNR(7, 2)
    whole.sync_on_compute = False
    for sample in gradients:
        whole.update(list(sample))
        snr.update(list(sample))  # averaged already: the same on all processes
    torch.testing.assert_close(snr.compute(), whole.compute(), rtol=0, atol=1e-6)


def a_language_model_is_measured_and_recorded_as_one(rank, world_size):
    """`Trainer` on two processes: measures of the whole split, loads of all processes, and files from the first alone."""
    from trainer_cases import Started, common_folder  # noqa: PLC0415 - it loads Lightning, which the other cases need not

    pair = {"devices": world_size, "strategy": "ddp", "plugins": [Started()]}
    with common_folder(rank) as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's, about workers
        if rank == 0:
            write_text(folder)
        dist.barrier()
        single, many = (language_model(folder, **options) for options in ({"devices": 1}, pair))
        names = set(single.measures) - {"val/max_vio_batch"}  # its batches are those of a process
        for name in names:
            torch.testing.assert_close(many.measures[name], single.measures[name], rtol=0, atol=1e-6)
        dist.barrier()
        assert len(list(folder.rglob("routing.png"))) == 1 + world_size  # alone, each process writes one
    assert len(many.record.load) == 3 * 2 * 4
    everyone = [None] * world_size
    dist.all_gather_object(everyone, (many.record.load, many.record.domain))
    assert all(other == everyone[0] for other in everyone)


def write_text(folder):
    for name, words in (("cat", b"the cat sat on the mat. "), ("python", b"def f(x): return x + 1\n")):
        (folder / name).mkdir()
        for i in range(40):
            (folder / name / f"{i}.txt").write_bytes(words * 5 + str(i).encode())


class Run(NamedTuple):
    measures: dict[str, float]
    record: Any


def language_model(folder, **options):
    """Measured before training, then trained for three steps under the eye of a recorder."""
    import lightning.pytorch as pl  # noqa: PLC0415 - see above

    from sparsek.callbacks import RoutingRecorder  # noqa: PLC0415
    from sparsek.datamodules import Folder, TextDataModule  # noqa: PLC0415
    from sparsek.tasks import LanguageModelTask  # noqa: PLC0415

    torch.manual_seed(0)
    network = MoETransformer(16, 2, 2, 16, 4, lambda d, e: Router(d, e, 2, balancer=DualBias(0.1)))
    data = TextDataModule([Folder(name, str(folder / name)) for name in ("cat", "python")], length=24, batch_size=4,
                          steps_per_epoch=10, eval_windows=4)  # fmt: skip
    recorder = RoutingRecorder(every_n_steps=1)
    logger = pl.loggers.CSVLogger(
        folder, name=f"{options['devices']}-{dist.get_rank() if options['devices'] == 1 else ''}"
    )
    trainer = pl.Trainer(accelerator="cpu", max_steps=3, logger=logger, callbacks=[recorder], enable_checkpointing=False,
                         enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
                         log_every_n_steps=1, limit_val_batches=1.0, **options)  # fmt: skip
    task = LanguageModelTask(network)
    (measures,) = trainer.validate(task, datamodule=data, verbose=False)
    trainer.fit(task, datamodule=data)
    return Run(measures, recorder.record)


def cut(argument, rank, world_size):
    if isinstance(argument, list):
        return [share(part, rank, world_size) for part in argument]
    return share(argument, rank, world_size)


CASES = [
    balancers_agree_under_data_parallel,
    accumulated_batches_agree_under_data_parallel,
    mean_outputs_agree_under_data_parallel,
    counts_that_stay_apart_would_be_seen,
    a_process_without_tokens_does_not_hang_the_others,
    evaluation_waits_for_nobody,
    measures_agree,
    a_language_model_is_measured_and_recorded_as_one,
]
