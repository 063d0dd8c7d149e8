"""What a causal model predicts with a dictionary in the place of a layer: all of it for the identity, nothing for the mean."""

import pytest
import torch
from safetensors.torch import save_file

pytestmark = [pytest.mark.usefixtures("sae"), pytest.mark.filterwarnings("ignore::DeprecationWarning")]


@pytest.fixture(scope="module")
def model():
    """A small causal model that has learnt nothing, but is not indifferent."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    found = transformers.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        found.lm_head.weight.normal_()
    return found


def test_the_identity_recovers_everything_and_the_mean_nothing(model):
    from causal import recovered  # noqa: PLC0415 - from the folder of the experiment

    ids, mean = torch.randint(50, (5, 12), generator=torch.Generator().manual_seed(0)), torch.zeros(16)
    layer = model.model.layers[0]
    same = recovered(model, layer, lambda h: h, ids, mean)
    assert same["kl_recovered"] == pytest.approx(1)
    assert same["cross_entropy_clean"] == pytest.approx(same["cross_entropy_spliced"])
    assert same["cross_entropy_tokens"] == 5 * 11
    gone = recovered(model, layer, torch.zeros_like, ids, mean)
    assert gone["kl_recovered"] == pytest.approx(0, abs=1e-6)
    assert gone["cross_entropy_recovered"] == pytest.approx(0, abs=1e-6)


def test_sinks_leave_the_mask_and_nothing_else_does(tmp_path):
    from causal import mask_sinks, mean_of  # noqa: PLC0415 - from the folder of the experiment
    from safetensors.torch import load_file  # noqa: PLC0415 - with it

    from sparsek.datamodules._activation_shards import open_store  # noqa: PLC0415 - with it

    tokens = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    tokens[::16] *= 1000
    mask = torch.ones(64, dtype=torch.bool)
    mask[5] = False
    save_file({"activations": tokens, "mask": mask}, tmp_path / "000000.safetensors")
    for _ in range(2):  # masking what is masked changes nothing
        mask_sinks(tmp_path, 1)
        found = load_file(tmp_path / "000000.safetensors")
        expected = mask.clone()
        expected[::16] = False
        assert torch.equal(found["mask"], expected)
        assert torch.equal(found["activations"], tokens)
    torch.testing.assert_close(mean_of(open_store(tmp_path)), tokens[expected].mean(0))


def test_tested_sequences_are_whole_ones_of_test_documents(tmp_path):
    from causal import tested_sequences  # noqa: PLC0415 - from the folder of the experiment

    from sparsek.datamodules._activation_manifest import ActivationManifest, write_manifest  # noqa: PLC0415 - with it
    from sparsek.datamodules._activation_shards import open_store  # noqa: PLC0415 - with it
    from sparsek.datamodules._corpus import split_of  # noqa: PLC0415 - with it

    documents = tuple(f"file{i}.py" for i in range(40))
    owner = torch.arange(40, dtype=torch.int32).repeat_interleave(10)
    token = torch.arange(400, dtype=torch.int32)
    save_file({"activations": torch.zeros(400, 2), "document": owner, "token": token}, tmp_path / "000000.safetensors")
    names = {
        "model": "m",
        "model_digest": "",
        "where": (),
        "text_digest": "",
        "documents": documents,
        "dtype": "float32",
    }
    write_manifest(
        tmp_path, ActivationManifest(**names, length=4, shard_tokens=400, shape=(2,), rows=(400,), complete=True)
    )
    found = tested_sequences(open_store(tmp_path), length=4, count=1000)
    tested = [i for i, name in enumerate(documents) if split_of(name, 0.1, 0.1) == "test"]
    assert tested
    assert found.tolist() == [list(range(10 * i + j, 10 * i + j + 4)) for i in tested for j in (0, 4)]
    assert len(tested_sequences(open_store(tmp_path), length=4, count=3)) == min(3, 2 * len(tested))
