"""The Grids and Curate tabs, and a described image, in a real browser."""

import json
import re
import time

import pytest
from PIL import Image

from dsd.curation import judge as curation
from dsd.generate import provenance
from dsd.grids.recipes import CRITTERS
from dsd.ui.models import Loaded
from tests import browsing, tiny, wheel_page

STEPS = 12


@pytest.fixture(scope="module")
def teacher():
    return wheel_page.teacher(steps=STEPS)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return wheel_page.judged_run(tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="module")
def server(teacher, run, tmp_path_factory):
    describer = wheel_page.judge(lambda request: "a red round critter on the beach")
    loaded = Loaded(
        pipe=tiny.pipeline(guidance_embeds=False), name="tiny", describer=describer, recipe=CRITTERS
    )
    wheel = wheel_page.wheel(teacher=wheel_page.late(teacher), run=run, own=True)
    with browsing.serving(loaded, tmp_path_factory.mktemp("no-examples"), wheel) as url:
        yield url


@pytest.fixture
def open_tab(open_page):
    """Opens a fresh visitor's page at one of the tabs."""

    def open_tab(name: str, **options):
        tab = open_page(**options)
        tab.get_by_role("tab", name=name).click()
        return tab

    return open_tab


def slower(teacher, seconds: float, calls: list):
    def wait(*_):
        calls.append(1)
        time.sleep(seconds)

    return teacher.pipe.transformer.register_forward_hook(wait)


# -- Grids


def test_an_example_is_drawn_cut_and_judged(open_tab, tmp_path):
    tab = open_tab("Grids")
    browsing.begin_grid(tab)
    tab.locator("#grid-status").get_by_text("Done, seed").wait_for()
    tab.locator("#grid-panels img").nth(3).wait_for()
    facts = tab.locator("#grid-facts").inner_text()
    assert facts.count("Panels ") == 6 and "6 of 6" in facts and "4 images of the same red round" in facts
    tab.locator("#grid-facts summary").first.click()
    tab.get_by_text("red 12° round").first.wait_for()
    with tab.expect_download() as waiting:
        tab.locator("#grid-grid").get_by_label("Download").click()
    waiting.value.save_as(tmp_path / "grid.png")
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.info["Source"] == provenance.MARK and grid.size == (64, 64)


def test_empty_fields_are_answered_and_a_surprise_fills_them_all_and_another_one_differs(open_tab):
    tab = open_tab("Grids")
    tab.get_by_role("button", name="Draw the grid").click()
    tab.locator("#grid-status").get_by_text("A subject is empty").wait_for()
    assert tab.locator("#grid-grid img").count() == 0
    labels = ("Who or what?", "Top left", "Top right", "Bottom left", "Bottom right")

    def surprise() -> list[str]:
        before = tab.get_by_label(labels[0]).input_value()
        tab.get_by_role("button", name="Surprise me").click()
        tab.wait_for_function(
            "before => document.querySelector('#grid-subject textarea').value !== before", arg=before
        )
        tab.wait_for_timeout(200)
        return [tab.get_by_label(label).input_value() for label in labels]

    first, second = surprise(), surprise()
    assert all(first) and all(second) and first != second


def test_cancel_stops_within_a_step_and_the_next_grid_is_drawn(open_tab, teacher):
    calls = []
    hook = slower(teacher, 0.3, calls)
    try:
        tab = open_tab("Grids")
        browsing.begin_grid(tab)
        tab.get_by_text(re.compile(rf"Step \d+ of {STEPS}")).wait_for()
        tab.locator("#grid-grid img").wait_for()  # the live preview
        tab.locator("#grid-cancel").click()
        tab.get_by_text("Canceled.").wait_for()
        stopped = len(calls)
        time.sleep(1.0)
        assert len(calls) <= stopped + 1 and stopped < STEPS
    finally:
        hook.remove()
    tab.get_by_role("button", name="Draw the grid").click()
    tab.locator("#grid-status").get_by_text("Done, seed").wait_for()


def test_the_grids_tab_and_the_generate_tab_share_one_queue(open_tab, teacher, tmp_path):
    tiny.image().save(tmp_path / "photo.png")
    hook = slower(teacher, 0.4, [])
    try:
        first, second = open_tab("Grids"), open_tab("Create")
        second.locator("#upload input[type=file]").set_input_files(str(tmp_path / "photo.png"))
        second.locator("#seen img").wait_for()
        second.get_by_label("Where should it be?").fill("a hat")
        browsing.begin_grid(first)
        first.get_by_text(re.compile(rf"Step \d+ of {STEPS}")).wait_for()
        second.get_by_role("button", name="Create").click()
        second.get_by_text("queue: 1").first.wait_for()
    finally:
        hook.remove()
    second.locator("#status").get_by_text("Done").wait_for()
    assert "Done, seed" in first.locator("#grid-status").inner_text()  # it was first, and is done before


# -- Curate


def slide(tab, name: str, value: float) -> None:
    box = tab.locator(f"#{name}").get_by_role("spinbutton")
    box.fill(str(value))
    box.press("Tab")


def choose(tab, words: str) -> None:
    tab.locator("#curate-show input").click()
    tab.get_by_role("option", name=words).click()


def test_a_threshold_moves_the_rate_and_the_cards_and_filters_and_pages_lead_to_others(open_tab):
    tab = open_tab("Curate")
    tab.locator("#pair-0 img").nth(1).wait_for()
    before = tab.locator("#curate-rates").inner_text()
    assert re.search(r"\d+ of 18 pairs", before)
    slide(tab, "curate-minimum", 4)
    tab.locator("#curate-rates").get_by_text("by your thresholds").wait_for()
    tab.locator("#curate-rates").get_by_text("--minimum-score 4").wait_for()
    tab.locator(".dsd-why", has_text="one part does not agree").nth(1).wait_for()
    tab.get_by_role("button", name="Reset to the run's own thresholds").click()
    tab.locator("#curate-rates").get_by_text("by your thresholds").wait_for(state="detached")
    assert tab.locator("#curate-rates").inner_text() == before

    tab.locator("#curate-position").get_by_text("Pairs 1 to 6 of 18").wait_for()
    tab.locator("#curate-forth").click()
    tab.locator("#curate-position").get_by_text("Pairs 7 to 12 of 18").wait_for()
    tab.locator("#curate-page input").fill("3")
    tab.locator("#curate-page input").press("Enter")
    tab.locator("#curate-position").get_by_text("Pairs 13 to 18 of 18").wait_for()
    choose(tab, "answer cannot be read")
    tab.locator("#curate-position").get_by_text("page 1 of 1").wait_for()
    tab.locator("#pair-0 summary").click()
    tab.locator("#pair-0").get_by_text("no idea").wait_for()
    assert tab.locator(".dsd-badge.dsd-kept").count() == 0


def test_labels_are_saved_counted_and_taken_away(open_tab, run, tmp_path):
    (run / "labels.jsonl").unlink(missing_ok=True)
    tab = open_tab("Curate")
    tab.locator("#pair-0 img").first.wait_for()
    tab.locator("#pair-0").get_by_role("button", name="Accept").click()
    tab.locator("#curate-agreement").get_by_text("1 of 1").wait_for()
    tab.locator("#pair-1").get_by_role("button", name="Accept").click()
    tab.locator("#curate-agreement").get_by_text("1 of 2").wait_for()
    tab.locator("#pair-1").get_by_role("button", name="Reject").click()
    tab.locator("#curate-agreement").get_by_text("2 of 2").wait_for()
    tab.locator("#pair-1").get_by_role("button", name="Rejected").wait_for()
    ids = [pair.id for pair in curation.read_pairs(run)]
    assert curation.labels(run) == {ids[0]: "keep", ids[1]: "drop"}
    with tab.expect_download() as waiting:
        tab.get_by_role("button", name="Download my labels").click()
    waiting.value.save_as(tmp_path / "labels.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "labels.jsonl").read_text().splitlines()]
    assert [(row["id"], row["label"], row["verdict"]) for row in rows] == [
        (ids[0], "keep", "keep"),
        (ids[1], "drop", "drop"),
    ]


# -- the described image


def test_a_image_is_described_edited_and_only_then_used(open_tab, tmp_path):
    tiny.image().save(tmp_path / "photo.png")
    tab = open_tab("Create")
    prompt = tab.get_by_label("Where should it be?")
    prompt.fill("in the forest")
    tab.locator("#upload input[type=file]").set_input_files(str(tmp_path / "photo.png"))
    tab.locator("#seen img").wait_for()
    assert tab.get_by_role("button", name="Describe it").count() == 0  # folded away
    tab.get_by_role("button", name="Describe my image for me").click()
    tab.get_by_role("button", name="Describe it").click()
    suggestion = tab.get_by_label("Suggested prompt")
    suggestion.wait_for()
    assert suggestion.input_value() == "a red round critter in the forest"
    assert prompt.input_value() == "in the forest"
    suggestion.fill("a red round critter in the dark forest")
    tab.get_by_role("button", name="Use this as my prompt").click()
    tab.wait_for_function("document.querySelector('#prompt textarea').value.includes('dark forest')")
