"""Routers in Hugging Face models: values, gradients, padding, generation."""

import copy
from functools import partial

import pytest
import torch
from torch.func import functional_call

pytest.importorskip("transformers", reason="needs the extra `transformers`")

from transformers import Glm4MoeConfig, Glm4MoeForCausalLM

from sparsek.integrations.transformers import replace_router, routers, routing_parts
from sparsek.nn import (
    DualBias,
    ExpertChoice,
    GroupLimited,
    Router,
    Sampled,
    SigmoidTopKGate,
    SoftmaxGate,
    SwitchLoss,
)
from tests.integrations.model_cases import CASES, FAMILIES, SIZES, tokens

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
every_family = pytest.mark.parametrize("case", FAMILIES, ids=lambda case: case.family)


def logits(model, input, **options):
    with torch.no_grad():
        return model(input, **options).logits


@every_case
def test_the_parts_of_the_model_itself_change_nothing(case):
    model = case.model()
    before, parts = logits(model, tokens()), routing_parts(model)
    replace_router(model, partial(Router, **parts))
    assert len(routers(model)) == case.mixtures
    torch.testing.assert_close(logits(model, tokens()), before, rtol=1e-5, atol=1e-5)


@every_case
def test_other_parts_change_something(case):
    """The sabotaged twin: another gate, and a limit of groups where there was one and none where there was."""
    model = case.model()
    before, parts = logits(model, tokens()), routing_parts(model)
    other = copy.deepcopy(model)
    replace_router(model, partial(Router, **parts | {"gate": SigmoidTopKGate()}))
    assert (logits(model, tokens()) - before).abs().max() > 1e-2
    limited = isinstance(parts["selection"], GroupLimited)
    replace_router(other, partial(Router, **parts | {"selection": None if limited else GroupLimited(4, 2)}))
    assert (logits(other, tokens()) - before).abs().max() > 1e-2


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm", "batched_mm"])
def test_every_execution_of_the_experts_takes_slots_without_an_expert(implementation):
    """Under expert choice some tokens have fewer experts than others; the sum is that of the routing."""
    model = replace_router(
        CASES[0].model(), partial(Router, selection=ExpertChoice(), gate=SoftmaxGate(normalise=False))
    )
    model.set_experts_implementation(implementation)
    block, hidden = model.model.layers[0].mlp, torch.randn(2, 9, 16, generator=torch.Generator().manual_seed(0))
    routing = block.gate.forward(hidden.view(-1, 16))
    assert (routing.indices < 0).any()
    dense = torch.zeros(18, 16)
    for expert in range(8):
        up, down = block.experts.gate_up_proj[expert], block.experts.down_proj[expert]
        gate, value = (hidden.view(-1, 16) @ up.T).chunk(2, -1)
        weight = (routing.weights * (routing.indices == expert)).sum(-1, keepdim=True)
        dense += weight * ((torch.nn.functional.silu(gate) * value) @ down.T)
    torch.testing.assert_close(block(hidden).view(-1, 16), dense, rtol=1e-4, atol=1e-5)


@every_family
def test_gradient_reaches_every_parameter_of_the_blocks(case):
    model = replace_router(case.model(), Router).train()
    model(tokens(), labels=tokens()).loss.backward()
    for router in routers(model):
        assert router.weight.grad.isfinite().all()
        assert (router.weight.grad.abs().sum(-1) > 0).all()
    assert all(p.grad is not None for name, p in model.named_parameters() if "mlp" in name)


def test_weights_carry_the_gradient_that_the_block_says():
    model = replace_router(CASES[1].model().double(), Router)
    model.set_experts_implementation("eager")  # the grouped product takes no float64
    block = model.model.layers[0].mlp
    hidden = torch.randn(1, 4, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weight = block.gate.weight.detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda weight: functional_call(block, {"gate.weight": weight}, (hidden,)), weight)


@every_family
def test_sampled_routers_train_and_are_deterministic_in_eval(case):
    model = replace_router(case.model(), partial(Router, selection=Sampled())).train()
    torch.manual_seed(0)
    first = model(tokens(), labels=tokens())
    first.loss.backward()
    assert (routers(model)[0].weight.grad != 0).any()
    assert not torch.equal(first.logits, model(tokens()).logits)
    model.eval()
    assert torch.equal(logits(model, tokens()), logits(model, tokens()))


@every_family
def test_padding_is_routed_nowhere_and_counted_nowhere(case):
    model = replace_router(case.model(), partial(Router, balancer=DualBias())).train()
    for sides in ([0, 2, 5], [5, 0, 0]):
        mask = torch.ones(3, 7, dtype=torch.long)
        for row, hidden in enumerate(sides):
            mask[row, :hidden] = 0
        for side in (mask, mask.flip(1)):
            output = model(tokens(), attention_mask=side)
            for routing in output.routings:
                assert routing.stats["load"].sum() == case.k * side.sum()
                assert torch.equal((routing.indices < 0).all(-1).view(3, 7), side == 0)
                assert (routing.weights[side.flatten() == 0] == 0).all()
    assert model(tokens()).routings[0].stats["load"].sum() == case.k * 21, (
        "the mask of one call is not that of the next"
    )


@every_family
def test_padding_changes_no_real_token(case):
    model = replace_router(case.model(), Router)
    alone = logits(model, tokens(1))
    padded = torch.cat((torch.zeros(1, 3, dtype=torch.long), tokens(1)), 1)
    together = logits(
        model, torch.cat((padded, tokens(1, 10, seed=5))), attention_mask=torch.tensor([[0] * 3 + [1] * 7, [1] * 10])
    )
    torch.testing.assert_close(together[0, 3:], alone[0], rtol=1e-4, atol=1e-4)


@every_family
def test_routing_is_causal(case):
    """The experts of a token depend on no later one. (Their products may round otherwise in groups of another size.)"""
    model = replace_router(case.model(), Router).train()
    changed = tokens().clone()
    changed[:, 5:] = 3
    first, second = model(tokens()), model(changed)
    for one, other in zip(first.routings, second.routings, strict=True):
        same = one.indices.view(3, 7, -1) == other.indices.view(3, 7, -1)
        assert same[:, :5].all()
    assert not same[:, 5:].all()
    torch.testing.assert_close(first.logits[:, :5], second.logits[:, :5], rtol=1e-4, atol=1e-4)


@every_family
def test_generate_with_and_without_cache_and_by_hand(case):
    model = replace_router(case.model(), Router)
    options = {"max_new_tokens": 4, "do_sample": False}
    cached = model.generate(tokens(2, 4), attention_mask=torch.ones(2, 4, dtype=torch.long), **options)
    again = model.generate(tokens(2, 4), attention_mask=torch.ones(2, 4, dtype=torch.long), use_cache=False, **options)
    by_hand = tokens(2, 4)
    for _ in range(4):
        by_hand = torch.cat((by_hand, logits(model, by_hand)[:, -1:].argmax(-1)), 1)
    assert cached.shape == (2, 8)
    assert torch.equal(cached, again)
    assert torch.equal(cached, by_hand)


def test_generate_from_padded_prompts():
    model = replace_router(CASES[0].model(), Router)
    options = {"max_new_tokens": 5, "do_sample": False}
    prompts = torch.cat((torch.tensor([[0, 0], [7, 9]]), tokens(2, 4)), 1)
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6])
    together = model.generate(prompts, attention_mask=mask, **options)
    alone = model.generate(prompts[:1, 2:], attention_mask=mask[:1, 2:], **options)
    assert torch.equal(together[0, 2:], alone[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@every_family
def test_half_precision(case, dtype):
    model = case.model().to(dtype)
    original = model.model.layers[1].mlp.gate(torch.randn(5, 16, dtype=dtype))[1].dtype
    replace_router(model, partial(Router, balancer=SwitchLoss()))
    for router in routers(model):
        assert (router.weight.dtype, router.bias.dtype) == (dtype, torch.float32)
        assert router(torch.randn(5, 16, dtype=dtype))[1].dtype == original
    output = model.train()(tokens(), labels=tokens())
    output.loss.backward()
    assert output.logits.dtype == dtype
    assert all(router.weight.grad.isfinite().all() and router.weight.grad.any() for router in routers(model))


def test_another_family_with_the_same_contract():
    config = Glm4MoeConfig(
        **SIZES,
        num_experts_per_tok=2,
        n_routed_experts=8,
        moe_intermediate_size=16,
        first_k_dense_replace=1,
        head_dim=8,
    )
    model = replace_router(Glm4MoeForCausalLM(config), partial(Router, balancer=DualBias())).train()
    model(tokens(), labels=tokens(), attention_mask=torch.ones(3, 7)).loss.backward()
    assert [router.load.sum() for router in routers(model)] == [42]
    assert all(router.weight.grad.any() for router in routers(model))


def test_the_base_model_alone():
    model = replace_router(CASES[0].model().model, Router)
    output = model(tokens(), attention_mask=torch.tensor([[0] * 3 + [1] * 4] * 3))
    assert [routing.stats["load"].sum() for routing in output.routings] == [24, 24]


def test_copies_of_a_model_are_apart():
    model = replace_router(CASES[0].model(), partial(Router, balancer=DualBias())).train()
    twin = copy.deepcopy(model)
    output = twin(tokens())
    assert len(output.routings) == 2
    assert [router.load.sum() for router in routers(model)] == [0, 0]
    assert [router.load.sum() for router in routers(twin)] == [42, 42]
    torch.testing.assert_close(output.logits, model(tokens()).logits)


def test_router_logits_are_recorded():
    model = replace_router(CASES[0].model(), Router)
    output = model(tokens(), labels=tokens(), output_router_logits=True)
    for recorded, routing in zip(output.router_logits, output.routings, strict=True):
        assert torch.equal(recorded, routing.logits)
    assert output.aux_loss.isfinite()


@pytest.mark.skipif(
    torch.__version__ < "2.7", reason="the compiler of torch 2.6 does not read transformers' decorators"
)
def test_compiles_without_a_graph_break():
    torch.compiler.reset()
    model = replace_router(CASES[0].model(), Router)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(logits(compiled, tokens(), use_cache=False), logits(model, tokens(), use_cache=False))
