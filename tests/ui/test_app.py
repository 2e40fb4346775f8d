"""The running app, asked as a program would: a tiny pipeline behind a real server."""

import threading
import time
from pathlib import Path

import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

import app
from dsd.generate import command, drawing, provenance
from tests.calling import is_still, until
from tests.uploads import png_header


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


def test_an_unknown_model_stops_the_app_with_one_line(capsys, monkeypatch):
    monkeypatch.setattr(command, "quiet", lambda: None)
    assert app.main(["--model", "nonesuch"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "nonesuch" in said and "pocket" in said
