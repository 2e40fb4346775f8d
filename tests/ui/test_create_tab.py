"""Behind the Create tab: settings from an image, mistakes at their fields, what the page says."""

import pickle
from dataclasses import replace
from pathlib import Path

import gradio as gr
import pytest
from PIL import Image

from dsd.generate import drawing, provenance
from dsd.model import canvas
from dsd.model.sampling import Quality
from dsd.ui.generate.form import RESTORED, Form
from dsd.ui.generate.handlers import Generating
from dsd.ui.generate.reference import References
from dsd.ui.messages import notice
from dsd.ui.models import Loaded, describe_model
from tests import tiny
from tests.forms import form


@pytest.fixture(scope="module")
def loaded(pipe) -> Loaded:
    return Loaded(pipe=pipe, name="tiny", warn=lambda image: "Unlike <b>my</b> world.")


def test_what_the_model_sees_is_the_fitted_frame(loaded, photo):
    asked = {"image": photo, "width": 48, "height": 32, "fit": "pad"}
    tools = References(loaded, Form(loaded))
    shown = tools.see(asked)
    assert shown["seen"].tobytes() == canvas.fit(Image.open(photo), 48, 32, "pad").tobytes()
    assert shown["remarks"].visible and "Unlike &lt;b&gt;my" in shown["remarks"].value
    assert shown["tools"].visible
    shown = tools.see(asked | {"image": None})
    assert shown["seen"] is None and not shown["tools"].visible and not shown["remarks"].visible


def restore(loaded: Loaded, path: Path | str) -> dict:
    return Generating(loaded).form.restore({"image": str(path)})


def test_a_dropped_image_brings_its_settings_back(loaded, photo, tmp_path):
    made = drawing.Options(
        prompt="a red hat", seed=9, steps=2, width=48, height=32, fit="pad", text_guidance=2.0
    )
    result = drawing.generate(loaded.pipe, Image.open(photo), made)[0]
    back = restore(loaded, drawing.save(result, tmp_path / "made.png"))
    assert back.pop("image").tobytes() == result.frame.tobytes()
    assert notice(RESTORED) == back.pop("note") and back.pop("restored").visible
    assert back == {
        "prompt": "a red hat", "count": 1, "steps": 2, "image_guidance": 1.5, "text_guidance": 2.0, "seed": 9,
        "width": 48, "height": 32, "fit": "pad", "quality": "best", "aspect": None,
        "own_image": str(tmp_path / "made.png"),
    }  # fmt: skip


@pytest.mark.parametrize("asked", [{"quality": "draft"}, {"quality": "balanced", "steps": 5}])
def test_a_dropped_image_is_redrawn_at_the_quality_it_was_drawn_at(loaded, photo, tmp_path, asked):
    made = drawing.Options(prompt="a hat", seed=9, **asked)
    result = drawing.generate(loaded.pipe, Image.open(photo), made, model="tiny")[0]
    back = restore(loaded, drawing.save(result, tmp_path / "made.png"))
    back["image"].save(tmp_path / "frame.png")
    *_, shown = Generating(loaded).draw(form() | back | {"image": str(tmp_path / "frame.png")})
    again = shown["images"].value[0]["image"]["path"]
    assert provenance.read_settings(again) == result.settings
    with Image.open(again) as image:
        assert image.convert("RGB").tobytes() == result.image.tobytes()


def test_the_prompt_below_the_picture_is_that_of_the_picture(loaded, photo, monkeypatch):
    monkeypatch.setattr("dsd.ui.generate.handlers.PREVIEW_SECONDS", 0.0)
    *views, last = Generating(loaded).draw(form(photo, steps=3, prompt="a new hat"))
    previews = [view for view in views if "images" in view]
    assert previews and all("a new hat" in view["about"] for view in previews)
    assert all("about" not in view for view in views if view not in previews)  # the last picture's stays
    assert "images" in last and "a new hat" in last["about"]


def refused(loaded: Loaded, path: Path) -> str:
    """The message at the reference, when its settings were not used."""
    back = restore(loaded, path)
    assert list(back) == ["restored", "remarks"] and not back["restored"].visible and back["remarks"].visible
    return back["remarks"].value


def test_a_quality_the_page_does_not_offer_is_refused_with_a_reason(loaded, photo, tmp_path):
    own = Quality(steps=2, solver="unipc", guidance_stop=0.9)
    made = drawing.Options(prompt="a hat", quality=own)
    result = drawing.generate(loaded.pipe, Image.open(photo), made)[0]
    said = refused(loaded, drawing.save(result, tmp_path / "made.png"))
    assert "unipc" in said and "draft, balanced, best" in said


def test_a_draft_of_an_earlier_version_becomes_todays_draft(loaded, photo, tmp_path):
    earlier = Quality(name="draft", steps=2, solver="unipc", guidance_stop=0.5)
    result = drawing.generate(
        loaded.pipe, Image.open(photo), drawing.Options(prompt="a hat", quality=earlier)
    )[0]
    assert restore(loaded, drawing.save(result, tmp_path / "made.png"))["quality"] == "draft"


def test_an_image_of_another_model_says_so_and_brings_no_setting_this_one_lacks(loaded, photo, tmp_path):
    other = tiny.pipeline(seed=1, guidance_embeds=True)
    result = drawing.generate(other, Image.open(photo), drawing.Options(prompt="a hat", steps=1))[0]
    back = restore(loaded, drawing.save(result, tmp_path / "made.png"))
    assert result.settings["guidance"] == 3.5 and "guidance" not in back and "another model" in back["note"]


def test_settings_the_page_does_not_offer_are_refused_with_a_reason(loaded, photo, tmp_path):
    made = drawing.Options(prompt="a hat", steps=1, image_guidance=15.0)
    result = drawing.generate(loaded.pipe, Image.open(photo), made)[0]
    said = refused(loaded, drawing.save(result, tmp_path / "made.png"))
    assert "Image guidance must be a number from 0 to 10, got 15.0." in said


def test_a_plain_image_brings_none(loaded, photo):
    back = restore(loaded, photo)
    assert list(back) == ["restored"] and not back["restored"].visible


@pytest.mark.parametrize(
    ("changes", "part", "sentence"),
    [
        ({"image": None}, "remarks", "There is no image yet"),
        ({"image": "/no/such/file"}, "remarks", "Your image is gone"),
        ({"prompt": " "}, "unknown", "The prompt is empty"),
        ({"prompt": None}, "unknown", "The prompt is empty"),
        ({"seed": 1.5}, "setting_remark", "Seed must be a whole number from 0 to 4294967295, got 1.5."),
        ({"seed": -5}, "setting_remark", "got -5."),
        ({"count": 9}, "setting_remark", "Count must be a whole number from 1 to 8, got 9."),
    ],
)
def test_a_mistake_is_named_once_at_the_field_that_it_belongs_to(
    loaded, photo, monkeypatch, changes, part, sentence
):
    for toast in ("Warning", "Info"):
        monkeypatch.setattr(gr, toast, lambda *_, **__: pytest.fail("a second message"))
    (shown,) = Generating(loaded).draw(form(photo) | changes)
    assert list(shown) == [part, "planned"] and shown[part].visible
    assert sentence in shown[part].value and shown[part].value.count('role="alert"') == 1


@pytest.mark.parametrize("seed", [None, -1])
def test_no_seed_means_a_new_one_each_time(loaded, photo, seed):
    def drawn() -> int:
        *_, shown = Generating(loaded).draw(form(photo, seed=seed, steps=1))
        return provenance.read_settings(shown["images"].value[0]["image"]["path"])["seed"]

    assert drawn() != drawn()


def test_a_long_prompt_runs_and_the_page_says_what_is_cut(loaded, photo):
    *_, shown = Generating(loaded).draw(form(photo, prompt="zebra " * 833))
    assert "characters are cut" in shown["status"] and shown["images"].value


def test_an_example_brings_the_size_and_the_settings_of_a_fresh_page(loaded, photo):
    work = Generating(replace(loaded, aspects={"Square": (1.0, 1.0), "Portrait": (1.0, 1.5)}))
    filled = work.fill(photo, {"prompt": "in the snow", "seed": 3})
    assert (filled["width"], filled["height"], filled["aspect"]) == (*loaded.pipe.frame, "Square")
    assert {name: filled[name] for name in work.form.defaults()} == work.form.defaults()
    assert filled["planned"] == 3 and filled["seed"] == -1


def test_the_drawn_world_offers_its_trained_shape_alone(pipe):
    one = Form(describe_model(pipe, "pocket", weights=None, describer=None))
    assert one.sizes == {} and (one.defaults()["width"], one.defaults()["height"]) == pipe.frame


def test_an_unforeseen_error_leaves_a_sentence_not_a_dead_page(loaded, photo, monkeypatch, caplog):
    monkeypatch.setattr(loaded.pipe, "stream", lambda *_, **__: 1 / 0)
    *_, shown = Generating(loaded).draw(form(photo))
    assert "Something went wrong" in shown["status"] and "ZeroDivision" not in shown["status"]
    assert "ZeroDivisionError" in caplog.text
    caplog.clear()


def test_what_leaves_the_gpu_process_can_be_pickled(loaded, photo):
    options = drawing.Options(prompt="x", steps=1)
    frame = drawing.fit_reference(loaded.pipe, Image.open(photo), options)
    steps = drawing.stream(loaded.pipe, frame, options, preview_seconds=0.0)
    for progress in steps:
        assert pickle.loads(pickle.dumps(progress)).step == progress.step
