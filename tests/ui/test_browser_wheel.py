"""The Grids and Curate tabs, and a described image, in a real browser."""

import json
import re

import httpx
import pytest
from PIL import Image

from dsd.curation import judge as curation
from dsd.files.jsonl import RunError
from dsd.generate import provenance
from dsd.grids.recipes import CRITTERS
from dsd.ui import sessions
from dsd.ui.models import Loaded
from tests import browsing, tiny, wheel_page
from tests.browsing import Hold, expect
from tests.calling import is_still, until

STEPS = 12


@pytest.fixture(scope="module")
def teacher():
    return wheel_page.teacher(steps=STEPS)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two pages, the second of six pairs."""
    return wheel_page.judged_run(tmp_path_factory.mktemp("run") / "run", grids=5)


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


# -- Grids


def test_an_example_is_drawn_cut_and_judged(open_tab, tmp_path):
    tab = open_tab("Grids")
    browsing.begin_grid(tab)
    tab.locator("#grid-status").get_by_text("Done, seed").wait_for()
    tab.locator("#grid-panels img").nth(3).wait_for()
    tab.locator("#grid-facts tfoot td").nth(5).wait_for()
    facts = tab.locator("#grid-facts").inner_text()
    assert "6 of 6" in facts and "4 images of the same red round" in facts
    assert tab.locator("#grid-facts tfoot td").all_inner_texts() == ["✓ same"] * 6
    assert tab.locator("#grid-facts dd").all_inner_texts() == ["red round"] * 4 and "°" not in facts
    with tab.expect_download() as waiting:
        tab.locator("#grid-grid").get_by_label("Download").click()
    waiting.value.save_as(tmp_path / "grid.png")
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.info["Source"] == provenance.MARK and grid.size == (64, 64)


def test_empty_fields_are_answered_and_a_surprise_fills_them_all_and_another_one_differs(open_tab):
    tab = open_tab("Grids")
    tab.get_by_role("button", name="Draw the grid").click()
    tab.locator("#grid-subject-remark [role=alert]").get_by_text("A subject is empty").wait_for()
    expect(tab.locator(".dsd-problem:visible")).to_have_count(1)
    assert tab.locator("#grid-grid img").count() == 0
    labels = ("Who or what?", "Top left", "Top right", "Bottom left", "Bottom right")

    def surprise() -> list[str]:
        before = tab.get_by_label(labels[0]).input_value()
        tab.get_by_role("button", name="Surprise me").click()
        expect(tab.get_by_label(labels[0])).not_to_have_value(before)
        fields = [tab.get_by_label(label) for label in labels]
        for field in fields:
            expect(field).not_to_have_value("")
        return [field.input_value() for field in fields]

    first, second = surprise(), surprise()
    assert all(first) and all(second) and first != second


def test_cancel_stops_within_a_step_and_the_next_grid_is_drawn(open_tab, teacher):
    tab = open_tab("Grids")
    with Hold(teacher.pipe.transformer, first=4, seconds=0.3) as hold:
        browsing.begin_grid(tab)
        tab.get_by_text(re.compile(rf"Step \d+ of {STEPS}")).wait_for()
        tab.locator("#grid-grid img").wait_for()  # the live preview
        tab.locator("#grid-cancel").click()
        tab.get_by_text("Canceled.").wait_for()
        stopped = len(hold.calls)
        hold.release()
        until(lambda: is_still(hold.calls))
        assert len(hold.calls) <= stopped + 1 and stopped < STEPS
    expect(tab.locator("#grid-facts")).to_have_text("")
    expect(tab.locator("#grid-grid img")).to_have_count(0)  # no blurry preview stays
    full = {"detail": "Queue is full. Please try again later."}
    tab.route("**/queue/join*", lambda way: way.fulfill(status=503, json=full))
    tab.get_by_role("button", name="Draw the grid").click()
    tab.get_by_text("currently busy").wait_for()
    tab.unroute("**/queue/join*")
    tab.get_by_role("button", name="Draw the grid").click()
    tab.locator("#grid-status").get_by_text("Done, seed").wait_for()


def test_the_grids_tab_and_the_generate_tab_share_one_queue(open_tab, teacher, tmp_path):
    tiny.image().save(tmp_path / "photo.png")
    first, second = open_tab("Grids"), open_tab("Create")
    second.locator("#upload input[type=file]").set_input_files(str(tmp_path / "photo.png"))
    second.locator("#seen img").wait_for()
    second.get_by_label("Where should it be?").fill("a hat")
    with Hold(teacher.pipe.transformer, first=4):
        browsing.begin_grid(first)
        first.get_by_text(re.compile(rf"Step \d+ of {STEPS}")).wait_for()
        second.get_by_role("button", name="Create").click()
        second.locator("#status[data-place='1 person before you']").wait_for()
        third = open_tab("Grids")
        browsing.begin_grid(third)
        third.locator("#grid-status[data-place='2 people before you']").wait_for()
        second.get_by_role("button", name="Cancel").click()
        third.locator("#grid-status[data-place='1 person before you']").wait_for()
        third.get_by_role("button", name="Cancel").click()
        second.get_by_role("button", name="Create").click()
    second.locator("#status").get_by_text("Done").wait_for()
    first.locator("#grid-status").get_by_text("Done, seed").wait_for()


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
    assert re.search(r"\d+ of 30 pairs", before)
    tab.wait_for_function("""() => {
      const heights = [...document.querySelectorAll(".dsd-card")].map((card) => card.offsetHeight);
      return heights.length === 24 && new Set(heights).size === 1;
    }""")
    slide(tab, "curate-minimum", 4)
    tab.locator("#curate-rates").get_by_text("by your thresholds").wait_for()
    tab.locator("#curate-rates").get_by_text("--minimum-score 4").wait_for()
    tab.locator(".dsd-why", has_text="one trait does not agree").nth(1).wait_for()
    tab.get_by_role("button", name="Reset to the run's own thresholds").click()
    tab.locator("#curate-rates").get_by_text("by your thresholds").wait_for(state="detached")
    expect(tab.locator("#curate-rates")).to_have_text(before, use_inner_text=True)

    first, second = "Pairs 1 to 24 of 30", "Pairs 25 to 30 of 30"
    tab.locator("#curate-position").get_by_text(first).wait_for()
    tab.locator("#curate-forth").click()
    tab.locator("#curate-position").get_by_text(second).wait_for()
    number = tab.locator("#curate-page input")
    for typed, key, shown in (("-3", "back", first), ("99", "forth", second), ("-3", "Enter", first)):
        number.fill(typed)
        number.press(key) if key == "Enter" else tab.locator(f"#curate-{key}").click()
        tab.locator("#curate-position").get_by_text(shown).wait_for()
    choose(tab, "answer cannot be read")
    tab.locator("#curate-position").get_by_text("page 1 of 1").wait_for()
    tab.locator("#pair-0 summary").click()
    tab.locator("#pair-0").get_by_text("no idea").wait_for()
    expect(tab.locator(".dsd-badge.dsd-kept")).to_have_count(0)


def test_labels_are_saved_counted_and_taken_away(open_tab, run, tmp_path, monkeypatch):
    (run / "labels.jsonl").unlink(missing_ok=True)
    tab = open_tab("Curate")
    tab.locator("#pair-0 img").first.wait_for()
    tab.locator("#pair-0").get_by_role("button", name="Same").click()
    tab.locator("#curate-agreement").get_by_text("1 of 1").wait_for()
    tab.locator("#pair-0").press("ArrowRight")
    tab.locator("#pair-1 summary").click()
    tab.locator("#pair-1:focus-within").press("s")
    tab.locator("#curate-agreement").get_by_text("1 of 2").wait_for()
    tab.locator("#pair-2:focus").press("ArrowLeft")  # S and D go on to the next pair
    tab.locator("#pair-1:focus").press("d")
    tab.locator("#curate-agreement").get_by_text("2 of 2").wait_for()
    pressed = tab.locator("#curate-cards [aria-pressed=true]")
    expect(pressed).to_have_text(["Same", "Different"])
    slide(tab, "curate-minimum", 2)  # shows the cards again
    tab.locator("#curate-rates").get_by_text("by your thresholds").wait_for()
    expect(pressed).to_have_text(["Same", "Different"])
    expect(tab.locator("#curate-cards [open]")).to_have_count(1)  # what was unfolded stays so
    ids = [pair.id for pair in curation.read_pairs(run)]
    assert curation.labels(run) == {ids[0]: "keep", ids[1]: "drop"}
    with tab.expect_download() as waiting:
        tab.get_by_role("button", name="Download my labels").click()
    waiting.value.save_as(tmp_path / "labels.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "labels.jsonl").read_text().splitlines()]
    told = [(row["id"], row["label"], row["verdict"]) for row in rows]
    assert told == [(ids[0], "keep", "keep"), (ids[1], "drop", "drop")]
    with monkeypatch.context() as full:
        full.setattr(curation, "label", refuse)
        tab.locator("#pair-0").get_by_role("button", name="Different").click()
        tab.locator("#pair-0 [role=alert]").get_by_text("no space left").wait_for()
    expect(pressed).to_have_text(["Same", "Different"])
    assert tab.get_by_test_id("toast-body").count() == 0
    tab.locator("#pair-0").get_by_role("button", name="Different").click()
    expect(tab.locator("#pair-0 [role=alert]")).to_have_count(0)


def refuse(*_):
    raise RunError("cannot write labels.jsonl: no space left on device")


def test_a_page_keeps_its_labels_however_many_programs_ask_meanwhile(
    browser, run, tmp_path_factory, monkeypatch
):
    """Each call of a program is a session to gradio, which drops the state of the oldest ones."""
    monkeypatch.setattr(sessions, "PAGES", 20)
    monkeypatch.setattr(sessions, "PROGRAMS", 10)
    loaded = Loaded(pipe=tiny.pipeline(guidance_embeds=False), name="tiny")
    wheel = wheel_page.wheel(run=run)
    with (
        browsing.serving(loaded, tmp_path_factory.mktemp("none"), wheel) as url,
        browsing.visitors(browser, url) as open_page,
    ):
        tab = open_page()
        tab.get_by_role("tab", name="Curate").click()
        tab.locator("#pair-0 img").first.wait_for()
        for key in "ssd":  # in a hurry
            tab.locator("#curate-cards").evaluate(
                """(cards, key) => {
              const here = document.activeElement.closest(".dsd-card") ?? cards.querySelector(".dsd-card");
              here.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
            }""",
                key,
            )
        tab.locator("#curate-agreement").get_by_text("of 3").wait_for()
        with httpx.Client(trust_env=False, timeout=60) as client:
            for number in range(sessions.PAGES + 10):
                asked = {"data": ["on the moon"], "session_hash": f"program-{number}"}
                client.post(f"{url}gradio_api/run/unknown_words", json=asked).raise_for_status()
        tab.locator("#pair-3").get_by_role("button", name="Same").click()
        tab.locator("#curate-agreement").get_by_text("of 4").wait_for()
        with tab.expect_download() as waiting:
            tab.get_by_role("button", name="Download my labels").click()
        rows = [json.loads(line) for line in waiting.value.path().read_text().splitlines()]
        assert [row["label"] for row in rows] == ["keep", "keep", "drop", "keep"]


# -- Results


def test_results_say_what_a_run_lacks_and_draw_what_it_has(open_tab, run):
    tab = open_tab("Curate")
    tab.get_by_role("tab", name="Results").click()
    for words in ("--worth", "There are no scores:", "There is no curves.jsonl", "no sample sheets"):
        tab.get_by_text(words).first.wait_for()
    (run / "curves.jsonl").write_text("".join(f'{{"step": {n}, "loss": {1 / n}}}\n' for n in (1, 2, 3)))
    tab.get_by_role("tab", name="Pairs").click()
    tab.get_by_role("tab", name="Results").click()
    tab.locator("#results-loss svg path").first.wait_for()
    (run / "curves.jsonl").unlink()


# -- the described image


def test_an_image_is_described_edited_and_only_then_used(open_tab, tmp_path):
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
    expect(suggestion).to_have_value("a red round critter in the forest")
    expect(prompt).to_have_value("in the forest")
    browsing.fill_unfolded(suggestion, "a red round critter in the dark forest")
    tab.get_by_role("button", name="Use this as my prompt").click()
    expect(prompt).to_have_value("a red round critter in the dark forest")
