"""What the app's flags open, and when: nothing that a visitor has not asked for."""

import gc
import re
import socket
from dataclasses import replace

import gradio as gr
import pytest
import torch
from safetensors.torch import save_file

import app
from dsd.curation.judge import read_pairs
from dsd.generate import command
from dsd.grids.grids import read_grids
from dsd.grids.recipes import CRITTERS, IDENTITY
from dsd.model import presets
from dsd.model.checkpoint import resolve, save_pipeline
from dsd.ui import page, request_log
from dsd.ui.curate.handlers import Curating
from dsd.ui.curate.results import show_results
from dsd.ui.grids.facts import facts
from dsd.ui.models import Loaded
from tests import tiny, wheel_page
from tests.chat.server import Chat, serving
from tests.project import ROOT

QUERY, SIZES = "transformer_blocks.0.attn.to_q", {"A": (2, 32), "B": (32, 2)}


@pytest.fixture
def load(monkeypatch):
    """Both halves of the page by some flags, around a tiny pipeline."""

    def open_model(model: str, **_: object):
        pipe = tiny.pipeline(guidance_embeds=False)
        pipe.license = resolve(model).license
        return pipe

    monkeypatch.setattr(command, "open_model", open_model)

    def load(*flags: str):
        args = app.parse(list(flags))
        app.check(args)
        return app.load(args)

    return load


def test_by_default_all_is_embedded_and_one_judge_serves_both_tabs(load):
    loaded, wheel = load()
    assert wheel.teacher.name == "pocket" and wheel.recipe is CRITTERS and loaded.recipe is CRITTERS
    assert loaded.describer is wheel.judge and wheel.judge.name == "pocket" and not wheel.own


def test_building_the_page_opens_no_model_and_reads_no_run(load, tmp_path):
    loaded, wheel = load("--run", str(tmp_path))
    page.build(loaded, tmp_path, wheel).close()
    assert not wheel.teacher.is_open and not wheel.judge.is_open


def test_an_embedded_judge_that_is_not_there_is_named_with_the_remedy(load, monkeypatch, tmp_path):
    monkeypatch.setitem(presets.PRESETS, "pocket", replace(presets.POCKET, judge=str(tmp_path / "none")))
    assert "train.pocket.judge" in load()[1].judge.missing
    monkeypatch.setitem(presets.PRESETS, "pocket", replace(presets.POCKET, judge=str(tmp_path)))
    assert load()[1].judge.missing is None


def test_the_sample_is_shown_where_there_is_one_and_never_as_ones_own(load, monkeypatch, tmp_path):
    monkeypatch.setitem(presets.PRESETS, "pocket", replace(presets.POCKET, run=str(tmp_path / "none")))
    assert load()[1].run is None
    monkeypatch.setitem(presets.PRESETS, "pocket", replace(presets.POCKET, run=str(tmp_path)))
    assert load()[1].run == tmp_path and not load()[1].own
    (mine := tmp_path / "mine").mkdir()
    assert load("--run", str(mine))[1].run == mine and load("--run", str(mine))[1].own


def test_the_embedded_judge_is_not_asked_about_what_flux_draws(load):
    loaded, wheel = load("--model", "flux-dev")
    assert loaded.describer is None and loaded.recipe is IDENTITY
    assert wheel.judge is not None and wheel.recipe is CRITTERS
    _, wheel = load("--teacher", "flux-dev")
    assert wheel.judge is None and wheel.recipe is IDENTITY


def test_a_named_judge_is_asked_about_anything(load):
    server = "http://127.0.0.1:9/v1"
    loaded, wheel = load("--model", "flux-dev", "--teacher", "flux-dev", "--judge", server)
    assert loaded.describer is wheel.judge and wheel.judge.name == server


def test_a_judge_on_a_server_with_several_models_is_named(load):
    with serving(chat := Chat(models=("one", "two"))) as address:
        _, wheel = load("--judge", address, "--judge-model", "two")
        assert wheel.judge().ask("what is it?") and chat.seen[0]["model"] == "two"
        with pytest.raises(ValueError, match="2 models"):
            load("--judge", address)[1].judge()


def test_who_brings_a_model_may_say_that_the_embedded_judge_knows_its_world(load, tmp_path):
    assert load("--model", str(tmp_path))[0].describer is None
    loaded, _ = load("--model", str(tmp_path), "--judge", "pocket")
    assert loaded.describer is not None and loaded.recipe is CRITTERS


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--judge", "nonesuch"], "nonesuch"),
        (["--judge", "pocket", "--teacher", "flux-dev"], "--judge pocket cannot judge what flux-dev draws"),
        (["--run", "/nowhere/at/all"], "/nowhere/at/all"),
    ],
)
def test_a_mistake_stops_the_app_with_one_line(flags, words, capsys, monkeypatch):
    monkeypatch.setattr(command, "quiet", lambda: None)
    assert app.main(flags) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and words in said


def test_a_judge_s_model_without_a_judge_is_refused(capsys):
    with pytest.raises(SystemExit):
        app.parse(["--judge-model", "two"])
    told = "app.py: --judge-model would have no effect without --judge: add it, or drop it"
    assert capsys.readouterr().err.startswith(told)


# ---------------------------------------------------------------- what the page says of the model


def shown(loaded: Loaded) -> str:
    return page._header(loaded) + page._footer(loaded)


def test_a_folder_is_shown_by_its_last_name_with_what_is_known_of_it(load, tmp_path, monkeypatch):
    (folder := tmp_path / "private" / "fox<b>").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for model in (str(folder), "private/fox<b>", "private/../private/fox<b>/"):
        said = shown(load("--model", model)[0])
        assert "<b>fox&lt;b&gt;:</b> A pipeline saved by this project." in said
        assert "private" not in said and "License" not in said and "unknown" not in said


def test_a_hub_id_is_shown_whole(load):
    said = shown(load("--model", "ada/fox")[0])
    assert "<b>ada/fox:</b> A pipeline saved by this project." in said and "License" not in said


def test_a_preset_says_what_it_is_good_for_and_its_license(load):
    flux = presets.PRESETS["flux-dev"]
    said = shown(load("--model", "flux-dev")[0])
    assert flux.description in said and flux.license in said and f'href="{flux.more}"' in said
    assert "The paper" in said and "The code" not in said, "this copy does not know where it is from"


def test_on_a_space_the_page_links_its_code(load, monkeypatch):
    monkeypatch.setenv("SPACE_ID", "somebody/dsd")
    assert 'href="https://huggingface.co/spaces/somebody/dsd/tree/main"' in shown(load()[0])


def texts(*values: object) -> list[str]:
    """What a visitor reads of values of components: texts, lists of them, and the captions of galleries."""
    items = [item for value in values for item in (value if isinstance(value, list) else [value])]
    items = [item.get("caption") if isinstance(item, dict) else item for item in items]
    return [item for item in items if isinstance(item, str)]


@pytest.mark.parametrize("model", ["pocket", "flux-dev"])
def test_a_visitor_reads_no_internal_words(load, model):
    loaded, wheel = load("--model", model)
    assert not re.search("key|download", page._header(loaded), re.IGNORECASE)
    blocks = page.build(loaded, ROOT / "assets" / "examples", wheel).blocks.values()
    names = ("label", "info", "placeholder", "value")
    said = texts(*(getattr(block, name, None) for block in blocks for name in names))
    seen = show_results(wheel) | wheel_page.view(Curating(wheel))
    said += texts(*(getattr(value, "value", value) for value in seen.values()))
    (grid, *_), pairs = read_grids(wheel.run), read_pairs(wheel.run)[:6]
    said.append(facts(grid, unknown=None, pairs=pairs, expected=6, unjudged=None))
    read = re.sub("<[^>]*>", " ", " ".join(said)).replace(loaded.license, "")
    every_tab = ("Pick a character", "The story, one", "drawn in 12 steps", "Why?", "What the model learned")
    assert [words for words in every_tab if words not in read] == []
    words = r"pocket|flux|embedded|gpu|kappa|lora\b|checkpoint|\btokens?\b|no key|python -m|--teacher"
    assert re.findall(f".{{40}}(?:{words}).{{20}}", read, re.IGNORECASE) == []


def test_weights_are_named_and_the_model_s_own_are_not_praised(load, tmp_path):
    (tmp_path / "fox.safetensors").touch()
    for weights, name in ((str(tmp_path / "fox.safetensors"), "fox.safetensors"), ("ada/fox", "ada/fox")):
        said = shown(load("--model", "flux-dev", "--weights", weights)[0])
        assert f"<b>{name}:</b> What it draws well depends" in said
        assert str(tmp_path) not in said and "published DSD weights" not in said
        assert presets.PRESETS["flux-dev"].license in said, "the base's holds for them too"


def test_a_style_lora_is_opened_and_named_on_the_page(tmp_path):
    save_pipeline(tiny.pipeline(guidance_embeds=False), tmp_path / "model")
    state = {f"transformer.{QUERY}.lora_{part}.weight": torch.ones(size) for part, size in SIZES.items()}
    save_file(state, tmp_path / "ink.safetensors")
    style = f"{tmp_path / 'ink.safetensors'}:0.5"
    loaded, _ = app.load(app.parse(["--model", str(tmp_path / "model"), "--lora", style, "--device", "cpu"]))
    assert loaded.pipe.get_active_adapters() == ["style-0"]
    assert "Style: ink.safetensors: 1 of 1 layers, scale 0.5." in shown(loaded)


# ---------------------------------------------------------------- serving


def empty_page(*_) -> gr.Blocks:
    with gr.Blocks(analytics_enabled=False) as blocks:
        return blocks


@pytest.fixture
def start(load, monkeypatch):
    """Starts the app by some flags, as the command does, with an empty page."""
    monkeypatch.setattr(command, "quiet", lambda: None)
    monkeypatch.setattr(page, "build", empty_page)
    monkeypatch.setattr(app.signal, "signal", lambda *_: None)
    monkeypatch.setattr(page.uploads, "keep_sweeping", lambda: None)
    return lambda *flags: app.main(list(flags))


def test_garbage_is_collected_again_before_the_first_visitor(start, monkeypatch):
    collected = []
    monkeypatch.setattr(page, "launch", lambda *_, **__: collected.append(gc.isenabled()))
    gc.disable()  # as the command begins
    try:
        assert start() == 0 and collected == [True]
    finally:
        gc.enable()


def test_what_is_said_of_the_server_reaches_it(start, monkeypatch):
    given, logs = {}, []
    monkeypatch.setattr(page, "launch", lambda _, **options: given.update(options))
    monkeypatch.setattr(request_log, "start", lambda: logs.append(True))
    assert start() == 0 and not logs
    assert (given["allow_host"], given["trust_proxy"], given["root_path"]) == ([], [], None)
    flags = [
        "--allow-host",
        "a.example",
        "--trust-proxy",
        "10.0.0.1",
        "--root-path",
        "/x",
        "--time-limit",
        "9",
    ]
    assert start(*flags, "--log-requests") == 0 and logs
    assert (given["allow_host"], given["trust_proxy"]) == (["a.example"], ["10.0.0.1"])
    assert (given["root_path"], given["time_limit"]) == ("/x", 9)


def test_a_port_that_is_taken_ends_in_one_sentence(start, capsys):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert start("--port", str(port)) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"port {port} cannot be used" in said and "--port" in said


@pytest.mark.parametrize(
    ("flags", "error", "words"),
    [
        (["--port", "70000"], None, "port 70000 cannot be used"),
        ([], OSError("Cannot find empty port"), "no free port was found: pass a free one as --port"),
        (["--host", "203.0.113.9"], None, "203.0.113.9 is not an address of this machine"),
        ([], ValueError("localhost is\nnot accessible"), "localhost is not accessible"),
    ],
)
def test_so_does_whatever_else_the_server_refuses(start, capsys, monkeypatch, flags, error, words):
    def refuse(*_, **__):
        raise error

    if error:
        monkeypatch.setattr(gr.Blocks, "launch", refuse)
    assert start(*flags) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("app.py: ") and words in said
