"""What the app's flags open, and when: nothing that a visitor has not asked for."""

import pytest

import app
from dsd import command
from dsd.recipes import CRITTERS, IDENTITY
from dsd.ui import page
from tests import tiny


@pytest.fixture
def load(monkeypatch):
    """Both halves of the page by some flags, around a tiny pipeline."""
    monkeypatch.setattr(command, "open_model", lambda *_, **__: tiny.pipeline(guidance_embeds=False))

    def load(*flags: str):
        args = app.parse(list(flags))
        app.check(args)
        judge = app.judge(args)
        return app.load(args, judge), app.wheel(args, judge)

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
    monkeypatch.setattr(app, "POCKET_JUDGE", tmp_path / "none")
    assert "train.pocket.judge" in load()[1].judge.missing
    monkeypatch.setattr(app, "POCKET_JUDGE", tmp_path)
    assert load()[1].judge.missing is None


def test_the_sample_is_shown_where_there_is_one_and_never_as_ones_own(load, monkeypatch, tmp_path):
    monkeypatch.setattr(app, "SAMPLE_RUN", tmp_path / "none")
    assert load()[1].run is None
    monkeypatch.setattr(app, "SAMPLE_RUN", tmp_path)
    assert load()[1].run == tmp_path and not load()[1].own
    (mine := tmp_path / "mine").mkdir()
    assert load("--run", str(mine))[1].run == mine and load("--run", str(mine))[1].own


def test_the_embedded_judge_is_not_asked_about_what_flux_draws(load):
    loaded, wheel = load("--model", "flux-dev")
    assert loaded.describer is None and loaded.recipe is IDENTITY
    assert wheel.judge is not None and wheel.recipe is CRITTERS and "24 GB" in wheel.about
    _, wheel = load("--teacher", "flux-dev")
    assert wheel.judge is None and wheel.recipe is IDENTITY


def test_a_named_judge_is_asked_about_anything(load):
    server = "http://127.0.0.1:9/v1"
    loaded, wheel = load("--model", "flux-dev", "--teacher", "flux-dev", "--judge", server)
    assert loaded.describer is wheel.judge and wheel.judge.name == server


def test_who_brings_a_model_may_say_that_the_embedded_judge_knows_its_world(load, tmp_path):
    assert load("--model", str(tmp_path))[0].describer is None
    loaded, _ = load("--model", str(tmp_path), "--judge", "pocket")
    assert loaded.describer is not None and loaded.recipe is CRITTERS


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--judge", "nonesuch"], "nonesuch"),
        (["--judge", "pocket", "--teacher", "flux-dev"], "drawn critters only"),
        (["--run", "/nowhere/at/all"], "/nowhere/at/all"),
    ],
)
def test_a_mistake_stops_the_app_with_one_line(flags, words, capsys, monkeypatch):
    monkeypatch.setattr(command, "quiet", lambda: None)
    assert app.main(flags) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and words in said
