"""The page for everybody: by keyboard alone, with names to be read out, in colors that can be read."""

import re
from typing import NamedTuple

import pytest

from dsd.generate import provenance
from dsd.grids.recipes import CRITTERS
from dsd.ui.models import Loaded
from tests import browsing, tiny, wheel_page

THEMES = ("light", "dark")
CONTROLS = "button|checkbox|combobox|link|radio|slider|spinbutton|switch|tab|textbox"
IMAGE = "button"  # gradio puts an image that is only shown into a button without a name, which does nothing
DRAWN = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
STILL = "*,*::before,*::after{transition:none!important;animation:none!important}"  # colors fade over
CONTRAST, LARGE = 4.5, 3.0  # the least that WCAG 2.2 AA allows (1.4.3), of text and of large text
# Chromium itself lays the colors of an element's ancestors over one another, whatever notation they are in.
FAINT = """([normal, large]) => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", {willReadFrequently: true});
  const lay = (color) => { canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1); };
  const luminance = () => [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3)
    .map((c) => c / 255).map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ratio = (element, color) => {
    const above = [];
    for (let e = element; e; e = e.parentElement) above.unshift(getComputedStyle(e).backgroundColor);
    lay("white"); above.forEach(lay);
    const below = luminance(); lay(color);
    const [dark, light] = [below, luminance()].sort((a, b) => a - b);
    return (light + 0.05) / (dark + 0.05);
  };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const text = [...element.childNodes].filter((n) => n.nodeType === 3).map((n) => n.data).join("").trim();
    const empty = element.matches(":placeholder-shown");
    const said = text || (empty ? element.placeholder : element.value) || "";
    const away = element.closest(":disabled, [aria-disabled=true], [aria-hidden=true], svg, script, style");
    const words = typeof said === "string" && /[\\p{L}\\p{N}]/u.test(said);  // arrows may lie on an image
    if (!words || away || element.matches("[type=range], [type=radio]")
      || element.matches("[type=checkbox], [type=file]")
      || !element.checkVisibility({opacityProperty: true, visibilityProperty: true})
      || element.getBoundingClientRect().width < 2) continue;
    const style = getComputedStyle(element), size = parseFloat(style.fontSize);
    const color = empty ? getComputedStyle(element, "::placeholder").color : style.color;
    const need = size >= 24 || (size >= 18.66 && style.fontWeight >= 700) ? large : normal;
    const has = ratio(element, color);
    const who = `${element.tagName}.${element.className}`;
    if (has < need) found.push(`${has.toFixed(2)} ${who}: ${said.slice(0, 40)}`);
  }
  return [...new Set(found)];
}"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    examples = tmp_path_factory.mktemp("examples")
    tiny.image().save(examples / "0.png")
    (examples / "examples.json").write_text('[{"image": "0.png", "prompt": "in the snow"}]')
    loaded = Loaded(
        pipe=tiny.pipeline(guidance_embeds=False), name="tiny", description="Random weights.",
        license="Apache-2.0", missing="It lacks something", warn=lambda image: "Unlike its world.",
        describer=wheel_page.judge(), recipe=CRITTERS,
    )  # fmt: skip
    run = wheel_page.judged_run(tmp_path_factory.mktemp("run") / "run")
    with browsing.serving(loaded, examples, wheel_page.wheel(run=run)) as url:
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
    tab_to(tab, "#upload button")
    with tab.expect_file_chooser() as waiting:
        tab.keyboard.press(" ")
    waiting.value.set_files(path)


def test_a_image_is_uploaded_drawn_and_saved_by_keyboard_alone(open_page, tmp_path):
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
    tab.get_by_role("tab", name="Grids", selected=True).wait_for()
    tab_to(tab, "button.label-wrap")
    tab.keyboard.press("Enter")
    tab.locator(".dsd-known").first.wait_for()


# ------------------------------------------------------------ every tab, with something on it


def generate(tab) -> None:
    tab.locator("#examples button").first.click()
    tab.locator("#about").get_by_text("Seed").wait_for()
    tab.locator("#history-strip button").first.click()
    tab.locator("#about img").wait_for()


def grids(tab) -> None:
    browsing.begin_grid(tab)
    tab.locator("#grid-status").get_by_text("Done, seed").wait_for()
    tab.locator("#grid-facts .dsd-pair").nth(5).wait_for()


def curate(tab) -> None:
    tab.locator("#pair-5 img").first.wait_for()
    tab.locator("#pair-0").get_by_role("button", name="Accept").click()
    tab.locator("#curate-agreement").get_by_text("of 1").wait_for()


VISITS = {"Create": generate, "Grids": grids, "Curate": curate}


def unfold(tab) -> None:
    """Open all that is folded away, in the page at once: what is open leaves the list."""
    tab.evaluate("""() => {
      const folded = document.querySelectorAll("button.label-wrap:not(.open)");
      folded.forEach((e) => e.checkVisibility() && e.click());
      document.querySelectorAll("details").forEach((e) => { e.open = true; });
    }""")
    tab.wait_for_timeout(300)  # what was folded is only drawn now


class Seen(NamedTuple):
    """What there is to say of a tab."""

    controls: list[str]  # of Chromium's accessibility tree, a line each
    faint: dict[str, list[str]]  # theme -> texts with too little contrast
    width: int  # of the page on a phone


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
            visit(tab)
            unfold(tab)
            found[name] = look(tab)
    return found


def look(tab) -> Seen:
    said = tab.locator("body").aria_snapshot()
    faint = {}
    for theme in THEMES:  # as gradio does it, which follows the system's choice when a page is opened
        tab.evaluate("dark => document.body.classList.toggle('dark', dark)", theme == "dark")
        faint[theme] = tab.evaluate(FAINT, [CONTRAST, LARGE])
    tab.evaluate("document.body.classList.remove('dark')")
    tab.set_viewport_size(browsing.PHONE)
    tab.evaluate(DRAWN)  # some widths follow by script
    width = tab.evaluate("document.documentElement.scrollWidth")
    return Seen(re.findall(rf"- ((?:{CONTROLS})\b.*)", said), faint, width)


@pytest.mark.parametrize("name", VISITS)
def test_every_control_has_a_name(seen, name):
    nameless = [line for line in seen[name].controls if not re.match(r'\w+ ["/]', line)]
    assert len(seen[name].controls) > 8 and nameless in ([], [IMAGE])


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("name", VISITS)
def test_every_text_stands_out_from_its_background(seen, name, theme):
    assert seen[name].faint[theme] == []


@pytest.mark.parametrize("name", VISITS)
def test_no_tab_is_wider_than_a_phone(seen, name):
    assert seen[name].width <= browsing.PHONE["width"]


def test_faint_text_would_be_found(browser):
    tab = browser.new_page()
    tab.set_content("<p style='color: #0007'>barely</p><p style='color: #767676'>just</p>")
    assert tab.evaluate(FAINT, [CONTRAST, LARGE]) == ["3.54 P.: barely"]
    tab.close()
