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
from dsd.ui.loaded import Loaded
from tests import tiny, wheel_page

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


# ---------------------------------------------------------------- Generate


@pytest.fixture(scope="module")
def generating_tab() -> Generating:
    return Generating(Loaded(pipe=tiny.pipeline(guidance_embeds=False), name="tiny"))


@pytest.fixture
def drawn(generating_tab, monkeypatch, tmp_path):
    """All that the page is sent of five images, which take two batches, until the time ends."""
    tiny.image().save(tmp_path / "a.png")
    steps = generating_tab._steps

    def drawn(when: Callable[[Progress], bool], image: str | None = str(tmp_path / "a.png")) -> list[tuple]:
        error = gr.Error("GPU task aborted")
        monkeypatch.setattr(generating_tab, "_steps", lambda *asked: stopped(steps(*asked), when, error))
        values = [5, 2, 1.0, 1.0, None, 7, 32, 32, "crop", "best", False]
        return list(generating_tab.draw(image, "a hat", *values))

    return drawn


def captions(gallery: gr.Gallery) -> list[str]:
    return [item["caption"] for item in gallery.value]


def test_images_that_are_done_stay(drawn):
    seen = drawn(lambda progress: progress.results and progress.previews)
    finished = [f"seed {seed}" for seed in (7, 8, 9, 10)]
    assert len(finished) == drawing.BATCH and captions(seen[-2][0]) == [*finished, "preview"]
    images, redrawn, line, _ = seen[-1]
    assert captions(images) == captions(redrawn) == finished
    assert "4 of 5 images are done. GPU task aborted" in line


def test_previews_stay_when_no_image_is_done(drawn):
    *_, before, last = drawn(lambda progress: progress.previews)
    assert captions(before[0]) == ["preview"] * drawing.BATCH
    assert last[0] == last[1] == SKIP and "GPU task aborted" in last[2] and 'role="alert"' in last[2]


def test_a_mistake_takes_no_earlier_image_away(drawn):
    ((images, redrawn, line, _),) = drawn(lambda progress: False, image=None)
    assert images == redrawn == SKIP and "There is no image yet" in line


# ---------------------------------------------------------------- Grids


def grid(when: Callable[[Report], bool], error: Exception, *, subject: str = "red critter") -> list[dict]:
    """All that the page is sent of a grid until the time ends."""
    work = DrawingGrids(wheel_page.wheel())
    steps = work._steps
    work._steps = lambda prompt: stopped(steps(prompt), when, error)
    places = dict(zip(PLACES, ("beach", "forest", "snow", "space"), strict=True))
    return list(work.draw({"subject": subject, "seed": 7, "new_seed": False, **places}))


@pytest.mark.parametrize(
    ("error", "words"),
    [(gr.Error("GPU task aborted"), "GPU task aborted"), (OSError("disk"), "Something went wrong")],
)
@pytest.mark.parametrize("judged", [0, 2])
def test_a_grid_stays_when_its_pairs_are_not_all_judged(judged, error, words):
    seen = grid(lambda report: report.grid and len(report.pairs) == judged, error)
    image = [update for update in seen if "grid" in update][-1]
    assert image["grid"].endswith("grid-7.png") and image["panels"].visible
    last, facts = seen[-1], seen[-1]["facts"]
    assert set(last) == {"facts", "status"}
    assert f"The grid is drawn. {words}" in last["status"] and 'role="alert"' in last["status"]
    assert facts.count('class="dsd-pair"') == judged and "could not finish" in facts
    assert "continues" not in facts and "compares the panels" not in facts


def test_a_preview_of_a_grid_stays_too():
    *_, before, last = grid(lambda report: report.preview, gr.Error("GPU task aborted"))
    assert before["grid"] and set(last) == {"status"}
    assert "GPU task aborted" in last["status"] and "is drawn" not in last["status"]


def test_a_mistake_takes_no_earlier_grid_away():
    (update,) = grid(lambda report: False, ValueError(), subject=" ")
    assert set(update) == {"status"} and "A subject is empty" in update["status"]
