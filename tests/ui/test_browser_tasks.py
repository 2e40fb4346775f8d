"""The choice of a task on the Create tab, in a real browser: suggestions change, and what was typed stays."""

import json
from dataclasses import replace

import pytest

from dsd.generate import provenance
from dsd.model.presets import CHANGE, LIGHT, SOMEWHERE
from dsd.ui.models import Loaded
from tests import browsing, tiny
from tests.browsing import done, download, image

TASKS = (
    replace(SOMEWHERE, phrases={"Places": ("in the snow", "on the beach")}),
    replace(LIGHT, phrases={"Light": ("at sunset", "at night")}, examples=("at sunset",)),
    replace(CHANGE, phrases={"Put it": ("on the left", "on the right")}),
)
ROWS = [
    {"image": "0.png", "prompt": "in the snow"},
    {"image": "1.png", "prompt": "on the left", "seed": 3, "task": "edit"},
]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    examples = tmp_path_factory.mktemp("examples")
    for index in range(2):
        image(index).save(examples / f"{index}.png")
    (examples / "examples.json").write_text(json.dumps(ROWS))
    loaded = Loaded(pipe=tiny.pipeline(guidance_embeds=False), name="tiny", tasks=TASKS)
    with browsing.serving(loaded, examples) as url:
        yield url


def chips(tab) -> list[str]:
    return tab.locator("#chips .dsd-chip").all_inner_texts()


def choose(tab, title: str, chip: str) -> None:
    tab.locator("#task").get_by_label(title).check()
    tab.locator("#chips").get_by_role("button", name=chip).wait_for()


def test_a_task_changes_chips_and_examples_and_keeps_what_was_typed(open_page, tmp_path):
    tab = open_page()
    prompt = tab.locator("#prompt textarea")
    prompt.fill("The same place at night")
    assert chips(tab) == ["in the snow", "on the beach"]
    choose(tab, "Another light", "at night")
    assert chips(tab) == ["at sunset", "at night"] and prompt.input_value() == "The same place at night"
    tab.locator("#chips [aria-pressed=true]").get_by_text("at night").wait_for()
    tab.get_by_label("In which light?").and_(tab.get_by_placeholder("at night")).wait_for()
    choose(tab, "Change something", "on the left")
    assert prompt.input_value() == "The same place at night"
    shown = tab.locator("#examples img")
    assert shown.count() == 1 and "1.png" in shown.get_attribute("src")
    tab.locator("#examples button").click()
    done(tab)
    assert prompt.input_value() == "on the left"
    settings = provenance.read_settings(download(tab, tmp_path / "made.png"))
    assert (settings["prompt"], settings["seed"]) == ("on the left", 3) and "task" not in settings
    choose(tab, "Another light", "at night")
    assert "0.png" in shown.get_attribute("src"), "without examples of its own it takes the characters"
    tab.locator("#upload input[type=file]").set_input_files(str(tmp_path / "made.png"))
    tab.get_by_text("Its settings and its reference image have been restored").wait_for()
    assert tab.get_by_label("Another light").is_checked() and prompt.input_value() == "on the left"


def test_a_link_brings_the_task_back(open_page):
    tab = open_page("?prompt=at+sunset&task=relight")
    tab.locator("#chips [aria-pressed=true]").get_by_text("at sunset").wait_for()
    assert tab.get_by_label("Another light").is_checked()
    tab.get_by_role("button", name="More settings").click()
    tab.get_by_role("button", name="Copy link").click()
    box = tab.locator("#link").get_by_role("textbox")
    box.wait_for()
    assert box.input_value().endswith("&task=relight")
