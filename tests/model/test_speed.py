"""Caches and attention backends: off they change nothing, on they act, and each image can be drawn again."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from dsd.generate import drawing
from dsd.model import compile as compiling
from dsd.model.checkpoint import LoadError, load_pipeline
from dsd.model.request import DrawingOptions, Request
from dsd.model.speed import CACHES, Speed, attend, from_settings, parse_cache
from tests import tiny
from tests.hub.running import run, succeed

NEUTRAL = ("first-block:0", "taylorseer:1", "mag:0")
STRONG = ("first-block:100", "taylorseer:4", "mag:100")
GUIDED = {"image_guidance_scale": 2.0, "text_guidance_scale": 1.5, "num_inference_steps": 8}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pipe():
    pipe = tiny.pipeline()
    pipe.batch_branches = False  # as with a cache
    return pipe


@pytest.fixture
def cached(pipe):
    """The pipeline with a cache that a test sets."""
    yield lambda cache: setattr(pipe, "speed", Speed(cache=cache)) or pipe
    pipe.speed = Speed()


@pytest.mark.parametrize("cache", NEUTRAL)
def test_a_neutral_cache_equals_none(pipe, cached, cache):
    plain = tiny.draw(pipe, **GUIDED)
    assert torch.equal(tiny.draw(cached(cache), **GUIDED), plain)


@pytest.mark.parametrize("cache", STRONG)
def test_a_strong_cache_skips_blocks_and_changes_the_image(pipe, cached, cache):
    calls = []
    handle = pipe.transformer.single_transformer_blocks[-1].attn.register_forward_pre_hook(
        lambda *_: calls.append(1)
    )
    plain, all_calls = tiny.draw(pipe, **GUIDED), len(calls)
    changed = tiny.draw(cached(cache), **GUIDED)
    handle.remove()
    assert not torch.equal(plain, changed)
    assert len(calls) - all_calls < all_calls or cache.startswith("taylorseer")  # it replaces the call itself


@pytest.mark.parametrize("cache", STRONG)
def test_two_images_together_equal_each_alone(cached, cache):
    pipe = cached(cache)
    both = tiny.draw(pipe, **GUIDED, num_images_per_prompt=2, generator=tiny.seeded(3, 4))
    for image, seed in zip(both, (3, 4), strict=True):
        assert torch.equal(tiny.draw(pipe, **GUIDED, generator=tiny.seeded(seed))[0], image)


@pytest.mark.parametrize("cache", STRONG)
def test_drawings_may_overlap_and_leave_nothing_behind(pipe, cached, cache):
    plain = tiny.draw(pipe, **GUIDED)
    options = DrawingOptions(steps=8, image_guidance=2.0, text_guidance=1.5)
    cached(cache)
    request = Request(options=options, prompt="a hat", image=tiny.image(), output_type="latent")

    def start(seed: int):
        return pipe.stream(replace(request, generator=tiny.seeded(seed)))

    alone = [list(start(seed))[-1].images for seed in (1, 2)]
    together = list(zip(start(1), start(2), strict=True))[-1]
    assert all(torch.equal(one, other.images) for one, other in zip(alone, together, strict=True))
    pipe.speed = Speed()
    assert not pipe.transformer.is_cache_enabled and torch.equal(tiny.draw(pipe, **GUIDED), plain)


def test_a_drawing_that_fails_or_is_closed_ends_its_cache(pipe, cached):
    options = DrawingOptions(steps=8)
    request = Request(options=options, prompt="a hat", image=tiny.image())
    steps = cached("mag").stream(request)
    next(steps)
    other = pipe.stream(replace(request, options=DrawingOptions(steps=4)))
    with pytest.raises(ValueError, match="a drawing of 8 steps is running with a cache: finish or close it"):
        next(other)
    steps.close()
    assert not pipe.transformer.is_cache_enabled and len(list(pipe.stream(request))) == 9


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tea", "cache must be one of first-block, taylorseer, mag, with :STRENGTH or without, got 'tea'"),
        ("first-block:-1", "the strength of first-block must be a number from 0, got 'first-block:-1'"),
        ("mag:nan", "the strength of mag must be a number from 0"),
        ("taylorseer:0.5", "must be a whole number of steps from 1, got 'taylorseer:0.5'"),
    ],
)
def test_a_wrong_cache_is_refused_before_anything_is_loaded(text, message):
    with pytest.raises(ValueError, match=message):
        load_pipeline("pocket", device="cpu", cache=text)


def test_each_cache_has_a_usual_strength():
    assert {name: parse_cache(name)[1] for name in CACHES} == CACHES


def test_a_cache_is_not_compiled(cached):
    assert "uncompiled" in compiling.compile_blocks(cached("mag"))


# -- attention backends


def test_an_attention_backend_acts_on_this_model_alone(pipe):
    plain, other = tiny.draw(pipe), tiny.pipeline()
    attend(other.transformer, "native", CPU)
    assert torch.equal(tiny.draw(other), plain)
    attend(other.transformer, "_native_math", CPU)
    torch.testing.assert_close(tiny.draw(other), plain, rtol=1e-3, atol=1e-4)
    used = {block.attn.processor._attention_backend for block in other.transformer.transformer_blocks}
    assert used == {"_native_math"} and torch.equal(tiny.draw(pipe), plain)


@pytest.mark.parametrize(("name", "reason"), [("fastest", "must be one of"), ("sage", "sageattention")])
def test_a_backend_that_cannot_be_used_is_refused_in_a_sentence(pipe, name, reason):
    with pytest.raises(LoadError, match=rf"attention='{name}' cannot be used on cpu: .*{reason}"):
        attend(pipe.transformer, name, CPU)


# -- recorded


def test_an_image_with_a_cache_is_made_again_from_its_file(tmp_path):
    tiny.image(size=(64, 64)).save(tmp_path / "subject.png")
    out, flags = tmp_path / "out.png", ("--cache", "first-block:0.3", "--attention", "_native_math")
    words = (tmp_path / "subject.png", "a hat", "-o", out, "--seed", 1, "--count", 2, "--quality", "draft")
    succeed("dsd.generate", *words, *flags)
    one = tmp_path / "out-2.png"
    assert drawing.provenance.read_settings(one)["speed"] == {
        "cache": "first-block:0.3", "attention": "_native_math", "quantize": None, "compiled": False,
    }  # fmt: skip
    assert "the original" in (said := succeed("dsd.generate", "--from", one).out) and "warning" not in said
    succeed("dsd.generate", *words, "--cache", "none")
    assert Image.open(one).tobytes() != Image.open(tmp_path / "out-2-again.png").tobytes()


def test_what_is_recorded_and_cannot_be_used_here_names_the_way_out(tmp_path):
    tiny.image(size=(64, 64)).save(tmp_path / "subject.png")
    out = tmp_path / "out.png"
    succeed("dsd.generate", tmp_path / "subject.png", "a hat", "-o", out, "--steps", 1)
    settings = drawing.provenance.read_settings(out)
    settings["speed"] |= {"quantize": "4bit"}
    reference = drawing.provenance.read_reference(out)
    drawing.provenance.save(out, Image.open(out), settings, reference)
    ended = run("dsd.generate", "--from", out)
    assert ended.code == 2 and "--quantize none draws without" in ended.message
    assert "identical" in succeed("dsd.generate", "--from", out, "--quantize", "none").out


def test_older_images_have_no_speed_and_damaged_ones_are_refused():
    assert from_settings(None) == Speed()
    for damaged in (1, {"cache": 3}, {"fast": True}, {"cache": "tea"}):
        with pytest.raises(ValueError, match="unreadable speed|cache must be one of"):
            from_settings(damaged)
