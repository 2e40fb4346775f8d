"""Every baseline begins as the teacher, learns only what it should, and comes back as it was saved."""

from dataclasses import replace

import pytest
import torch
from transformers import SiglipImageProcessorPil, SiglipVisionConfig, SiglipVisionModel

from dsd.model import canvas, encoding, latents
from dsd.training.batches import Batch
from dsd.training.loop import train
from dsd.training.student import find_base, open_encoders
from dsd.vlm.embed import Embedder
from tests import student, tiny
from train.baselines import concatenation, image_prompt, reference_tokens, single_frame

SIZE = (tiny.FRAME, tiny.FRAME)
NAMES = ("concatenation", "reference tokens", "image prompt")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return student.teacher(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="module")
def wraps():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = SiglipVisionConfig(**sizes, image_size=16, patch_size=8, vision_use_head=False)
    processor = SiglipImageProcessorPil(
        size={"height": 16, "width": 16}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    encoder = Embedder("eyes", SiglipVisionModel(config).eval(), processor)
    made = (concatenation.wrap, reference_tokens.wrap, image_prompt.wrapper(encoder))
    return dict(zip(NAMES, made, strict=True))


@pytest.fixture(scope="module")
@torch.no_grad()
def batch(teacher) -> Batch:
    pipe = open_encoders(find_base(student.options(teacher)), torch.float32)
    generator = torch.Generator().manual_seed(0)
    condition = encoding.encode_frames(pipe, [[tiny.image(1)], [tiny.image(2)]])
    target = canvas.to_tensor([tiny.image(3), tiny.image(4)])
    data = latents.pack(latents.encode(pipe.vae, torch.cat([target, target], dim=-1)))
    texts = single_frame.encode_texts(pipe, tiny.PROMPTS)
    noise = torch.randn(data.shape, generator=generator)
    return Batch(data, condition, noise, torch.tensor([0.3, 0.7]), *texts, SIZE)


def opened(wrap, options):
    return single_frame.open_trainable(wrap, find_base(options), options, torch.float32)


def pipe_with(model, options):
    pipe = open_encoders(find_base(options), torch.float32)
    pipe.register_modules(transformer=model)
    return pipe


def inputs(batch: Batch, model, pipe):
    reference, target = single_frame.split(batch.data, SIZE, pipe.vae_scale_factor)
    positions = latents.positions(*SIZE, vae_scale=pipe.vae_scale_factor)
    return (
        target,
        model.see(reference, SIZE),
        single_frame.transformer_inputs(batch.t, (batch.embeds, batch.pooled), positions, 3.5),
    )


@torch.no_grad()
def test_a_canvas_is_split_into_the_tokens_of_its_frames():
    left, right = torch.randn(2, 1, 4, 4, 6)
    both = latents.pack(torch.cat([left, right], dim=-1))
    halves = single_frame.split(both, (64, 96), 16)
    assert torch.equal(halves[0], latents.pack(left)) and torch.equal(halves[1], latents.pack(right))


@torch.no_grad()
@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("name", ["concatenation", "image prompt"])
def test_what_starts_at_zero_draws_as_the_teacher(teacher, wraps, batch, name, full):
    options = student.options(teacher, full=full, lora_dropout=0.0)
    model = opened(wraps[name], options)
    plain = tiny.plain_transformer()
    plain.load_state_dict(opened(reference_tokens.wrap, replace(options, full=True)).transformer.state_dict())
    x_t, seen, others = inputs(batch, model, pipe_with(model, options))
    assert seen.any()
    expected = plain(hidden_states=x_t, **others)[0]
    assert torch.allclose(model(x_t, seen, **others), expected, atol=1e-5)
    for weight in model.added():  # and once they are not zero, the reference is seen
        weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    assert not torch.allclose(model(x_t, seen, **others), expected, atol=1e-3)
    one, other = (model(x_t, seen * factor, **others) for factor in (1, -1))
    assert not torch.allclose(one, other, atol=1e-4)


@torch.no_grad()
def test_reference_tokens_stand_to_the_right_of_the_target(teacher, batch):
    options = student.options(teacher, full=True)
    model = opened(reference_tokens.wrap, options)
    pipe = pipe_with(model, options)
    x_t, seen, others = inputs(batch, model, pipe)
    canvas_tokens = latents.pack(
        torch.cat([latents.unpack(one, *SIZE, vae_scale=pipe.vae_scale_factor) for one in (x_t, seen)], -1)
    )
    wide = latents.positions(SIZE[0], 2 * SIZE[1], vae_scale=pipe.vae_scale_factor)
    expected = model.transformer(hidden_states=canvas_tokens, **others | {"img_ids": wide})[0]
    expected, _ = single_frame.split(expected, SIZE, pipe.vae_scale_factor)
    assert torch.allclose(model(x_t, seen, **others), expected, atol=1e-5)


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_a_few_steps_lower_the_loss_and_leave_the_frozen_weights(teacher, wraps, batch, name, full):
    options = student.options(teacher, full=full, lora_dropout=0.0)
    model = opened(wraps[name], options)
    pipe = pipe_with(model, options)
    frozen = {k: w.clone() for k, w in model.named_parameters() if not w.requires_grad}
    optimizer = torch.optim.AdamW(single_frame.trained(model).values(), 1e-3)
    losses = []
    for _ in range(4):
        losses.append(single_frame.loss(model, batch, options, pipe))
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0]
    now = dict(model.named_parameters())
    assert all(torch.equal(now[key], weight) for key, weight in frozen.items())
    assert bool(frozen) == (not full or name == "image prompt")


@pytest.mark.parametrize("name, full", [(NAMES[0], False), (NAMES[1], True), (NAMES[2], False)])
def test_a_trained_model_comes_back_and_draws(teacher, wraps, tmp_path, name, full):
    options = student.options(teacher, full=full, steps=1, text_dropout=0.5)
    train(student.pairs(4), options, tmp_path, method=single_frame.method(wraps[name]))
    base = find_base(options)
    model = single_frame.load(wraps[name], base, options, tmp_path, torch.float32)
    start = opened(wraps[name], options)
    changed = [k for k, w in model.named_parameters() if not torch.equal(w, start.get_parameter(k))]
    assert changed and {*changed} <= single_frame.trained(start).keys()
    pipe = open_encoders(base, torch.float32)
    draw = single_frame.by_single_frame(pipe, model, steps=3, guidance=3.5, image_guidance=1.5)
    images = draw(tiny.PROMPTS, [tiny.image(1), tiny.image(2)], [0, 1])
    alone = draw(tiny.PROMPTS[1:], [tiny.image(2)], [1])
    assert [image.size for image in images] == [SIZE, SIZE]
    assert torch.allclose(canvas.to_tensor(images[1:]), canvas.to_tensor(alone), atol=0.02)


def test_weights_of_other_settings_are_refused(teacher, wraps, tmp_path):
    options = student.options(teacher, full=True)
    model = opened(concatenation.wrap, options)
    single_frame.save_weights(find_base(options), options, dict(model.named_parameters()), tmp_path)
    with pytest.raises(ValueError, match="was trained with other settings"):
        single_frame.load(
            concatenation.wrap, find_base(options), replace(options, full=False), tmp_path, torch.float32
        )


def test_no_reference_is_no_token(teacher, wraps):
    model = opened(wraps["image prompt"], student.options(teacher, full=True))
    reference = torch.randn(2, 16, 16)
    reference[1] = 0
    tokens = model.see(reference[:, :4], SIZE)
    assert tokens[0].any() and not tokens[1].any()
