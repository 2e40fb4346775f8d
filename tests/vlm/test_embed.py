"""How alike images look: unit vectors from a judge's eyes or from an image encoder."""

import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BitImageProcessorPil,
    Dinov2Config,
    Dinov2Model,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
)

from dsd.evaluation.photographs import PhotographScorer
from dsd.vlm import embed as similarity
from dsd.vlm.embed import open_embedder
from dsd.vlm.open import LoadError, open_vlm
from tests import tiny

IMAGES = [tiny.image(seed, (32, 48)) for seed in range(5)]
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def vlm(tmp_path_factory):
    return open_vlm(str(tiny.vlm(tmp_path_factory.mktemp("vlm") / "judge")))


@pytest.fixture(scope="module")
def dino(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dino") / "dino"
    model = Dinov2Model(Dinov2Config(**SIZES, image_size=16, patch_size=8))
    tiny.lively(model, 0).save_pretrained(folder)
    size = {"height": 16, "width": 16}
    BitImageProcessorPil(size={"shortest_edge": 16}, crop_size=size).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def siglip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("siglip") / "siglip"
    config = SiglipConfig(
        text_config={**SIZES, "vocab_size": 9, "max_position_embeddings": 8},
        vision_config={**SIZES, "image_size": 16, "patch_size": 8},
    )
    tiny.lively(SiglipModel(config), 0).save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


@pytest.fixture(params=["judge", "dino", "siglip"])
def embedder(request, vlm):
    if request.param == "judge":
        return open_embedder("judge", vlm=vlm)
    return open_embedder(str(request.getfixturevalue(request.param)))


def test_vectors_have_unit_length_and_images_differ(embedder):
    vectors = embedder.embed(IMAGES)
    assert vectors.shape == (5, 32) and vectors.dtype == torch.float32
    assert torch.allclose(vectors.norm(dim=1), torch.ones(5))
    alike = vectors @ vectors.T
    assert (alike - torch.eye(5)).max() < 0.999


def test_a_vector_is_the_same_in_any_company(embedder, monkeypatch):
    together = embedder.embed(IMAGES)
    monkeypatch.setattr(similarity, "AT_ONCE", 2)
    assert torch.allclose(embedder.embed(IMAGES), together, atol=1e-5)
    assert torch.allclose(embedder.embed(IMAGES[3:4])[0], together[3], atol=1e-5)


def test_no_images_are_no_vectors(embedder):
    assert embedder.embed([]).shape == (0, 32)


def test_similarity_is_the_cosine(embedder):
    vectors = embedder.embed(IMAGES)
    same = similarity.similarity(vectors, vectors)
    assert same.shape == (5,) and torch.allclose(same, torch.ones(5), atol=1e-6)
    a, b = 3 * vectors[0], 5 * vectors[1]
    expected = torch.nn.functional.cosine_similarity(a, b, dim=0)
    assert torch.isclose(similarity.similarity(vectors[0], vectors[1]), expected, atol=1e-6)


def test_the_judges_eyes_are_the_mean_over_the_tower(vlm):
    pixels = vlm.processor.image_processor(images=[IMAGES[0]], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        tokens = vlm.model.model.vision_tower(pixel_values=pixels).last_hidden_state[0]
    mean = tokens.mean(0)
    embedder = open_embedder("judge", vlm=vlm)
    assert embedder.name == "judge (eyes)"
    assert torch.allclose(embedder.embed(IMAGES[:1])[0], mean / mean.norm(), atol=1e-5)


def test_an_encoder_that_lacks_weights_is_refused_unless_they_are_not_read(dino, tmp_path):
    folder = shutil.copytree(dino, tmp_path / "dino")
    state = load_file(folder / "model.safetensors")
    del state["encoder.layer.0.norm1.weight"]
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(LoadError, match="lacks 1 of its weights, such as encoder.layer.0.norm1.weight"):
        open_embedder(str(folder))
    with pytest.raises(LoadError, match="lacks 1 of its weights"):
        PhotographScorer(str(folder), str(folder), device="cpu")


def test_an_encoder_may_lack_the_pooler_that_is_not_read(tmp_path):
    ViTModel(ViTConfig(**SIZES, image_size=16, patch_size=8), add_pooling_layer=False).save_pretrained(
        tmp_path
    )
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    assert open_embedder(str(tmp_path)).embed(IMAGES).shape == (5, 32)


def test_an_encoder_goes_by_the_name_of_its_folder(dino):
    assert open_embedder(str(dino)).name == "dino"


@pytest.mark.parametrize("judge", [None, SimpleNamespace(name="a-server")])
def test_a_judge_without_eyes_here_says_what_to_name(judge):
    with pytest.raises(LoadError, match="has no vision tower.*facebook/dinov2-base"):
        open_embedder("judge", vlm=judge)


def test_a_judge_of_another_build_says_what_to_name(tmp_path):
    with pytest.raises(LoadError, match="the judge qwen has no vision tower"):
        open_embedder("judge", vlm=open_vlm(str(tiny.qwen(tmp_path / "qwen"))))


def test_what_reads_no_images_is_refused(tmp_path):
    tiny.text_encoders(*tiny.tokenizers())[0].save_pretrained(tmp_path)
    with pytest.raises(LoadError, match=str(tmp_path)):
        open_embedder(str(tmp_path))
    with pytest.raises(LoadError, match="not found: no-such-folder"):
        open_embedder("no-such-folder")


def test_a_text_model_with_an_image_processor_is_refused(tmp_path):
    tiny.text_encoders(*tiny.tokenizers())[0].save_pretrained(tmp_path)
    SiglipImageProcessorPil().save_pretrained(tmp_path)
    with pytest.raises(LoadError, match="reads no images"):
        open_embedder(str(tmp_path))
