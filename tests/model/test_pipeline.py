"""What `DSDPipeline` promises, on random weights: branches, knobs, seeds, batches, frames, mistakes."""

import inspect

import numpy as np
import pytest
import torch
from diffusers import FirstBlockCacheConfig

from dsd.model.encoding import encode_frames
from dsd.model.latents import timesteps
from dsd.model.pipeline import DSDPipeline
from tests import tiny
from tests.tiny import PROMPTS, draw, image, seeded


@torch.no_grad()
def encoded(pipe: DSDPipeline, prompt: str) -> tuple[torch.Tensor, torch.Tensor]:
    return pipe.encode_prompt(prompt, max_sequence_length=16)[:2]


# -- branches


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize(
    ("image", "text", "branches"), [(1.0, 1.0, 1), (1.0, 2.0, 2), (1.5, 1.5, 2), (1.5, 1.0, 3), (1.4, 1.8, 3)]
)
def test_only_the_needed_branches_are_evaluated(pipe, calls, monkeypatch, image, text, branches, together):
    monkeypatch.setattr(pipe, "batch_branches", together)
    draw(pipe, num_inference_steps=5, image_guidance_scale=image, text_guidance_scale=text)
    assert sum(calls) == 2 * 1 + 3 * branches
    assert len(calls) == (5 if together else sum(calls))


@pytest.mark.parametrize(("start", "evaluations"), [(0, 9), (2, 5), (3, 3), (99, 3)])
def test_guidance_starts_where_it_is_told(pipe, calls, start, evaluations):
    draw(pipe, image_guidance_scale=1.5, guidance_start_step=start)
    assert sum(calls) == evaluations


def test_branches_together_or_one_by_one_draw_the_same(pipe, monkeypatch):
    results = []
    for together in (True, False):
        monkeypatch.setattr(pipe, "batch_branches", together)
        results.append(draw(pipe, image_guidance_scale=1.5, text_guidance_scale=2.0))
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)


def test_the_dropped_image_is_zeros_and_the_dropped_text_is_the_empty_prompt(pipe, monkeypatch):
    seen, forward = [], pipe.transformer.forward
    monkeypatch.setattr(pipe, "batch_branches", False)
    monkeypatch.setattr(
        pipe.transformer, "forward", lambda **inputs: seen.append(inputs) or forward(**inputs)
    )
    draw(pipe, num_inference_steps=1, guidance_start_step=0, image_guidance_scale=1.5)
    neither, image, both = seen
    empty, _ = encoded(pipe, "")
    assert neither["hidden_states"][..., 16:].abs().max() == 0
    assert torch.equal(image["hidden_states"], both["hidden_states"])
    assert torch.equal(neither["encoder_hidden_states"], empty)
    assert torch.equal(image["encoder_hidden_states"], empty)
    assert not torch.equal(both["encoder_hidden_states"], empty)


def test_two_frames_of_512_shift_time_as_the_release_does(pipe):
    times = timesteps(pipe.scheduler, 28, 2048)
    sigmas, shift = torch.linspace(1, 1 / 28, 28), np.exp(0.8033)
    torch.testing.assert_close(
        times / 1000, shift * sigmas / (1 + (shift - 1) * sigmas), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(("width", "height"), [(32, 32), (64, 32), (48, 96)])
def test_the_shift_of_a_drawing_grows_with_its_size(pipe, width, height):
    times = []
    draw(pipe, width=width, height=height, callback_on_step_end=lambda *step: times.append(step[2]) or {})
    tokens = 2 * (width // 16) * (height // 16)
    shift = np.exp(0.5 + (tokens - 256) * (1.15 - 0.5) / (4096 - 256))  # FLUX: 256 to 4096 tokens
    sigmas = torch.linspace(1, 1 / 3, 3)
    expected = shift * sigmas / (1 + (shift - 1) * sigmas)
    torch.testing.assert_close(torch.stack(times) / 1000, expected, rtol=1e-4, atol=1e-4)


def test_a_block_cache_serves_the_loop(pipe):
    base = draw(pipe, num_inference_steps=6, image_guidance_scale=1.5)
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.5))
    cached = draw(pipe, num_inference_steps=6, image_guidance_scale=1.5)
    pipe.transformer.disable_cache()
    assert cached.isfinite().all() and not torch.equal(cached, base)
    assert torch.equal(draw(pipe, num_inference_steps=6, image_guidance_scale=1.5), base)


# -- every knob acts, its neutral value does not

KNOBS = [
    ("image_guidance_scale", 1.0, 1.6),
    ("text_guidance_scale", 1.0, 1.6),
    ("guidance_scale", 3.5, 1.5),
    ("joint_attention_kwargs", {}, None),
    ("max_sequence_length", 16, 4),
    ("fit", "crop", "pad"),
]


@pytest.mark.parametrize(("name", "neutral", "other"), KNOBS)
def test_every_knob_acts_and_its_neutral_value_does_not(pipe, name, neutral, other):
    reference = image(size=(64, 32))
    base = draw(pipe, image=reference)
    assert torch.equal(draw(pipe, image=reference, **{name: neutral}), base)
    assert torch.equal(draw(pipe, image=reference, **{name: other}), base) == (other is None)


def test_the_negative_prompt_acts_only_where_text_is_dropped(pipe, caplog):
    base, guided = draw(pipe), draw(pipe, text_guidance_scale=2.0)
    assert torch.equal(draw(pipe, negative_prompt="blurry"), base)
    assert "no effect" in caplog.text
    assert not torch.equal(draw(pipe, negative_prompt="blurry", text_guidance_scale=2.0), guided)


def test_prompt_reference_and_seed_act(pipe):
    base = draw(pipe)
    assert torch.equal(draw(pipe), base)
    for change in ({"prompt": PROMPTS[1]}, {"image": image(1)}, {"generator": seeded(1)}):
        assert not torch.allclose(draw(pipe, **change), base)


def test_embedded_guidance_is_refused_where_there_is_none():
    pipe = tiny.pipeline(guidance_embeds=False)
    assert draw(pipe).isfinite().all()
    with pytest.raises(ValueError, match="guidance is 3.5, but this model has no embedded guidance"):
        draw(pipe, guidance_scale=3.5)


# -- seeds and batches


def test_one_seed_draws_one_image_alone_or_in_a_batch(pipe):
    options = {"image_guidance_scale": 1.5, "text_guidance_scale": 1.2}
    references = [image(0), image(1)]
    batch = draw(pipe, PROMPTS, image=references, generator=seeded(3, 4), **options)
    for i, seed in enumerate((3, 4)):
        alone = draw(pipe, PROMPTS[i], image=references[i], generator=seeded(seed), **options)
        torch.testing.assert_close(batch[i : i + 1], alone, rtol=1e-5, atol=1e-5)


def test_several_images_of_one_prompt(pipe):
    batch = draw(pipe, num_images_per_prompt=2, generator=seeded(0, 5))
    torch.testing.assert_close(batch[:1], draw(pipe), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(batch[1:], draw(pipe, generator=seeded(5)), rtol=1e-5, atol=1e-5)


def test_images_are_grouped_by_prompt(pipe):
    batch = draw(pipe, PROMPTS, num_images_per_prompt=2, generator=seeded(0, 1, 2, 3))
    third = draw(pipe, PROMPTS[1], generator=seeded(2))
    torch.testing.assert_close(batch[2:3], third, rtol=1e-5, atol=1e-5)


def test_one_reference_serves_many_prompts_and_one_prompt_many_references(pipe):
    assert len(draw(pipe, PROMPTS, generator=seeded(0, 1))) == 2
    assert len(draw(pipe, image=[image(i) for i in range(3)], generator=seeded(0, 1, 2))) == 3


def test_a_single_generator_draws_all_noise_as_diffusers_does(pipe):
    ours = draw(pipe, PROMPTS, generator=torch.Generator().manual_seed(0))
    noise = pipe.prepare_latents(2, 4, 32, 64, torch.float32, "cpu", torch.Generator().manual_seed(0))[0]
    assert torch.equal(ours, draw(pipe, PROMPTS, latents=noise, generator=None))


def test_embeddings_stand_in_for_prompts(pipe):
    embeds, pooled = encoded(pipe, PROMPTS[0])
    ours = draw(pipe, None, prompt_embeds=embeds, pooled_prompt_embeds=pooled, image_guidance_scale=1.5)
    assert torch.equal(ours, draw(pipe, image_guidance_scale=1.5))


def test_components_may_be_none_when_nothing_needs_them(pipe):
    embeds, pooled = encoded(pipe, PROMPTS[0])
    bare = DSDPipeline(
        **{**dict.fromkeys(pipe.components), "transformer": pipe.transformer, "scheduler": pipe.scheduler}
    )
    packed = torch.randn(1, 8, 16)
    options = {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled, "height": 32, "width": 32}
    assert draw(bare, None, image=packed, **options).shape == (1, 8, 16)
    with pytest.raises(ValueError, match="without a vae"):
        draw(bare, None, **options)
    with pytest.raises(ValueError, match="no text encoders: pass negative_prompt_embeds"):
        draw(bare, None, image=packed, image_guidance_scale=1.5, guidance_start_step=0, **options)


# -- frames


@pytest.mark.parametrize(("width", "height"), [(32, 32), (48, 16), (16, 64)])
def test_frames_of_any_shape(pipe, width, height):
    output = pipe(PROMPTS[0], image=image(), width=width, height=height, num_inference_steps=1)
    assert output.images[0].size == output.references[0].size == (width, height)


def test_the_frame_is_half_the_vaes_image(pipe):
    assert pipe.frame_size == tiny.FRAME
    assert pipe(PROMPTS[0], image=image(), num_inference_steps=1).images[0].size == (32, 32)
    assert DSDPipeline(**{**tiny.components(), "vae": tiny.vae(1024)}).frame_size == 512


def test_output_types(pipe):
    options = {"image": image(), "num_inference_steps": 1, "width": 48, "height": 32}
    assert pipe(PROMPTS[0], output_type="np", **options).images.shape == (1, 32, 48, 3)
    assert pipe(PROMPTS[0], output_type="pt", **options).references.shape == (1, 3, 32, 48)
    latent = pipe(PROMPTS[0], output_type="latent", **options)
    assert latent.images.shape == (1, 2 * 6, 16) and latent.references is None
    assert isinstance(pipe(PROMPTS[0], return_dict=False, **options), tuple)


def test_an_encoded_condition_is_the_same_reference(pipe):
    condition = encode_frames(pipe, [[image()]])
    kept = condition.clone()
    assert torch.equal(draw(pipe, image=condition), draw(pipe)) and torch.equal(condition, kept)


def test_the_reference_is_never_sampled():
    pipe = tiny.pipeline()
    torch.nn.init.zeros_(pipe.vae.encoder.conv_out.bias)  # log variance 0: sampling would show
    noise = torch.randn(1, 2 * 4, 16)
    first, second = (draw(pipe, latents=noise, generator=seeded(seed)) for seed in (0, 1))
    assert torch.equal(first, second)


# -- mistakes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image": None}, "image is missing"),
        ({"image": []}, "image is missing"),
        ({"image": "cat.png"}, "must hold PIL images, got str"),
        ({"image": [image()] * 3, "prompt": PROMPTS}, "2 prompts do not go with 3 references"),
        ({"prompt": None}, "either prompt or prompt_embeds"),
        ({"height": 0}, "height must be a whole number from 16 to 2048, got 0"),
        ({"width": 32.0}, "width must be a whole number from 16 to 2048, got 32.0"),
        ({"width": 40}, "width must be a multiple of 16, got 40; try 32 or 48"),
        ({"image": torch.zeros(1, 3, 16, 16)}, r"must be \[B, tokens, C\], got \[1, 3, 16, 16\]"),
        ({"num_inference_steps": 0}, "steps must be a whole number from 1 to 200, got 0"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt must be a whole number from 1 to 1000, got 0"),
        ({"output_type": "jpg"}, "output_type must be one of"),
        ({"fit": "stretch"}, "fit must be one of crop, pad"),
        ({"latents": torch.zeros(1, 5, 16)}, r"latents must be \[1, 8, 16\]"),
        ({"negative_prompt": ["a", "b", "c"]}, "3 negative prompts do not go with 1 images"),
        ({"prompt_embeds": torch.zeros(1, 4, 32), "prompt": None}, "belong together"),
        ({"callback_on_step_end_tensor_inputs": ("noise",)}, "must be one of latents, got 'noise'"),
        ({"generator": seeded(0, 1)}, "list of generators of length 2"),
    ],
)
def test_mistakes_name_the_value_and_the_remedy(pipe, options, message):
    with pytest.raises(ValueError, match=message):
        draw(pipe, **options)


def test_an_unknown_option_is_refused(pipe):
    with pytest.raises(TypeError, match="true_cfg_scale"):
        draw(pipe, true_cfg_scale=2.0)


def test_a_plain_flux_is_refused():
    pipe = DSDPipeline(**{**tiny.components(), "transformer": tiny.plain_transformer()})
    with pytest.raises(ValueError, match="reads 16 channels and cannot see a reference"):
        draw(pipe)


def test_the_signature_spells_out_the_options():
    parameters = inspect.signature(DSDPipeline.__call__).parameters
    assert list(parameters)[:3] == ["self", "prompt", "negative_prompt"]
    assert parameters["quality"].default == "best" and "return_dict" in parameters
