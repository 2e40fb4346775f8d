"""The running app, asked as a program would: a tiny pipeline behind a real server."""

import pickle
import threading
import time
from pathlib import Path

import gradio as gr
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

import app
from dsd.generate import command, drawing, provenance
from dsd.model.sampling import Quality
from dsd.ui import page
from dsd.ui.generate.form import Form
from dsd.ui.generate.handlers import Generating
from dsd.ui.generate.reference import References
from dsd.ui.models import Loaded
from tests import tiny
from tests.calling import until
from tests.forms import form
from tests.uploads import png_header


@pytest.fixture(scope="module")
def loaded(pipe) -> Loaded:
    return Loaded(pipe=pipe, name="tiny", warn=lambda image: "Unlike <b>my</b> world.")


@pytest.fixture(scope="module")
def server(loaded, tmp_path_factory):
    """The page at a free port; yields its address."""
    blocks = page.build(loaded, tmp_path_factory.mktemp("no-examples"))
    _, url, _ = page.launch(blocks, prevent_thread_lock=True, quiet=True)
    yield url
    blocks.close()


@pytest.fixture(scope="module")
def client(server, tmp_path_factory):
    return Client(server, verbose=False, download_files=tmp_path_factory.mktemp("downloads"))


def ask(client: Client, image: str, **changes):
    settings = {"prompt": "a red hat", "steps": 3, "seed": 7} | changes
    return client.predict(image=handle_file(image), api_name="/generate", **settings)


def test_the_endpoint_gives_png_files_that_carry_their_settings(client, photo):
    files, seeds = ask(client, photo, count=2)
    assert seeds == [7, 8] and [Path(file).name for file in files] == ["dsd-7.png", "dsd-8.png"]
    settings = provenance.read_settings(files[1])
    assert (settings["seed"], settings["prompt"], settings["model"]) == (8, "a red hat", "tiny")


def test_the_endpoint_draws_what_the_library_draws(client, photo, loaded):
    (file,), _ = ask(client, photo)
    expected = drawing.generate(
        loaded.pipe, Image.open(photo), drawing.Options(prompt="a red hat", seed=7, steps=3)
    )
    with Image.open(file) as image:
        assert image.convert("RGB").tobytes() == expected[0].image.tobytes()


def test_without_a_seed_each_call_takes_a_new_one(client, photo):
    assert ask(client, photo, seed=None)[1] != ask(client, photo, seed=None)[1]


def test_the_endpoint_is_documented_and_nothing_else_is_offered(client):
    named = client.view_api(return_format="dict")["named_endpoints"]
    assert list(named) == ["/generate", "/unknown_words", "/story"]
    parameters = {p["parameter_name"]: p for p in named["/generate"]["parameters"]}
    assert list(parameters)[:3] == ["image", "prompt", "count"] and "guidance" not in parameters
    story = named["/story"]["parameters"]
    assert [p["parameter_name"] for p in story if not p["parameter_has_default"]] == ["image", "lines"]
    defaults = {name: parameters[name]["parameter_default"] for name in ("steps", "fit", "quality")}
    assert defaults == {"steps": None, "fit": "crop", "quality": "best"}
    assert list(parameters)[-2:] == ["quality", "rank"], (
        "the last: values without names go on meaning the same"
    )


def test_the_endpoint_takes_the_quality_s_steps_unless_asked_for_others(client, photo):
    def drawn(**changes):
        ((file,), _) = ask(client, photo, **changes)
        settings = provenance.read_settings(file)
        return settings["quality"]["name"], settings["steps"]

    assert drawn(quality="draft", steps=None) == ("draft", 6)
    assert drawn(quality="draft") == ("draft", 3)
    assert drawn(steps=None) == ("best", 28)


@pytest.mark.parametrize(
    ("content", "changes", "sentence"),
    [
        (b"not an image at all", {}, "is not an image that can be read"),
        (b"", {}, "is empty"),
        (png_header(30_000, 30_000), {}, "too large: at most 50 megapixels"),
        (None, {"prompt": "  "}, "The prompt is empty"),
        (None, {"width": 48.5}, "multiple of 16|whole number"),
        (None, {"height": 4096}, "4096"),
        (None, {"steps": 0}, "0"),
        (None, {"seed": -4}, "-4"),
        (None, {"fit": "stretch"}, "stretch"),
        (None, {"quality": "superb"}, "superb"),
        (None, {"steps": 2.5}, "whole number"),
    ],
)
def test_bad_input_gives_a_sentence(client, photo, tmp_path, content, changes, sentence):
    bad = tmp_path / "upload.png"
    bad.write_bytes(Path(photo).read_bytes() if content is None else content)
    with pytest.raises(AppError, match=sentence):
        ask(client, str(bad), **changes)


def test_after_all_bad_input_the_app_lives_on(client, photo):
    assert ask(client, photo, steps=1)[1] == [7]


def test_a_message_cannot_smuggle_in_html(client, photo, tmp_path):
    bad = tmp_path / "<img src=x onerror=alert(1)>.png"
    bad.write_bytes(b"junk")
    with pytest.raises(AppError) as caught:
        ask(client, str(bad))
    assert "<img" not in str(caught.value)


def test_cancel_stops_within_a_step(client, photo, loaded):
    calls, started = [], threading.Event()

    def count(*_):
        calls.append(1)
        started.set()
        time.sleep(0.05)

    handle = loaded.pipe.transformer.register_forward_hook(count)
    try:
        job = client.submit(
            image=handle_file(photo), prompt="a hat", steps=100, image_guidance=1.0, api_name="/generate"
        )
        assert started.wait(60)
        job.cancel()
        until(lambda: is_still(calls))
        assert len(calls) < 100
    finally:
        handle.remove()


def is_still(calls: list) -> bool:
    before = len(calls)
    time.sleep(0.5)
    return len(calls) == before


def test_images_are_drawn_one_call_at_a_time(client, photo, loaded):
    running, most = [], []

    def enter(*_):
        running.append(1)
        most.append(len(running))
        time.sleep(0.01)

    hooks = [
        loaded.pipe.transformer.register_forward_pre_hook(enter),
        loaded.pipe.transformer.register_forward_hook(lambda *_: running.pop() and None),
    ]
    try:
        jobs = [
            client.submit(image=handle_file(photo), prompt="a hat", steps=5, seed=i, api_name="/generate")
            for i in range(3)
        ]
        assert [job.result(timeout=60)[1] for job in jobs] == [[0], [1], [2]]
        assert max(most) == 1
    finally:
        [hook.remove() for hook in hooks]


def test_what_the_model_sees_is_the_fitted_frame(loaded, photo):
    from dsd.model import canvas

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
    assert "another model" not in back.pop("note") and back.pop("restored").visible
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


def refused(loaded: Loaded, path: Path) -> str:
    """The message at the reference, when its settings were not used."""
    back = restore(loaded, path)
    assert list(back) == ["restored", "remarks"] and not back["restored"].visible and back["remarks"].visible
    return back["remarks"].value


def test_a_quality_the_page_does_not_offer_is_refused_with_a_reason(loaded, photo, tmp_path):
    made = drawing.Options(prompt="a hat", quality=Quality(steps=2, solver="unipc"))
    result = drawing.generate(loaded.pipe, Image.open(photo), made)[0]
    said = refused(loaded, drawing.save(result, tmp_path / "made.png"))
    assert "unipc" in said and "draft, balanced, best" in said


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


def test_an_unknown_model_stops_the_app_with_one_line(capsys, monkeypatch):
    monkeypatch.setattr(command, "quiet", lambda: None)
    assert app.main(["--model", "nonesuch"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "nonesuch" in said and "pocket" in said
