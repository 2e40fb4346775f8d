"""ZeroGPU gives so many seconds and no more: what is shown by then stays on the page, on both tabs."""

from collections.abc import Callable, Iterator

import gradio as gr
import pytest

from dsd.generate import drawing
from dsd.generate.drawing import Progress
from dsd.ui.generate import handlers as generating
from dsd.ui.generate.handlers import Generating
from dsd.ui.grids import handlers as drawing_grids
from dsd.ui.grids.handlers import PLACES, DrawingGrids, Report
from tests import wheel_page
from tests.forms import form

SKIP = gr.skip()


@pytest.fixture(autouse=True)
def watched(monkeypatch) -> None:
    """Every step brings a preview, and toasts need no page."""
    for module in (generating, drawing_grids):
        monkeypatch.setattr(module, "PREVIEW_SECONDS", 0.0)
    monkeypatch.setattr(gr, "Warning", lambda *_, **__: None)


def stopped(steps: Iterator, when: Callable[[object], bool], error: Exception) -> Iterator:
    """As ZeroGPU ends them: after the first step of which `when` is true."""
    for step in steps:
        yield step
        if when(step):
            raise error


# ---------------------------------------------------------------- Create


@pytest.fixture(scope="module")
def generating_tab(loaded) -> Generating:
    return Generating(loaded)


@pytest.fixture
def drawn(generating_tab, monkeypatch, photo):
    """All that the page is sent of five images, which take two batches, until the time ends."""
    steps = generating_tab._steps

    def drawn(when: Callable[[Progress], bool], image: str | None = photo) -> list[dict]:
        error = gr.Error("GPU task aborted")
        monkeypatch.setattr(generating_tab, "_steps", lambda *asked: stopped(steps(*asked), when, error))
        return list(generating_tab.draw(form(image, count=5, image_guidance=1.0)))

    return drawn


def captions(gallery: gr.Gallery) -> list[str]:
    return [item["caption"] for item in gallery.value]


def test_images_that_are_done_stay(drawn):
    seen = drawn(lambda progress: progress.results and progress.previews)
    finished = ["a hat"] * drawing.BATCH
    assert captions(seen[-2]["images"]) == [*finished, "preview"]
    assert captions(seen[-1]["images"]) == finished
    assert "4 of 5 images are done. GPU task aborted" in seen[-1]["status"]


def test_previews_stay_when_no_image_is_done(drawn):
    *_, before, last = drawn(lambda progress: progress.previews)
    assert captions(before["images"]) == ["preview"] * drawing.BATCH
    assert list(last) == ["status", "planned"]
    assert "GPU task aborted" in last["status"] and 'role="alert"' in last["status"]


def test_a_mistake_takes_no_earlier_image_away(drawn):
    (shown,) = drawn(lambda progress: False, image=None)
    assert list(shown) == ["remarks", "planned"] and "There is no image yet" in shown["remarks"].value


# ---------------------------------------------------------------- Grids


def grid(when: Callable[[Report], bool], error: Exception, *, subject: str = "red critter") -> list[dict]:
    """All that the page is sent of a grid until the time ends."""
    work = DrawingGrids(wheel_page.wheel())
    steps = work._steps
    work._steps = lambda prompt: stopped(steps(prompt), when, error)
    places = dict(zip(PLACES, ("beach", "forest", "snow", "space"), strict=True))
    return list(work.draw({"subject": subject, "seed": 7, **places}))


def remarks(update: dict) -> list[str]:
    """What the fields say of mistakes; take it out of the update."""
    found = [update.pop(name).value for name in [*update] if name.endswith("_remark")]
    return [text for text in found if text]


@pytest.mark.parametrize(
    ("error", "words"),
    [(gr.Error("GPU task aborted"), "GPU task aborted"), (OSError("disk"), "Something went wrong")],
)
@pytest.mark.parametrize("judged", [0, 2])
def test_a_grid_stays_when_its_pairs_are_not_all_judged(judged, error, words, caplog):
    seen = grid(lambda report: report.grid and len(report.pairs) == judged, error)
    image = [update for update in seen if "grid" in update][-1]
    assert image["grid"].endswith("grid-7.png") and image["panels"].visible
    last, facts = seen[-1], seen[-1]["facts"]
    assert remarks(last) == [] and set(last) == {"facts", "told", "status"}
    assert f"The grid is drawn. {words}" in last["status"] and 'role="alert"' in last["status"]
    assert facts.count("&amp;") == judged and "could not finish" in facts
    assert "continues" not in facts and "compares the panels" not in facts
    caplog.clear()  # the unforeseen one is logged


def test_a_preview_of_a_grid_stays_too():
    *_, before, last = grid(lambda report: report.preview, gr.Error("GPU task aborted"))
    assert before["grid"] and remarks(last) == [] and set(last) == {"status"}
    assert "GPU task aborted" in last["status"] and "is drawn" not in last["status"]


def test_a_mistake_takes_no_earlier_grid_away():
    (update,) = grid(lambda report: False, ValueError(), subject=" ")
    assert update["subject_remark"].value.count("A subject is empty") == 1
    assert len(remarks(update)) == 1 and not update
