"""The page for everybody: by keyboard alone, with names to be read out, in colors that can be read."""

import re
import shutil
from typing import NamedTuple

import pytest
from axe_playwright_python.sync_playwright import Axe

from dsd.generate import provenance
from dsd.grids.recipes import CRITTERS
from dsd.model.presets import ASSETS, POCKET
from dsd.ui.models import Loaded
from tests import browsing, contrast, tiny, wheel_page

THEMES = ("light", "dark")
CONTROLS = "button|checkbox|combobox|link|radio|slider|spinbutton|switch|tab|textbox"
DRAWN = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
STILL = "*,*::before,*::after{transition:none!important;animation:none!important}"  # colors fade over
DEVICES = {"desktop": {"width": 1280, "height": 900}, "phone": {"width": 360, "height": 780}}
AXE = "axe.run({resultTypes: ['violations']}).then((found) => found.violations)"
AXE_THEMES = {"desktop": "light", "phone": "dark"}  # each once: most of the time here is axe-core's
# Visible controls that are smaller than WCAG 2.2 AA (2.5.8) allows; the label of a box belongs to it.
SMALL = """() => [...document.querySelectorAll("button, a[href], input, summary, [role=tab], [role=option]")]
  .filter((e) => e.checkVisibility({opacityProperty: true, visibilityProperty: true}))
  .filter((e) => !e.matches("[type=file], [type=range], :disabled") && !e.closest("#footer, footer"))
  .map((e) => [e, (e.matches("[type=checkbox], [type=radio]") && e.closest("label")) || e])
  .map(([e, box]) => [e, box.getBoundingClientRect()])
  .filter(([, box]) => Math.min(box.width, box.height) > 1 && Math.min(box.width, box.height) < 23.5)
  .map(([e, box]) => `${Math.round(box.width)}x${Math.round(box.height)} ${e.outerHTML.slice(0, 140)}`)"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    examples = tmp_path_factory.mktemp("examples")
    tiny.image().save(examples / "0.png")
    (examples / "examples.json").write_text('[{"image": "0.png", "prompt": "in the snow"}]')
    loaded = Loaded(
        pipe=tiny.pipeline(guidance_embeds=False), name="tiny", description="Random weights.",
        license="Apache-2.0", missing="It lacks something", warn=lambda image: "Unlike its world.",
        describer=wheel_page.judge(), recipe=CRITTERS, tasks=POCKET.tasks,
    )  # fmt: skip
    run = wheel_page.judged_run(tmp_path_factory.mktemp("run") / "run", grids=1)
    shutil.copy(ASSETS / "curves.jsonl", run)
    tiny.image().save(run / "samples.png")
    with browsing.serving(loaded, examples, wheel_page.wheel(run=run, own=True)) as url:
        yield url


# ------------------------------------------------------------ by keyboard alone


def tab_to(tab, selector: str, *, most: int = 60) -> None:
    """Press Tab until what has the focus is, or lies within, what the selector names."""
    for _ in range(most):
        tab.keyboard.press("Tab")
        if tab.evaluate("s => Boolean(document.activeElement.closest(s))", selector):
            return
    pytest.fail(f"no Tab leads to {selector}")


def choose(tab, path: str) -> None:
    """The space bar on the upload area; Enter opens no dialog where Chromium has no window."""
    with tab.expect_file_chooser() as waiting:  # before the focus moves: it takes a moment to act
        tab_to(tab, "#upload button")
        tab.keyboard.press(" ")
    waiting.value.set_files(path)


def test_an_image_is_uploaded_drawn_and_saved_by_keyboard_alone(open_page, tmp_path):
    tiny.image().save(tmp_path / "photo.png")
    tab = open_page()
    tab.locator("#cost").get_by_text("The first image").wait_for()  # so the page's events are at work
    choose(tab, str(tmp_path / "photo.png"))
    tab.locator("#seen img").wait_for()
    tab_to(tab, "#prompt textarea")
    tab.keyboard.type("a red hat")
    tab_to(tab, "#create")
    tab.keyboard.press("Enter")
    tab.locator("#about").get_by_text("Seed").wait_for()
    assert tab.evaluate("document.activeElement.closest('#create') !== null"), "the focus stays on Create"
    tab_to(tab, "#download")
    with tab.expect_download() as waiting:
        tab.keyboard.press("Enter")
    waiting.value.save_as(tmp_path / "made.png")
    assert provenance.read_settings(tmp_path / "made.png")["prompt"] == "a red hat"


def test_tabs_and_folded_settings_open_by_keyboard_and_the_focus_can_be_seen(open_page):
    tab = open_page()
    tab.add_style_tag(content=STILL)
    look = "e => { const s = getComputedStyle(e); return [s.outline, s.boxShadow, s.borderColor].join(); }"
    closed = "[role=tab]:not([aria-selected=true])"
    for selector in ("#upload button", "#create", closed):
        before = tab.locator(selector).first.evaluate(look)
        tab.evaluate("document.activeElement.blur()")
        tab_to(tab, selector)
        assert tab.evaluate(f"({look})(document.activeElement)") != before, selector
    tab.keyboard.press("Enter")
    tab.get_by_role("tab", name="Story", selected=True).wait_for()
    tab.locator("button.label-wrap:visible").first.wait_for()
    browsing.settle(tab)
    tab_to(tab, "button.label-wrap")
    tab.keyboard.press("Enter")
    tab.locator("#story-quality").wait_for()


# ------------------------------------------------------------ every tab, with something on it


def generate(tab) -> None:
    tab.locator("#examples button").first.click()
    tab.locator("#about").get_by_text("Seed").wait_for()
    tab.locator("#history-strip button").first.click()
    tab.locator("#about img").wait_for()


def grids(tab) -> None:
    browsing.begin_grid(tab)
    tab.locator("#grid-status").get_by_text("Done, seed").wait_for()
    tab.locator("#grid-facts tfoot td").nth(5).wait_for()


def curate(tab) -> None:
    tab.locator("#pair-5 img").first.wait_for()
    tab.locator("#pair-0").get_by_role("button", name="Same").click()
    tab.locator("#curate-agreement").get_by_text("of 1").wait_for()


def results(tab) -> None:
    tab.locator("#results-lines svg path").first.wait_for()


def story(tab) -> None:
    tab.locator("#story-lines textarea").fill("in the snow")
    tab.get_by_role("button", name="Draw the story").click()
    tab.locator("#story-png").wait_for()
    tab.locator("#story-panels button").first.click()
    tab.locator("#story-line").wait_for()


VISITS = {"Create": generate, "Story": story, "Grids": grids, "Curate": curate, "Results": results}


def unfold(tab) -> None:
    """Open all that is folded away, in the page at once: what is open leaves the list."""
    tab.evaluate("""() => {
      const folded = document.querySelectorAll("button.label-wrap:not(.open)");
      folded.forEach((e) => e.checkVisibility() && e.click());
      document.querySelectorAll("details").forEach((e) => { e.open = true; });
    }""")
    browsing.settle(tab)  # what was folded is only drawn now


class Seen(NamedTuple):
    """What there is to say of a tab."""

    controls: list[str]  # of Chromium's accessibility tree, a line each
    headings: list[int]  # their levels, from top to bottom
    faint: dict[str, list[str]]  # theme -> texts with too little contrast, on any device
    edges: dict[str, list[str]]  # theme -> controls whose border has too little contrast
    unfocused: dict[str, list[str]]  # theme -> controls that do not show that they have the focus
    width: int  # of the page on a phone
    across: set[float]  # of the page on a desktop: as opened, with something on it, and unfolded
    small: dict[str, list[str]]  # device -> controls with less than 24 pixels
    harm: dict[str, list[str]]  # device -> what axe-core calls serious or critical


@pytest.fixture(scope="module")
def seen(browser, server) -> dict[str, Seen]:
    """One visitor goes through all tabs."""
    found = {}
    with browsing.visitors(browser, server) as open_page:
        tab = open_page()
        tab.add_style_tag(content=STILL)
        for name, visit in VISITS.items():
            tab.set_viewport_size({"width": 1280, "height": 900})
            tab.get_by_role("tab", name=name).click()
            across = [measure(tab)]
            for step in (visit, unfold):
                step(tab)
                across.append(measure(tab))
            found[name] = look(tab, set(across))
    return found


def measure(tab) -> float:
    return tab.locator(".gradio-container").bounding_box()["width"]


def look(tab, across: set[float]) -> Seen:
    said = tab.locator("body").aria_snapshot()
    faint, edges, unfocused, small, harm = {theme: [] for theme in THEMES}, {}, {}, {}, {}
    tab.keyboard.press("Shift")
    for device, size in DEVICES.items():
        tab.set_viewport_size(size)
        tab.evaluate(DRAWN)  # some widths follow by script
        small[device] = tab.evaluate(SMALL)
        for theme in THEMES:  # as gradio does it, which follows the system's choice when a page is opened
            tab.evaluate("dark => document.body.classList.toggle('dark', dark)", theme == "dark")
            faint[theme] += tab.evaluate(contrast.FAINT, [contrast.TEXT, contrast.LARGE])
            if theme == AXE_THEMES[device]:
                harm[device] = harmful(tab)
            if device == "desktop":
                edges[theme] = tab.evaluate(contrast.EDGES, contrast.CONTROL)
                unfocused[theme] = tab.evaluate(contrast.UNFOCUSED, contrast.CONTROL)
        tab.evaluate("document.body.classList.remove('dark')")
    width = tab.evaluate("document.documentElement.scrollWidth")
    controls = re.findall(rf"- ((?:{CONTROLS})\b.*)", said)
    headings = [int(level) for level in re.findall(r"- heading .*\[level=(\d)\]", said)]
    return Seen(controls, headings, faint, edges, unfocused, width, across, small, harm)


def harmful(tab) -> list[str]:
    """Return what axe-core finds that is serious or critical, a line for each rule."""
    if not tab.evaluate("'axe' in window"):
        tab.evaluate(Axe().axe_script)
    worst = [one for one in tab.evaluate(AXE) if one["impact"] in ("serious", "critical")]
    return [f"{one['id']}: {', '.join(node['html'][:120] for node in one['nodes'])}" for one in worst]


@pytest.mark.parametrize("name", VISITS)
def test_every_control_has_a_name(seen, name):
    nameless = [line for line in seen[name].controls if not re.match(r'\w+ ["/]', line)]
    assert len(seen[name].controls) > 5 and nameless == []


def test_the_choice_of_a_task_is_a_named_group(open_page):
    group = open_page().get_by_role("group", name="What would you like?")
    group.get_by_label("Another light").focus()
    group.page.keyboard.press(" ")
    group.page.get_by_label("In which light?").wait_for()
    browsing.expect(group.get_by_label("Another light")).to_be_checked()


@pytest.mark.parametrize("name", VISITS)
def test_axe_finds_nothing_serious_on_any_device(seen, name):
    assert seen[name].harm == {device: [] for device in DEVICES}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", VISITS)
def test_controls_are_large_enough_for_a_finger(seen, name, device):
    assert not seen[name].small[device], "\n".join(seen[name].small[device])


def test_axe_would_find_a_button_without_a_name(browser):
    tab = browser.new_page()
    tab.set_content("<main><h1>A page</h1><button style='width: 18px; height: 18px'></button></main>")
    assert any("button-name" in line for line in harmful(tab))
    assert len(tab.evaluate(SMALL)) == 1
    tab.close()


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("name", VISITS)
def test_every_text_stands_out_from_its_background(seen, name, theme):
    assert seen[name].faint[theme] == []


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("name", VISITS)
def test_every_control_stands_out_and_shows_the_focus(seen, name, theme):
    assert seen[name].edges[theme] == [] and seen[name].unfocused[theme] == []


@pytest.mark.parametrize("name", VISITS)
def test_headings_skip_no_level(seen, name):
    levels = [0, *seen[name].headings]
    assert levels.count(1) == 1 and all(b - a <= 1 for a, b in zip(levels, levels[1:], strict=False))


@pytest.mark.parametrize("name", VISITS)
def test_no_tab_is_wider_than_a_phone(seen, name):
    assert seen[name].width <= DEVICES["phone"]["width"]


def test_the_page_is_as_wide_on_every_tab_whatever_is_on_it(seen):
    assert len(set.union(*(one.across for one in seen.values()))) == 1


def test_faint_text_would_be_found(browser):
    tab = browser.new_page()
    tab.set_content("<p style='color: #0007'>barely</p><p style='color: #767676'>just</p>")
    assert tab.evaluate(contrast.FAINT, [contrast.TEXT, contrast.LARGE]) == ["3.54 P.: barely"]
    tab.close()


def test_a_faint_border_and_a_focus_without_outline_would_be_found(browser):
    tab = browser.new_page()
    tab.set_content("""<input style="border: 1px solid #ccc" aria-label="faint">
      <input style="border: 1px solid #888; outline: 3px solid #060" aria-label="fine">
      <input type="range" style="outline: none" aria-label="slider">""")
    assert [line[:4] + line[-5:] for line in tab.evaluate(contrast.EDGES, 3)] == ["1.61faint"]
    assert [line[-6:] for line in tab.evaluate(contrast.UNFOCUSED, 3) if "faint" not in line] == ["slider"]
    tab.close()
