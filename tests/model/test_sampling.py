"""Qualities: what they cost, that their solvers solve, that images made with them can be made again."""

import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from PIL import Image

from dsd.generate import command, drawing, provenance
from dsd.generate.drawing import Options
from dsd.generate.flags import parse
from dsd.model import sampling as quality
from dsd.model.checkpoint import model_hash
from dsd.model.encoding import encode
from dsd.model.latents import timesteps
from dsd.model.request import DrawingOptions, Request
from dsd.model.sampling import QUALITIES, SOLVERS, Quality
from tests import tiny
from tests.tiny import draw, seeded
from train.comparison import part_hashes


@pytest.fixture(scope="module")
def pipe():
    return tiny.pipeline(guidance_embeds=False)


@pytest.fixture
def calls(pipe, monkeypatch) -> list[int]:
    return tiny.count_calls(pipe, monkeypatch)


@pytest.fixture(scope="module")
def own() -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler()


def photo() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8))


def options(**changes) -> Options:
    return Options(**{"prompt": "a red hat", "seed": 7} | changes)


# -- what they cost


def evaluations(name: str, branches: int = 3) -> int:
    """Of one image; the two guidance scales of the default take three branches."""
    asked = QUALITIES[name]
    return asked.steps + (branches - 1) * len(asked.guided)


def test_each_quality_takes_the_evaluations_that_it_says(pipe, calls):
    for name in ("draft", "balanced"):
        calls.clear()
        draw(pipe, quality=name, num_inference_steps=None, image_guidance_scale=1.5)
        assert sum(calls) == evaluations(name)


def test_balanced_takes_less_than_half_and_draft_less_than_a_fifth():
    assert evaluations("best") >= 2 * evaluations("balanced") >= 4 * evaluations("draft")
    assert evaluations("best") >= 5 * evaluations("draft")


def test_best_is_the_pipelines_own_schedule(pipe):
    base = draw(pipe, image_guidance_scale=1.5, guidance_start_step=2)
    assert torch.equal(draw(pipe, quality="best", image_guidance_scale=1.5), base)
    own = quality.schedule(QUALITIES["best"], pipe.scheduler, 8)[0]
    assert type(own) is type(pipe.scheduler) and own.config == pipe.scheduler.config
    assert (QUALITIES["best"].steps, QUALITIES["best"].guidance_stop) == (28, 1.0)


@pytest.mark.parametrize("changed", [{"solver": "unipc"}, {"guidance_start": 1}, {"guidance_stop": 0.5}])
def test_every_setting_acts(pipe, changed):
    asked = {"num_inference_steps": 4, "image_guidance_scale": 1.5}
    assert not torch.equal(draw(pipe, **asked, quality=Quality(**changed)), draw(pipe, **asked))


def test_what_a_request_says_itself_goes_before_the_quality(pipe, calls):
    draw(pipe, quality="draft", num_inference_steps=5, guidance_start_step=0, image_guidance_scale=1.5)
    assert sum(calls) == 5 + 2 * round(5 * QUALITIES["draft"].guidance_stop)


def test_guidance_rests_after_its_share_of_the_steps(pipe, calls):
    own = Quality(steps=6, guidance_start=1, guidance_stop=0.5)
    draw(pipe, quality=own, num_inference_steps=None, image_guidance_scale=1.5)
    assert calls == [1, 3, 3, 1, 1, 1]


def test_branches_are_one_call_for_a_few_images_and_one_each_for_many(pipe, calls):
    for images, expected in ((1, [3]), (4, [12]), (5, [5, 5, 5])):
        calls.clear()
        asked = {"num_inference_steps": 1, "guidance_start_step": 0, "image_guidance_scale": 1.5}
        draw(pipe, num_images_per_prompt=images, generator=seeded(*range(images)), **asked)
        assert calls == expected


# -- solvers


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_straight_flow_is_followed_to_its_end(own, solver):
    data, noise = torch.randn(2, 3, 8, generator=seeded(1)[0])
    assert (
        walk(own, solver, 5, noise, lambda x, t: noise - data) - data
    ).abs().max() < 1e-2  # some begin at 0.999


def test_a_bent_flow_is_followed_better_than_by_euler(own):
    """Data of one Gaussian of deviation 0.3: x at time t is known, and so is its velocity."""
    spread = lambda t: math.sqrt(t**2 + (0.3 * (1 - t)) ** 2)  # noqa: E731
    velocity = lambda x, t: x * (t - 0.09 * (1 - t)) / spread(t) ** 2  # noqa: E731
    start = torch.ones(4, 8)
    error = {s: (walk(own, s, 9, start, velocity) - 0.3).abs().max().item() for s in SOLVERS}
    assert error["unipc"] < error["euler"] / 2


def walk(own, solver, steps, x, velocity):
    made, times = quality.schedule(Quality(solver=solver, steps=steps), own, 8)
    assert len(times) == steps
    for t in times:
        x = made.step(velocity(x, float(t) / 1000), t, x, return_dict=False)[0]
    return x


@pytest.fixture
def stochastic():
    pipe = tiny.pipeline(guidance_embeds=False)
    quality.make_stochastic(pipe)
    return pipe


@pytest.mark.parametrize("name", QUALITIES)
def test_new_noise_comes_from_each_images_generator(stochastic, name):
    drawn = {"quality": name, "num_inference_steps": None, "num_images_per_prompt": 1}
    one, two = (draw(stochastic, generator=seeded(seed), **drawn) for seed in (1, 2))
    torch.manual_seed(3)  # the noise is not from torch's own generator
    both = draw(stochastic, generator=seeded(1, 2), **drawn | {"num_images_per_prompt": 2})
    torch.testing.assert_close(both, torch.cat([one, two]), atol=1e-5, rtol=0)
    assert not torch.equal(one, two)


def test_noise_is_replaced_and_a_straight_flow_is_still_followed(stochastic, own):
    data, noise = torch.randn(2, 3, 8, generator=seeded(1)[0])
    solver, times = quality.schedule(Quality(steps=4), stochastic.scheduler, 8)
    x = noise
    for index, t in enumerate(times):
        now = float(t) / 1000
        x = quality.advance(solver, (x - data) / now, t, x, seeded(2)[0])
        after = float(solver.sigmas[index + 1])
        assert after == 0 or (x - data.lerp(noise, after)).abs().mean() > 0.1 * after  # of Euler's step
    torch.testing.assert_close(x, data)


def test_the_solver_is_part_of_what_identifies_a_model(stochastic):
    plain = tiny.pipeline(guidance_embeds=False)
    assert part_hashes(plain) != part_hashes(stochastic)  # so that no stored image is taken for a new one
    assert model_hash(plain) != model_hash(stochastic) and len(model_hash(stochastic)) == 12
    differs = {
        name for name, value in plain.scheduler.config.items() if stochastic.scheduler.config[name] != value
    }
    assert differs - {"_use_default_values"} == {"stochastic_sampling"}


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("dynamic", [True, False])
def test_solvers_keep_the_models_own_times(solver, dynamic):
    own = FlowMatchEulerDiscreteScheduler(shift=2.0, use_dynamic_shifting=dynamic)
    times = quality.schedule(Quality(solver=solver), own, 2048)[1]
    assert (times - timesteps(own, 28, 2048)).abs().max() < 4  # of 1000; some solvers round


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"solver": "magic"}, "solver must be one of euler, .* got 'magic'"),
        ({"steps": 0}, "steps must be a whole number from 1 to 1000, got 0"),
        ({"guidance_stop": float("nan")}, "guidance_stop must be from 0 to 1, got nan"),
        ({"guidance_stop": 2}, "guidance_stop must be from 0 to 1, got 2"),
        ({"name": "<b>"}, "name must be one of"),
    ],
)
def test_an_impossible_quality_is_refused_with_its_value(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        Quality(**change)


def test_an_unknown_name_is_refused(pipe):
    for name in ("ultra", None, ["best"]):
        with pytest.raises(ValueError, match="quality must be one of draft, balanced, best"):
            draw(pipe, quality=name)
        with pytest.raises(ValueError, match="quality must be one of draft, balanced, best"):
            options(quality=name)


# -- in images' settings and on the command line


def test_a_draft_is_made_again_from_its_file(pipe, tmp_path):
    result = drawing.generate(pipe, photo(), options(quality="draft"))[0]
    settings = provenance.read_settings(drawing.save(result, tmp_path / "draft.png"))
    assert settings["steps"] == QUALITIES["draft"].steps and settings["quality"]["name"] == "draft"
    again = drawing.generate(pipe, photo(), drawing.options_from(settings))[0]
    assert again.image.tobytes() == result.image.tobytes()
    assert drawing.options_from(settings).loop == QUALITIES["draft"]


def test_images_from_before_there_were_qualities_are_best(pipe):
    settings = drawing.generate(pipe, photo(), options(steps=2))[0].settings
    del settings["quality"]
    assert drawing.options_from(settings).loop == replace(QUALITIES["best"], steps=2)


def test_images_of_version_0_carry_a_shift_of_one():
    assert quality.from_settings(asdict(QUALITIES["draft"]) | {"shift": 1.0}) == QUALITIES["draft"]
    with pytest.raises(ValueError, match="unreadable quality.*shift"):
        quality.from_settings({"shift": 2.0})


@pytest.mark.parametrize("forged", [None, 3, [1], {"speed": 1}, {"solver": "x"}, {"steps": "many"}])
def test_a_forged_quality_ends_in_a_sentence(pipe, forged):
    settings = drawing.generate(pipe, photo(), options(steps=1))[0].settings
    with pytest.raises(ValueError):
        drawing.options_from(settings | {"quality": forged})


@pytest.mark.parametrize(
    ("flags", "name", "steps"),
    [
        ([], "best", 28),
        (["--fast"], "draft", QUALITIES["draft"].steps),
        (["--quality", "balanced", "--steps", "5"], "balanced", 5),
    ],
)
def test_the_command_takes_a_quality(pipe, tmp_path, monkeypatch, capsys, flags, name, steps):
    monkeypatch.setattr("dsd.model.checkpoint.load_pipeline", lambda *_, **__: pipe)
    photo().save(tmp_path / "in.png")
    out = str(tmp_path / "out.png")
    argv = [str(tmp_path / "in.png"), "a hat", "-o", out, *flags]
    assert command.run(parse(argv)) == 0
    settings = provenance.read_settings(out)
    assert (settings["quality"]["name"], settings["steps"]) == (name, steps)


# -- once per request, and nothing before it is needed


def test_words_and_reference_are_encoded_once_for_all_images(pipe):
    parts = {"text": pipe.text_encoder_2, "pooled": pipe.text_encoder, "reference": pipe.vae.encoder}
    seen = dict.fromkeys(parts, 0)

    def look(name: str):
        return lambda *_: seen.update({name: seen[name] + 1})

    handles = [part.register_forward_hook(look(name)) for name, part in parts.items()]
    try:
        drawing.generate(pipe, photo(), options(steps=3, count=2 * drawing.BATCH + 1))
    finally:
        for handle in handles:
            handle.remove()
    assert seen == {"text": 2, "pooled": 2, "reference": 1}  # two: the prompt, and what drops it


def test_more_steps_do_not_ask_more_often_where_the_pipeline_is(pipe, monkeypatch):
    """diffusers looks through every module of every part for an answer: 2 ms at every step of pocket."""
    find, asked = type(pipe)._execution_device.fget, []
    monkeypatch.setattr(type(pipe), "_execution_device", property(lambda p: asked.append(1) or find(p)))
    counts = []
    for steps in (2, 6):
        asked.clear()
        draw(pipe, num_inference_steps=steps, image_guidance_scale=1.5, guidance_start_step=0)
        counts.append(len(asked))
    assert counts[0] == counts[1]


@pytest.mark.parametrize("scales", [(1.0, 1.0), (1.5, 1.0), (1.0, 2.0)])
def test_a_request_that_is_already_encoded_draws_the_same(pipe, scales):
    image, text = scales
    request = Request(
        options=DrawingOptions(image_guidance=image, text_guidance=text, steps=3),
        prompt="a red hat", negative_prompt="a hat", image=tiny.image(), output_type="latent",
    )  # fmt: skip
    outputs = []
    for each in (request, encode(pipe, request)):
        *_, output = pipe.stream(replace(each, generator=seeded(0)))
        outputs.append(output.images)
    assert torch.equal(*outputs)
