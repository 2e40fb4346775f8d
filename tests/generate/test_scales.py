"""The guidance scales that suit a model: drawn with wherever nobody chose others."""

import argparse
import json
from pathlib import Path

import pytest

from dsd.evaluation.validation import by_student
from dsd.files.hub import LoadError
from dsd.generate import command, flags, provenance
from dsd.model.checkpoint import load_pipeline, save_pipeline
from dsd.model.presets import FLUX_DEV, POCKET, PRESETS, SCALES, choose
from dsd.training.student import find_base
from dsd.ui.generate.handlers import Generating
from dsd.ui.models import Loaded
from tests import student, tiny

OWN = {"image_guidance": 2.5, "text_guidance": 3.5}


@pytest.fixture
def suited(pipe, monkeypatch):
    """The tiny pipeline with scales of its own."""
    monkeypatch.setattr(pipe, "scales", OWN)
    return pipe


@pytest.fixture
def made(suited, photo, tmp_path, monkeypatch):
    """Run the command on the tiny pipeline; return the scales in the settings of a file."""
    monkeypatch.setattr("dsd.model.checkpoint.load_pipeline", lambda *_, **__: suited)
    photo.save(tmp_path / "photo.png")
    (tmp_path / "lines.txt").write_text("in the snow\nat sea\n")
    monkeypatch.chdir(tmp_path)

    def made(*argv: str, file: str = "out.png") -> dict:
        assert command.run(flags.parse(["photo.png", *argv, "-o", "out.png", "--steps", "1"])) == 0
        return scales_of(provenance.read_settings(tmp_path / file))

    return made


def scales_of(settings: dict) -> dict:
    return {name: settings[name] for name in OWN}


def name_scales(folder: Path, scales: object) -> None:
    """Write guidance scales into a model's file."""
    index = folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"_scales": scales}))


@pytest.fixture
def teacher(tmp_path) -> Path:
    return student.teacher(tmp_path / "teacher")


def test_every_family_has_both_scales_and_a_saved_folder_has_those_of_its_family(tmp_path):
    assert all({*preset.scales} == {*SCALES} for preset in PRESETS.values())
    assert FLUX_DEV.scales == SCALES != POCKET.scales
    save_pipeline(load_pipeline("pocket"), tmp_path)
    opened = [load_pipeline(model) for model in ("pocket", POCKET.weights, tmp_path)]
    assert [pipe.scales for pipe in opened] == [POCKET.scales] * 3


@pytest.mark.parametrize("own", [OWN, SCALES])
def test_a_trained_student_draws_with_the_scales_of_its_training(teacher, tmp_path, own):
    name_scales(teacher, own)
    result = student.run(teacher, tmp_path / "student", steps=1, full=True)
    assert load_pipeline(tmp_path / "student", device="cpu").scales == result.base.scales == own
    name_scales(teacher, SCALES)
    continued = student.options(teacher, start_from=str(tmp_path / "student"))
    assert find_base(continued).scales == own, "a student that is continued keeps its own"


BAD = [[], {}, [1, 2], {"image_guidance": 2}, {**OWN, "text_guidance": "many"}, {**OWN, "image_guidance": 11}]


@pytest.mark.parametrize("scales", BAD)
def test_a_folder_that_names_other_things_as_scales_is_refused(pipe, tmp_path, scales):
    save_pipeline(pipe, tmp_path)
    name_scales(tmp_path, scales)
    with pytest.raises(LoadError, match="image_guidance and text_guidance as numbers from 0 to 10"):
        load_pipeline(tmp_path, device="cpu")


def test_the_command_draws_with_those_of_the_model_and_a_flag_replaces_one(made):
    assert made("a hat") == made("--story", "lines.txt", file="out-2.png") == OWN
    assert made("a hat", "--text-guidance", "1") == {**OWN, "text_guidance": 1}


def test_the_page_opens_with_those_of_the_model_and_a_link_replaces_one(suited):
    form = Generating(Loaded(pipe=suited, name="tiny")).form
    assert scales_of(form.defaults()) == OWN
    assert scales_of(form.read_link({"prompt": "a hat", "text_guidance": "1"})) == {**OWN, "text_guidance": 1}


def test_a_program_that_names_no_scales_gets_those_of_the_model(suited, photo, tmp_path):
    photo.save(tmp_path / "photo.png")
    work = Generating(Loaded(pipe=suited, name="tiny"))
    for asked in ({}, {"image_guidance": 0.0}, {"text_guidance": None}):
        for files, _ in work.endpoint(str(tmp_path / "photo.png"), "a hat", steps=1, **asked):
            shown = [scales_of(provenance.read_settings(file)) for file in files]  # removed after the call
        assert shown == [choose({**dict.fromkeys(OWN), **asked}, OWN)]


def test_an_evaluation_draws_with_those_of_the_model(photo):
    class Echo:
        scales = OWN

        def __call__(self, *_, image_guidance_scale, text_guidance_scale, **__):
            self.asked = image_guidance_scale, text_guidance_scale
            return argparse.Namespace(images=[photo])

    by_student(pipe := Echo())(["a hat"], [photo], [0])
    assert pipe.asked == (2.5, 3.5)
    by_student(pipe, text_guidance=1.0)(["a hat"], [photo], [0])
    assert pipe.asked == (2.5, 1.0)
    chosen = argparse.Namespace(image_guidance=0.0, text_guidance=None)  # zero is a choice
    assert choose(vars(chosen), OWN) == {**OWN, "image_guidance": 0.0}


def test_the_scales_change_the_image(suited, photo):
    (one,) = by_student(suited, steps=3)(["a hat"], [photo], [0])
    (other,) = by_student(suited, steps=3, image_guidance=1.0, text_guidance=1.0)(["a hat"], [photo], [0])
    assert tiny.difference(one, other) > 0
