"""The folder as a Hugging Face Space: front matter, pins, and a page that comes up whatever is missing."""

import inspect
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import gradio as gr
import huggingface_hub
import pytest
from huggingface_hub import metadata_load
from safetensors import SafetensorError

import app
from dsd.doctor import space
from dsd.files import hub
from dsd.generate import command
from dsd.model import checkpoint, presets
from dsd.ui import page
from dsd.ui.generate.handlers import Generating
from dsd.ui.models import Loaded
from tests import tiny

ROOT = Path(__file__).resolve().parents[2]
HEADER = metadata_load(ROOT / "README.md")
LINES = space.lines_of(ROOT / "requirements.txt")


@pytest.fixture
def on_a_space(monkeypatch):
    """A Space without a GPU and without a token."""
    monkeypatch.setenv("SPACE_ID", "somebody/somewhere")
    monkeypatch.delenv("SPACES_ZERO_GPU", raising=False)
    monkeypatch.setattr(checkpoint, "best_device", lambda: "cpu")
    monkeypatch.setattr(hub, "has_token", lambda: False)


@pytest.fixture
def opened(monkeypatch) -> list[str]:
    """The names of the models that are opened; a tiny one stands for each."""
    names: list[str] = []

    def open_model(name: str, **_):
        names.append(name)
        return tiny.pipeline(guidance_embeds=False)

    monkeypatch.setattr(command, "open_model", open_model)
    return names


def load(*flags: str) -> Loaded:
    return app.load_or_fall_back(app.parse(list(flags)))[0]


# ---------------------------------------------------------------- front matter and pins


def test_this_folder_can_be_pushed():
    assert space.check(ROOT) == []


def test_the_front_matter_names_the_gradio_that_is_tested_and_the_models_that_are_used():
    assert HEADER["sdk_version"] == metadata.version("gradio") and HEADER["python_version"] == "3.12"
    flux = presets.PRESETS["flux-dev"]
    assert HEADER["models"] == [flux.base, flux.weights]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sdk": "docker"}, "docker"),
        ({"sdk_version": "5.49.0"}, "5.49.0"),
        ({"python_version": 3.12}, "in quotes"),
        ({"python_version": "3.11"}, "3.11"),
        ({"app_file": "main.py"}, "main.py"),
        ({"short_description": "x" * 61}, "60 characters"),
        ({"suggested_hardware": "zero-h200"}, "zero-h200"),
    ],
)
def test_a_mistake_in_the_front_matter_is_named(changes, words):
    (problem,) = space.check_header(HEADER | changes, ROOT)
    assert words in problem


def test_a_key_that_is_not_there_is_named(tmp_path):
    (tmp_path / "README.md").write_text("---\nsdk: gradio\n---\n", encoding="utf-8")
    (problem,) = space.check(tmp_path)
    assert "python_version" in problem and "sdk," not in problem


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("torch>=2.11", "torch>=2.12", "2.11.0"),
        ("gradio>=6.31", "gradio>=6.99", "sdk_version"),
        ("gradio>=6.31,<7", "gradio==6.0.0", "sdk_version"),
        ("spaces>=0.51,<1", "", "spaces is missing"),
        ("pillow>=12,<13", "pillow>=2,<3", "pillow"),
        ("pillow>=12,<13", "git+https://example.org/pillow", "example.org"),
        ("pillow>=12,<13", "a-package-of-nobody>=1", "not installed here"),
    ],
)
def test_a_pin_that_a_space_cannot_meet_is_named(old, new, words):
    assert any(old in line for line in LINES)
    problems = space.check_requirements([line.replace(old, new) for line in LINES], HEADER["sdk_version"])
    assert problems and words in problems[0]


@pytest.mark.parametrize(
    ("pins", "words"),
    [
        ([], "torch==VERSION"),
        (["torch>=2.11"], "got torch>=2.11"),
        (["torch==2.13.0"], "2.10.0, 2.11.0"),
        (["torch==2.10.0"], "excludes torch==2.10.0"),
    ],
)
def test_torch_has_to_be_pinned_to_what_zero_gpu_offers_before_the_ranges_are_read(pins, words):
    (problem,) = space.check_pins(pins, LINES)
    assert words in problem
    assert space.check_pins(["torch==2.11.0  # why"], LINES) == []


def test_a_folder_without_the_pin_cannot_be_pushed(tmp_path):
    for name in ("README.md", "requirements.txt", "app.py"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    (problem,) = space.check(tmp_path)
    assert problem.startswith("pre-requirements.txt: ")


def test_a_file_that_git_cannot_push_or_never_fetched_is_named(tmp_path):
    (tmp_path / "assets").mkdir()
    with (tmp_path / "assets" / "large.bin").open("wb") as file:
        file.truncate(space.LARGE + 1)
    (tmp_path / "assets" / "a.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    pointer, large = space.check_files(tmp_path)
    assert "large.bin" in large and "git lfs pull" in pointer


# ---------------------------------------------------------------- what runs there


def test_the_variable_names_the_model_and_a_flag_has_the_last_word(monkeypatch):
    monkeypatch.setenv(space.MODEL, "flux-dev")
    assert app.parse([]).model == "flux-dev" and app.parse(["--model", "pocket"]).model == "pocket"
    monkeypatch.setenv(space.MODEL, "")
    assert app.parse([]).model == "pocket"


@pytest.mark.parametrize(
    ("device", "token", "words"),
    [("cpu", True, "needs a GPU"), ("cuda", False, "HF_TOKEN"), ("cuda", True, None)],
)
def test_what_flux_lacks_is_known_before_it_is_downloaded(device, token, words):
    said = space.find_missing("flux-dev", device=device, token=token)
    assert said is None if words is None else words in said
    assert space.find_missing("pocket", device="cpu", token=False) is None


def test_a_space_that_lacks_something_comes_up_with_pocket_and_says_so(on_a_space, opened, tmp_path, capsys):
    loaded = load("--model", "flux-dev", "--offload", "model")
    assert opened == ["pocket"] and loaded.name == "pocket"
    assert loaded.description == presets.PRESETS["pocket"].description and "needs a GPU" in loaded.missing
    built = page.build(loaded, tmp_path)
    shown = " ".join(str(part.value) for part in built.blocks.values() if isinstance(part, gr.HTML))
    assert "Flux-dev needs a GPU" in shown and "pocket runs instead" in capsys.readouterr().err
    built.close()


LOG = "the log of this Space says why"


@pytest.mark.parametrize(
    ("error", "shown", "logged"),
    [
        (hub.LoadError("it is <b>gated</b>"), "it is <b>gated</b>", "it is <b>gated</b>"),
        (RuntimeError("CUDA\nerror"), f"some/body could not be opened: {LOG}", "RuntimeError: CUDA error"),
        (SafetensorError("cut off"), f"some/body could not be opened: {LOG}", "SafetensorError: cut off"),
        (KeyError("vae"), f"some/body could not be opened: {LOG}", "KeyError: 'vae'"),
    ],
    ids=lambda given: type(given).__name__,
)
def test_what_cannot_be_loaded_ends_there_too_and_cannot_smuggle_in_html(
    on_a_space, monkeypatch, capsys, error, shown, logged
):
    def refuse(name: str, **_):
        if name != "pocket":
            raise error
        return tiny.pipeline(guidance_embeds=False)

    monkeypatch.setattr(command, "open_model", refuse)
    loaded = load("--model", "some/body")
    assert loaded.name == "pocket" and loaded.missing == shown and "<b>gated" not in page._header(loaded)
    assert capsys.readouterr().err == f"app.py: {logged}; pocket runs instead\n"


def test_where_pocket_itself_cannot_be_loaded_nothing_else_runs(on_a_space, monkeypatch):
    monkeypatch.setattr(command, "open_model", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        load()


def test_with_all_there_or_elsewhere_the_model_asked_for_runs(on_a_space, opened, monkeypatch):
    monkeypatch.setattr(checkpoint, "best_device", lambda: "cuda")
    monkeypatch.setattr(hub, "has_token", lambda: True)
    assert load("--model", "flux-dev").missing is None
    monkeypatch.delenv("SPACE_ID")
    monkeypatch.setattr(hub, "has_token", lambda: False)
    assert load("--model", "flux-dev").missing is None and opened == ["flux-dev"] * 2


def test_on_zero_gpu_all_models_are_open_before_anybody_is_served(monkeypatch, opened):
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    monkeypatch.setattr(command, "quiet", lambda: None)
    monkeypatch.setattr("dsd.grids.teacher.load_teacher", lambda *_, **__: opened.append("teacher"))
    monkeypatch.setattr("dsd.vlm.open.open_vlm", lambda *_, **__: opened.append("judge"))
    monkeypatch.setattr(page, "build", lambda *_: opened.append("page"))
    monkeypatch.setattr(page, "launch", lambda *_, **__: opened.append("served"))
    monkeypatch.setitem(presets.PRESETS, "pocket", replace(presets.POCKET, judge=str(ROOT)))
    monkeypatch.setattr(app.signal, "signal", lambda *_: None)
    assert app.main([]) == 0
    assert opened == ["pocket", "teacher", "judge", "page", "served"]


@pytest.mark.parametrize("error", [hub.LoadError("gone"), RuntimeError("CUDA error")])
def test_a_teacher_that_cannot_be_opened_does_not_stop_the_start(monkeypatch, opened, capsys, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("dsd.grids.teacher.load_teacher", fail)
    _, wheel = app.load(app.parse([]))
    app.open_now(replace(wheel, judge=None))
    assert str(error) in capsys.readouterr().err and wheel.teacher.name == "pocket"


# ---------------------------------------------------------------- the rules of ZeroGPU


@pytest.fixture(scope="module")
def work() -> Generating:
    return Generating(Loaded(pipe=tiny.pipeline(guidance_embeds=False), name="tiny"))


def test_what_runs_on_the_gpu_yields_and_takes_what_its_duration_takes(work):
    assert inspect.isgeneratorfunction(work._steps)
    assert list(inspect.signature(work._steps).parameters) == list(
        inspect.signature(work.pace.gpu_seconds).parameters
    )


def test_the_queue_has_an_end(work, tmp_path):
    built = page.build(work.loaded, tmp_path)
    assert built._queue.max_size == page.QUEUE > 1
    built.close()


# ---------------------------------------------------------------- the command


def test_the_command_says_that_nothing_stands_against_a_space(monkeypatch, opened, capsys):
    monkeypatch.setattr(command, "quiet", lambda: None)
    assert app.main(["--check-space"]) == 0
    said = capsys.readouterr()
    assert said.err == "" and "Ready for Spaces." in said.out and opened == ["pocket"]


def test_the_command_lists_what_does(monkeypatch, opened, capsys):
    monkeypatch.setattr(command, "quiet", lambda: None)
    monkeypatch.setattr(space, "check", lambda root: ["README.md: one", "requirements.txt: two"])
    assert app.main(["--check-space"]) == 1
    assert capsys.readouterr().err == "app.py: README.md: one\napp.py: requirements.txt: two\n"


def test_the_hardware_names_come_from_the_hub():
    assert HEADER["suggested_hardware"] == huggingface_hub.SpaceHardware.ZERO_A10G.value
