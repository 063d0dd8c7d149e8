"""Balancers in Hugging Face models: losses, biases, checkpoints of activations, the Trainer; saving; bad input."""

from functools import cache, partial

import pytest
import torch

pytest.importorskip("transformers", reason="needs the extra `transformers`")

from transformers import LlamaConfig, LlamaForCausalLM, MixtralForCausalLM, Trainer, TrainingArguments

from sparsek.functional import max_violation
from sparsek.integrations.transformers import RouterStep, from_pretrained, replace_router, routers, routing_parts
from sparsek.nn import (
    AdaptiveL1,
    DefaultVector,
    DenseStraightThrough,
    DualBias,
    NoBalance,
    Positive,
    ReLUGate,
    Router,
    Routing,
    SigmoidGate,
    SignBias,
    SwitchLoss,
)
from tests.integrations.model_cases import CASES, FAMILIES, SIZES, tokens

MIXTRAL = CASES[0]
every_family = pytest.mark.parametrize("case", FAMILIES, ids=lambda case: case.family)
MASK = torch.tensor([[1] * 7, [1] * 4 + [0] * 3, [0] * 2 + [1] * 5])


def gradients(model):
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def test_losses_of_the_balancers_are_in_the_loss():
    plain = replace_router(MIXTRAL.model(), Router).train()
    model = replace_router(MIXTRAL.model(), partial(Router, balancer=SwitchLoss(0.5))).train()
    base, output = plain(tokens(), labels=tokens()).loss, model(tokens(), labels=tokens())
    terms = [term for routing in output.routings for term in routing.losses.values()]
    assert len(terms) == 2
    torch.testing.assert_close(output.loss, base + sum(terms))
    torch.testing.assert_close(model.eval()(tokens(), labels=tokens()).loss, base)
    assert model.train()(tokens()).loss is None


def test_a_batch_counts_once_and_never_in_eval():
    model = replace_router(MIXTRAL.model(), partial(Router, balancer=DualBias(rate=0.1))).train()
    outputs = [model(tokens(seed=seed), attention_mask=MASK) for seed in (1, 2)]
    loads = [[routing.stats["load"] for routing in output.routings] for output in outputs]
    model.eval()(tokens(seed=3))
    for router, first, second in zip(routers(model), *loads, strict=True):
        assert torch.equal(router.load, first + second)
        router.step()
        torch.testing.assert_close(router.bias, DualBias(rate=0.1).update(torch.zeros(8), first + second))
        assert router.load.sum() == 0


@every_family
def test_recomputed_activations_change_nothing(case):
    """Two forward passes with different masks before one backward pass: each is recomputed with its own."""
    reference = {}
    for checkpointing in (False, True):
        model = replace_router(case.model(), partial(Router, balancer=SwitchLoss())).train()
        if checkpointing:
            model.activation_checkpointing_enable()
        first = model(tokens(seed=1), attention_mask=MASK, labels=tokens(seed=1)).loss
        second = model(tokens(seed=2), attention_mask=MASK.flip(0), labels=tokens(seed=2)).loss
        (first + second).backward()
        assert all(router.load.sum() == 2 * case.k * MASK.sum() for router in routers(model))
        if checkpointing:
            for name, gradient in gradients(model).items():
                torch.testing.assert_close(gradient, reference[name], msg=name)
        reference = gradients(model)


def test_reentrant_checkpoints_are_refused_where_they_would_lose_a_loss():
    model = replace_router(MIXTRAL.model(), partial(Router, balancer=SwitchLoss())).train()
    model.activation_checkpointing_enable({"use_reentrant": True})
    with pytest.raises(ValueError, match="use_reentrant"):
        model(inputs_embeds=torch.randn(2, 5, 16).requires_grad_(), labels=tokens(2, 5))


def test_a_bias_evens_out_the_load_of_a_skewed_model():
    """On one batch again and again, so that no chance is in it."""
    violations = []
    for balancer in (NoBalance(), DualBias(rate=0.3)):
        model = replace_router(MIXTRAL.model(), partial(Router, balancer=balancer)).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        for _ in range(12):
            output = model(tokens(4, 32), labels=tokens(4, 32))
            output.loss.backward()
            optimizer.step()
            for router in routers(model):
                router.step()
        violations.append(max(max_violation(routing.stats["load"]).item() for routing in output.routings))
    assert violations[1] < violations[0] / 3, violations


def test_trainer_steps_the_biases(tmp_path):
    pytest.importorskip("accelerate", reason="the Trainer of transformers needs it")
    model = replace_router(MIXTRAL.model(), partial(Router, balancer=SignBias(rate=0.125)))
    rows = [{"input_ids": row, "labels": row} for row in tokens(8, 7)]
    options = TrainingArguments(
        str(tmp_path),
        max_steps=3,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
    )
    Trainer(model, options, train_dataset=rows, callbacks=[RouterStep()]).train()
    for router in routers(model):
        assert router.load.sum() == 0
        assert router.bias.any()
        steps = (router.bias - router.bias[0]) / 0.125  # up to the mean, whole steps: three of them
        torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-5)
        assert steps.abs().max() <= 6


@every_family
def test_save_and_reload(case, tmp_path):
    factory = partial(Router, balancer=DualBias(rate=0.3))
    model = replace_router(case.model(), factory).train()
    model(tokens())
    for router in routers(model):
        router.step()
    model.eval().save_pretrained(tmp_path)
    expected = model(tokens()).logits
    loaded = from_pretrained(case.model_class, tmp_path, factory)
    assert type(loaded) is case.model_class
    assert not loaded.training
    for old, new in zip(routers(model), routers(loaded), strict=True):
        assert old.bias.any()
        assert torch.equal(old.weight, new.weight)
        assert torch.equal(old.bias, new.bias)
    torch.testing.assert_close(loaded(tokens()).logits, expected, rtol=0, atol=0)
    plain = replace_router(case.model_class.from_pretrained(tmp_path), factory)
    for old, new in zip(routers(model), routers(plain), strict=True):
        assert torch.equal(old.weight, new.weight)
        assert not new.bias.any(), "the class alone knows no bias"


def test_reload_in_half_precision_keeps_the_state_of_the_balancer(tmp_path):
    factory = partial(Router, gate=ReLUGate(), selection=Positive(), balancer=AdaptiveL1())
    model = replace_router(MIXTRAL.model(), factory).train()
    model(tokens(), labels=tokens()).loss.backward()
    for router in routers(model):
        router.step()
        router.bias.normal_()
    model.save_pretrained(tmp_path)
    loaded = from_pretrained(MixtralForCausalLM, tmp_path, factory, dtype=torch.bfloat16)
    for old, new in zip(routers(model), routers(loaded), strict=True):
        assert new.weight.dtype == torch.bfloat16
        assert torch.equal(old.bias, new.bias)
        assert old.coefficient != AdaptiveL1().start()
        assert torch.equal(old.coefficient, new.coefficient)
    assert loaded(tokens()).logits.isfinite().all()


def test_state_dict_of_a_model_fits_another(tmp_path):
    model, other = (replace_router(MIXTRAL.model(seed), Router) for seed in (0, 1))
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(tokens()).logits, other(tokens()).logits)


def test_start_from_own_weights_or_from_the_old_ones():
    original = MIXTRAL.model()
    weight = original.model.layers[0].mlp.gate.weight.detach().clone()
    torch.manual_seed(0)
    fresh = replace_router(MIXTRAL.model(), Router, copy_weights=False)
    assert torch.equal(routers(replace_router(original, Router))[0].weight, weight)
    assert not torch.equal(routers(fresh)[0].weight, weight)


def test_correction_bias_is_copied_where_it_means_the_same():
    case = CASES[-1]
    bias = case.model().model.layers[1].mlp.gate.e_score_correction_bias
    assert bias.any()
    assert torch.equal(routers(replace_router(case.model(), partial(Router, gate=SigmoidGate())))[0].bias, bias)
    assert not routers(replace_router(case.model(), Router))[0].bias.any()


def test_scale_is_that_of_the_block_or_what_is_given():
    case, hidden = next(case for case in CASES if case.config.get("routed_scaling_factor") == 3.0), torch.randn(5, 16)
    for scale, factor in ((None, 3.0), (1.0, 1.0), (0.5, 0.5)):
        router = routers(replace_router(case.model(), Router, scale=scale))[0]
        torch.testing.assert_close(router(hidden)[1], factor * router.forward(hidden).weights)


class Returns(torch.nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, input, mask=None, generator=None):
        return self.value(len(input)) if callable(self.value) else self.value


def test_any_module_that_returns_a_routing_serves():
    def routing(rows):
        indices = torch.arange(rows)[:, None] % 8
        return Routing(indices, torch.ones(rows, 1), torch.zeros(rows, 8), torch.zeros(rows, 8), {}, {})

    model = replace_router(MIXTRAL.model(), lambda d_model, num_experts: Returns(routing))
    assert model.train()(tokens(), labels=tokens()).loss.isfinite()
    assert routers(model) == ()


def test_what_a_router_must_return():
    model = replace_router(MIXTRAL.model(), lambda *sizes: Returns((1, 2, 3)))
    with pytest.raises(ValueError, match=r"must return a sparsek.nn.Routing, got tuple"):
        model(tokens())
    few = replace_router(
        MIXTRAL.model(), lambda *sizes: Returns(lambda rows: Router(16, 4).forward(torch.randn(rows, 16)))
    )
    with pytest.raises(ValueError, match="route to 8 experts"):
        few(tokens())
    assert replace_router(MIXTRAL.model(), Router)(tokens()).routings


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (partial(Router, k=9), r"k must be a whole number in \[1, num_experts = 8\], got 9"),
        (lambda d_model, num_experts, k: Router(d_model, 4, k), "must have num_experts = 8 like its block, got 4"),
        (lambda d_model, num_experts, k: Router(8, num_experts, k), "must have d_model = 16 like its block, got 8"),
        (
            lambda d_model: Router(d_model, 8),
            r"must take \(d_model, num_experts, k\) or \(d_model, num_experts\), got \(d_model\)",
        ),
        (cache(Router), "must make a new router for each layer"),
        (lambda *sizes: None, "must make a module that returns a Routing, got NoneType"),
        (partial(Router, gradient=DefaultVector()), "the chosen experts alone"),
        (partial(Router, gradient=DenseStraightThrough()), "the chosen experts alone"),
    ],
)
def test_routers_that_do_not_fit_are_refused_before_anything_changes(factory, message):
    model = MIXTRAL.model()
    before = model(tokens()).logits
    with pytest.raises(ValueError, match=message):
        replace_router(model, factory)
    assert routers(model) == ()
    assert torch.equal(model(tokens()).logits, before)


def test_models_without_such_blocks_are_refused():
    dense = LlamaForCausalLM(LlamaConfig(**SIZES))
    with pytest.raises(ValueError, match="LlamaForCausalLM has none"):
        replace_router(dense, Router)
    with pytest.raises(ValueError, match="LlamaForCausalLM has none"):
        routing_parts(dense)
    replaced = replace_router(MIXTRAL.model(), Router)
    with pytest.raises(ValueError, match="replaced already"):
        replace_router(replaced, Router)
    other = MIXTRAL.model()
    other.model.layers[0].mlp.gate = torch.nn.Linear(16, 8)
    with pytest.raises(ValueError, match=r"the gate of model.layers.0.mlp, Linear, must map hidden states"):
        replace_router(other, Router)


def test_models_whose_layers_hide_the_padding_are_refused():
    model = MIXTRAL.model()
    model.model.layers[1].attention = model.model.layers[1].self_attn
    del model.model.layers[1].self_attn
    with pytest.raises(ValueError, match=r"padding reaches the routers by it: model.layers.1 has none"):
        replace_router(model, Router)
    assert routers(model) == ()


def test_a_tuple_that_would_lose_a_loss_is_refused():
    model = replace_router(MIXTRAL.model(), partial(Router, balancer=SwitchLoss())).train()
    with pytest.raises(ValueError, match="return_dict must be True"):
        model(tokens(), labels=tokens(), return_dict=False)
    assert isinstance(model.eval()(tokens(), return_dict=False), tuple)


def test_checkpoints_without_routers_are_refused(tmp_path):
    MIXTRAL.model().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="saved with replaced routers, got one without"):
        from_pretrained(MixtralForCausalLM, tmp_path, Router)
    with pytest.raises(ValueError, match="model_class must be a class of models"):
        from_pretrained("MixtralForCausalLM", tmp_path, Router)
