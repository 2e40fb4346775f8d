"""The frame size and the text length of a training: validation, every form of the result, a continuation."""

from pathlib import Path

import pytest
from diffusers import FluxControlPipeline

from dsd.generate import drawing
from dsd.generate.drawing import Options
from dsd.model.checkpoint import load_pipeline, save_pipeline
from dsd.model.presets import LORA
from dsd.ui.generate.form import Form
from dsd.ui.models import Loaded
from tests import student, tiny

FRAME = (48, 16)  # of the training; the tiny model's own is 32x32
TRAINED = FRAME, 7  # and the text tokens, of 16
SIZES = {"sizes": ("48x16",), "text_tokens": 7, "steps": 1, "batch": 1}


class Validation:
    """A hook that notes what it draws and reads."""

    def __init__(self) -> None:
        self.seen = []

    def __call__(self, pipe, step: int) -> dict[str, float]:
        self.seen.append(drawn(pipe))
        return {"score": 1.0}


def drawn(pipe) -> tuple[tuple[int, int], int]:
    """The size of an image drawn without naming one, and the text tokens read for it."""
    lengths, encode = [], pipe.encode_prompt

    def noted(*args, max_sequence_length: int, **options):
        lengths.append(max_sequence_length)
        return encode(*args, max_sequence_length=max_sequence_length, **options)

    pipe.encode_prompt = noted
    (image,) = tiny.draw(pipe, num_inference_steps=1, output_type="pil")
    del pipe.encode_prompt
    return image.size, *set(lengths)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    return student.teacher(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="module")
def trained(teacher, tmp_path_factory) -> Path:
    """What a LoRA training at 48x16 left, which validated at that size."""
    out, validation = tmp_path_factory.mktemp("trained"), Validation()
    student.run(teacher, out, validate=validation, **SIZES)
    assert validation.seen == [TRAINED]
    return out


def test_the_folder_and_the_lora_open_as_they_were_trained(teacher, trained):
    assert drawn(load_pipeline(trained, device="cpu")) == TRAINED
    for weights in (trained, trained / "lora", trained / "lora" / LORA):
        assert drawn(load_pipeline(teacher, weights=weights, device="cpu")) == TRAINED
    assert drawn(load_pipeline(trained, weights=trained / "transformer", device="cpu"))[0] == FRAME


def test_every_image_of_a_call_has_that_size_unless_another_is_named(trained):
    pipe = load_pipeline(trained, device="cpu")
    options = Options(prompt="a hat", steps=1)
    assert drawing.fit_reference(pipe, tiny.image(), options).size == FRAME
    (result,) = drawing.generate(pipe, tiny.image(), options)
    assert result.image.size == FRAME
    (named,) = tiny.draw(pipe, num_inference_steps=1, output_type="pil", width=32, height=32)
    assert named.size == (32, 32)


def test_a_pipeline_saved_again_keeps_the_size_and_plain_diffusers_opens_it(trained, tmp_path):
    save_pipeline(load_pipeline(trained, device="cpu"), tmp_path)
    assert drawn(load_pipeline(tmp_path, device="cpu")) == TRAINED
    assert type(FluxControlPipeline.from_pretrained(tmp_path)) is FluxControlPipeline


@pytest.mark.parametrize("how", ["base", "start", "lora"])
def test_a_continuation_without_a_size_trains_and_validates_at_the_start_s(teacher, trained, tmp_path, how):
    validation = Validation()
    source = {"start": trained, "lora": trained / "lora" / LORA}.get(how)
    changed = {"start_from": str(source)} if source else {}
    student.run(
        trained if how == "base" else teacher, tmp_path, validate=validation, steps=1, batch=1, **changed
    )
    assert validation.seen == [TRAINED] and drawn(load_pipeline(tmp_path, device="cpu")) == TRAINED


def test_of_several_sizes_the_first_is_the_one_to_draw_at(teacher, tmp_path):
    validation = Validation()
    student.run(teacher, tmp_path, validate=validation, steps=1, batch=1, sizes=("32x48", "48x16"))
    assert [size for size, _ in validation.seen] == [(32, 48)]
    assert load_pipeline(tmp_path, device="cpu").frame == (32, 48)


def test_the_page_opens_at_the_size_of_the_training(trained):
    form = Form(Loaded(pipe=load_pipeline(trained, device="cpu"), name="wide"))
    shown = form.defaults()
    assert (shown["width"], shown["height"]) == FRAME
    linked = form.read_link({"prompt": "a hat"})
    assert (linked["width"], linked["height"]) == FRAME
