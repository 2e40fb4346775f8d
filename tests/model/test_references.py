"""Several references of one subject: one draws as ever, each further one acts, mistakes are sentences."""

import pytest
import torch

from dsd.model import latents
from dsd.model.encoding import encode_frames
from dsd.model.request import Request
from tests import tiny
from tests.tiny import PROMPTS, draw, image, seeded

A, B, C, D = (image(seed) for seed in range(4))
CANVAS, FRAME = 8, 4  # tokens


@pytest.fixture(scope="module")
def pipe():
    pipe = tiny.pipeline()
    pipe.trained_references = 4
    return pipe


def test_one_reference_draws_bit_for_bit_the_same_however_it_is_passed(pipe):
    other = tiny.pipeline()  # knows only one
    guided = {"image_guidance_scale": 1.5, "text_guidance_scale": 1.2}
    assert torch.equal(draw(pipe, image=[[A]], **guided), draw(other, image=A, **guided))


def test_every_reference_acts_and_has_all_its_tokens(pipe):
    images = dict(zip("abcd", (A, B, C, D), strict=True))
    shown = {name: [images[letter] for letter in name] for name in ("a", "ab", "ac", "abc", "abcd")}
    drawn = {name: draw(pipe, image=[references]) for name, references in shown.items()}
    assert {name: one.shape[1] - CANVAS for name, one in drawn.items()} == {
        name: FRAME * (len(name) - 1) for name in drawn
    }
    targets = [one[:, :CANVAS] for one in drawn.values()]
    assert all(not torch.allclose(one, other) for one in targets for other in targets if one is not other)


def test_the_order_of_references_and_a_repeated_one_count(pipe):
    ab, ba, aa, a = (draw(pipe, image=[shown])[:, :CANVAS] for shown in ([A, B], [B, A], [A, A], [A]))
    assert not torch.allclose(ab, ba) and not torch.allclose(aa, a)
    abc, acb = (draw(pipe, image=[shown])[:, :CANVAS] for shown in ([A, B, C], [A, C, B]))
    assert not torch.allclose(abc, acb)


def test_the_noise_of_the_canvas_does_not_depend_on_further_references(pipe):
    one, three = (
        latents.sample_noise(pipe, torch.zeros(2, tokens, 16), 32, 32, seeded(3, 4)) for tokens in (8, 16)
    )
    assert torch.equal(three[:, :CANVAS], one) and len(three.unique()) == three.numel()


def test_positions_are_those_of_the_first_reference_with_a_number_of_their_own():
    one, three = (latents.canvas_positions(count, 32, 48) for count in (1, 3))
    assert torch.equal(one, latents.positions(32, 96)) and torch.equal(three[: len(one)], one)
    left = one[one[:, 2] < 3]
    for number, further in enumerate(three[len(one) :].chunk(2), 1):
        assert torch.equal(further[:, 1:], left[:, 1:]) and further[:, 0].eq(number).all()


def test_a_batch_draws_what_each_draws_alone(pipe):
    options = {"image_guidance_scale": 1.5}
    batch = draw(pipe, PROMPTS, image=[[A, B], [C, D]], generator=seeded(3, 4), **options)
    for i, shown in enumerate(([A, B], [C, D])):
        alone = draw(pipe, PROMPTS[i], image=[shown], generator=seeded(3 + i), **options)
        torch.testing.assert_close(batch[i : i + 1], alone, rtol=1e-5, atol=1e-5)
    flat = draw(pipe, PROMPTS, image=[A, C], generator=seeded(3, 4))
    assert flat.shape[1] == CANVAS, "a plain list is still one reference for each prompt"


def test_all_references_are_dropped_together(pipe, monkeypatch):
    seen, forward = [], pipe.transformer.forward
    monkeypatch.setattr(pipe, "batch_branches", False)
    monkeypatch.setattr(
        pipe.transformer, "forward", lambda **inputs: seen.append(inputs) or forward(**inputs)
    )
    draw(pipe, image=[[A, B]], num_inference_steps=1, guidance_start_step=0, image_guidance_scale=1.5)
    neither, both = seen[0]["hidden_states"], seen[-1]["hidden_states"]
    assert neither[..., 16:].abs().max() == 0 and both[:, CANVAS:, 16:].abs().amin(2).max() > 0
    assert torch.equal(neither[..., :16], both[..., :16])


def test_an_encoded_condition_draws_the_same(pipe):
    condition = encode_frames(pipe, [[A, B]])
    assert torch.equal(draw(pipe, image=condition), draw(pipe, image=[[A, B]]))
    alone = encode_frames(pipe, [[B]])[:, [0, 1, 4, 5]]  # the left frame of [b | black]
    torch.testing.assert_close(condition[:, CANVAS:], alone)


def test_images_and_previews_are_of_the_target(pipe):
    *steps, output = pipe.stream(Request(prompt="a hat", image=[[A, B]], generator=seeded(0)))
    assert [one.size for one in output.images + steps[-1].preview()] == [(32, 32)] * 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([[A, B], [C]], "each prompt of a call needs as many references, got 1 and 2: call it once for each"),
        ([[A] * 5], r"trained with 4 references, got 5: pass fewer .*--references 5"),
        ([[]], "image is missing"),
        ([[A, "b.png"]], "must hold PIL images, got str"),
        (torch.zeros(1, 10, 16), "frames of 32 x 32 must have 8 tokens, and 4 more for each .*, got 10"),
        (torch.zeros(1, 24, 16), "trained with 4 references, got 5"),
    ],
)
def test_mistakes_name_the_value_and_the_remedy(pipe, given, message):
    with pytest.raises(ValueError, match=message):
        draw(pipe, PROMPTS if len(given) == 2 else PROMPTS[0], image=given)


def test_weights_of_one_reference_refuse_several():
    with pytest.raises(ValueError, match=r"trained with 1 reference, got 2: .* train.train --references 2"):
        draw(tiny.pipeline(), image=[[A, B]])
