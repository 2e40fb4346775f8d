"""Ranked images and the guidance sheet on the page: order, words, errors that lose nothing, one click."""

from pathlib import Path

import gradio as gr
import pytest

from dsd.generate import provenance, ranking
from dsd.generate.ranking import Score
from dsd.ui import uploads
from dsd.ui.generate.handlers import Generating
from dsd.ui.generate.history import describe
from dsd.ui.generate.sheet import READY, Sheets
from dsd.ui.models import Lazy, Loaded, lazy_ranker
from tests.forms import form


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.setenv(uploads.VARIABLE, str(tmp_path))


def last_is_best(frame, prompt, images):
    return [Score(0.5 + i / 10, 1.0) for i in range(len(images))]


def working(pipe, ranker) -> Generating:
    return Generating(Loaded(pipe=pipe, name="tiny", ranker=Lazy("tiny", lambda: ranker)))


def seeds(gallery: gr.Gallery) -> list[int]:
    return [int(Path(item["image"]["path"]).stem.split("-")[1]) for item in files(gallery)]


def files(gallery: gr.Gallery) -> list[dict]:
    return gallery.value if isinstance(gallery.value, list) else gallery.value.model_dump()


def test_the_best_stands_first_with_its_scores_in_words(pipe, photo):
    views = working(pipe, last_is_best).draw(form(photo, count=3, rank=True))
    shown = [view for view in views if "images" in view][-1]
    assert seeds(shown["images"]) == [9, 8, 7] and "the best first" in shown["status"]
    assert "Seed 9 · same subject 70 %, prompt 100 %" in describe(files(shown["images"])[0]["image"]["path"])


def test_a_ranking_is_timed(pipe, photo):
    work = working(pipe, last_is_best)
    list(work.draw(form(photo, count=2)))
    assert work.pace.rank_rate is None
    list(work.draw(form(photo, count=2, rank=True)))
    assert 0 < work.pace.rank_rate < 60


def test_images_stay_as_drawn_without_the_tick(pipe, photo):
    views = list(working(pipe, last_is_best).draw(form(photo, count=2)))
    shown = [view for view in views if "images" in view][-1]
    assert seeds(shown["images"]) == [7, 8] and "best first" not in shown["status"]


def test_a_ranking_that_fails_loses_no_image(pipe, photo):
    def fail(*_):
        raise ValueError("the judge is unreachable")

    *_, shown = working(pipe, fail).draw(form(photo, count=2, rank=True))
    assert seeds(shown["images"]) == [7, 8]
    assert "2 of 2 images are done. The judge is unreachable." in shown["status"]


def test_what_cannot_be_opened_or_is_not_there_is_said_before_anything_is_drawn(pipe, photo, monkeypatch):
    def fail():
        raise ValueError("facebook/dinov2-base must be downloaded once")

    away = Generating(Loaded(pipe=pipe, name="tiny", ranker=Lazy("tiny", fail)))
    for work, words in ((away, "must be downloaded once"), (Generating(away.loaded), "must be")):
        monkeypatch.setattr(work, "_steps", lambda *_: pytest.fail("it drew"))
        (shown,) = work.draw(form(photo, rank=True))
        assert words in shown["setting_remark"].value
    none = Generating(Loaded(pipe=pipe, name="tiny"))
    with pytest.raises(gr.Error, match="--embedder"):
        list(none.endpoint(photo, "a hat", seed=7, steps=1, width=32, height=32, rank=True))


def test_a_program_gets_the_best_first(pipe, photo):
    given = (photo, "a hat", 2, 1, 1.5, 1.0, None, 7, 32, 32, "crop", "best", True)
    for paths, order in working(pipe, last_is_best).endpoint(*given):  # noqa: B007 the files go at the end
        scores = [ranking.read_score(provenance.read_settings(path)) for path in paths]
    assert order == [8, 7] and scores == [Score(0.6, 1.0), Score(0.5, 1.0)]


def test_a_family_without_a_ranker_offers_none_and_pocket_has_one():
    assert lazy_ranker("pocket", embedder=None, judge=None, device="cpu")() is not None
    assert lazy_ranker("flux-dev", embedder=None, judge=None, device="cpu").name == "facebook/dinov2-base"


# ---------------------------------------------------------------- the sheet


def test_a_click_on_the_sheet_takes_over_its_scales_and_shows_its_image(pipe, photo):
    sheets = Sheets(Generating(Loaded(pipe=pipe, name="tiny")))
    views = list(sheets.draw(form(photo, steps=1)))
    shown = files([view for view in views if "sheet" in view][-1]["sheet"])
    assert len(shown) == 9 and READY in views[-1]["sheet_status"]
    assert [item["caption"] for item in shown[:2]] == ["keep 1, follow 1", "keep 1, follow 2"]
    taken = sheets.adopt(shown, 5)
    assert (taken["image_guidance"], taken["text_guidance"]) == (1.5, 3.0)
    assert files(taken["images"])[0]["image"]["path"].endswith("dsd-7-1.5-3.png")
    assert "Taken over" in taken["sheet_status"]


def test_the_sheet_says_what_is_missing_and_what_is_gone(pipe, photo):
    sheets = Sheets(Generating(Loaded(pipe=pipe, name="tiny")))
    for given, part, words in (
        (form(None), "remarks", "no image yet"),
        (form(photo, prompt=""), "unknown", "empty"),
        (form(photo, seed=-2), "setting_remark", "got -2"),
    ):
        (shown,) = sheets.draw(given)  # at the field, as a click on Create says it
        assert list(shown) == [part] and words in shown[part].value and shown[part].visible
    assert "draw the sheet again" in sheets.adopt([], 0)["sheet_status"]
    gone = [{"image": {"path": str(Path(photo).with_name("gone.png"))}}]
    taken = sheets.adopt(gone, 0)
    assert list(taken) == ["sheet_status"] and "dsd-problem" in taken["sheet_status"]
