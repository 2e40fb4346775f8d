"""The tiny repositories have the files, keys and settings of the published ones, and are small."""

import io
import json

import pyarrow.parquet
import pytest
import torch
from diffusers import FluxPipeline
from safetensors.torch import load

from tests.hub import loras, shelf
from tests.hub.repository import Repository

FLUX_FILES = {
    "README.md", "LICENSE.md", "ae.safetensors", "model_index.json", "scheduler/scheduler_config.json",
    "text_encoder/config.json", "text_encoder/model.safetensors", "text_encoder_2/config.json",
    "text_encoder_2/model-00001-of-00002.safetensors", "text_encoder_2/model-00002-of-00002.safetensors",
    "text_encoder_2/model.safetensors.index.json", "tokenizer/merges.txt",
    "tokenizer/special_tokens_map.json", "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json", "tokenizer_2/special_tokens_map.json",
    "tokenizer_2/spiece.model", "tokenizer_2/tokenizer.json", "tokenizer_2/tokenizer_config.json",
    "transformer/config.json", "transformer/diffusion_pytorch_model.safetensors.index.json",
    *(f"transformer/diffusion_pytorch_model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)),
    "vae/config.json", "vae/diffusion_pytorch_model.safetensors",
}  # fmt: skip


def read(repository: Repository, path: str) -> dict:
    return json.loads(repository.files[path])


@pytest.mark.parametrize("name", shelf.BUILDERS)
def test_every_repository_is_small(name):
    assert sum(map(len, shelf.repository(name).files.values())) < 3_000_000


@pytest.mark.parametrize("name", [shelf.DEV, shelf.STUDENT, shelf.DATA, shelf.STYLE])
def test_a_repository_is_the_same_each_time_it_is_built(name):
    assert shelf.repository.__wrapped__(name).commit == shelf.repository(name).commit


@pytest.mark.parametrize(("name", "single"), [(shelf.DEV, "flux1-dev"), (shelf.SCHNELL, "flux1-schnell")])
def test_flux_has_the_published_files(name, single):
    assert set(shelf.repository(name).files) == FLUX_FILES | {f"{single}.safetensors"}


def test_flux_has_the_published_settings():
    dev, schnell = shelf.repository(shelf.DEV), shelf.repository(shelf.SCHNELL)
    config = read(dev, "transformer/config.json")
    assert config["guidance_embeds"] and config["in_channels"] == 64 and config["attention_head_dim"] == 128
    assert "out_channels" not in config and "axes_dims_rope" not in config
    assert not read(schnell, "transformer/config.json")["guidance_embeds"]
    assert read(dev, "vae/config.json")["sample_size"] == 1024
    assert read(dev, "scheduler/scheduler_config.json")["use_dynamic_shifting"]
    assert not read(schnell, "scheduler/scheduler_config.json")["use_dynamic_shifting"]


def test_flux_has_the_published_keys_in_bfloat16():
    dev = shelf.repository(shelf.DEV)
    clip = load(dev.files["text_encoder/model.safetensors"])
    assert all(key.startswith("text_model.") for key in clip)
    index = read(dev, "text_encoder_2/model.safetensors.index.json")["weight_map"]
    assert (
        "shared.weight" in index
        and "encoder.embed_tokens.weight" not in index
        and len(set(index.values())) == 2
    )
    assert {value.dtype for value in clip.values()} == {torch.bfloat16}


def test_stock_diffusers_opens_flux_and_both_tokenizers_read_words(hub):
    pipe = FluxPipeline.from_pretrained(shelf.DEV, dtype=torch.bfloat16)
    assert pipe.tokenizer.model_max_length == 77 and pipe.tokenizer_2.model_max_length == 512
    words = "a red hat"
    for tokenizer in (pipe.tokenizer, pipe.tokenizer_2):
        ids = tokenizer(words).input_ids
        assert tokenizer.decode(ids, skip_special_tokens=True).strip() == words
        assert ids[-1] == tokenizer.eos_token_id and tokenizer.unk_token_id not in ids[:-1]


def test_the_student_has_a_condition_leftovers_and_a_lora():
    student = shelf.repository(shelf.STUDENT)
    weights = load(student.files["transformer/diffusion_pytorch_model.safetensors"])
    assert weights["c_embedder.weight"].shape == weights["x_embedder.weight"].shape
    assert any(".lora_A." in key for key in weights)
    lora = load(student.files["pytorch_lora_weights.safetensors"])
    assert all(key.startswith("transformer.") and ".lora_" in key for key in lora)
    assert read(student, "transformer/config.json")["_class_name"] == "FluxTransformer2DConditionalModel"


def test_the_pairs_have_the_published_columns():
    data = shelf.repository(shelf.DATA)
    table = pyarrow.parquet.read_table(io.BytesIO(data.files["data/train-00001-of-00002.parquet"]))
    assert table.column_names == ["conditioning", "image", "caption"] and len(table) == 6


@pytest.mark.parametrize("kind", ["diffusers", "kohya"])
def test_stock_diffusers_reads_the_style(hub, kind):
    pipe = FluxPipeline.from_pretrained(shelf.DEV, dtype=torch.float32)
    pipe.load_lora_weights(shelf.STYLE, weight_name=loras.FILES[kind], adapter_name="style")
    layer = pipe.transformer.transformer_blocks[0].attn.to_k
    change = layer.get_delta_weight("style")
    down, up = loras.weights()["double_blocks.0.img_attn.qkv"]
    expected = up[loras.INNER : 2 * loras.INNER] @ down
    torch.testing.assert_close(change, expected, rtol=1e-4, atol=1e-5)
