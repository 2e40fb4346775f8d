"""The recorded results of the published implementation, met through the public face."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler
from PIL import Image
from safetensors.torch import load_file

from dsd.pipeline import DSDPipeline
from dsd.transformer import load_transformer

REFERENCE = Path(__file__).parent / "reference_parity"
SCALES = {"off": (1.0, 1.0), "img": (1.5, 1.0), "both": (1.4, 1.8)}


@pytest.fixture(scope="module")
def golden() -> dict:
    return load_file(REFERENCE / "golden.safetensors")


@pytest.fixture(scope="module")
def pipe() -> DSDPipeline:
    pipe = DSDPipeline(
        transformer=load_transformer(REFERENCE / "transformer"),
        vae=AutoencoderKL.from_pretrained(REFERENCE / "vae"),
        scheduler=FlowMatchEulerDiscreteScheduler.from_pretrained(REFERENCE / "scheduler"),
        text_encoder=None,
        text_encoder_2=None,
        tokenizer=None,
        tokenizer_2=None,
    )
    pipe.load_lora_weights(str(REFERENCE))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe: DSDPipeline, golden: dict, name: str, **options) -> DSDPipeline:
    embeds = {key: value for key, value in golden.items() if key.endswith("embeds")}
    image_scale, text_scale = SCALES[name]
    return pipe(
        image=Image.open(REFERENCE / "reference.png"),
        height=512,
        width=512,
        num_inference_steps=5,
        guidance_scale=3.5,
        image_guidance_scale=image_scale,
        text_guidance_scale=text_scale,
        latents=golden["latents"],
        **embeds,
        **options,
    )


@pytest.fixture(scope="module")
def both(pipe, golden) -> tuple[torch.Tensor, torch.Tensor]:
    """Last latents and picture of one drawing with both scales."""
    kept = {}

    def keep(pipe, index, timestep, tensors):
        kept.update(tensors)
        return tensors

    drawn = draw(pipe, golden, "both", output_type="np", callback_on_step_end=keep)
    return kept["latents"], torch.from_numpy(drawn.images)


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return ((ours - theirs).norm() / theirs.norm()).item()


@pytest.mark.parametrize("name", ["off", "img"])
def test_latents_match_the_published_implementation(pipe, golden, name):
    ours = draw(pipe, golden, name, output_type="latent").images
    assert difference(ours, golden[f"final_{name}"]) < 1e-5


def test_so_do_those_with_both_scales(both, golden):
    assert difference(both[0], golden["final_both"]) < 1e-5


def test_the_decoded_right_half_matches(both, golden):
    assert difference(both[1][:, ::8, ::8], golden["image_both"]) < 1e-5


def test_the_parent_folder_opens_too():
    assert load_transformer(REFERENCE).config.in_channels == 128
