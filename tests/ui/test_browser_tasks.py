"""The choice of a task on the Create tab, in a real browser: suggestions change, and what was typed stays."""

import json
import re
from dataclasses import replace

import pytest

from dsd.generate import provenance
from dsd.model.presets import CHANGE, LIGHT, SOMEWHERE
from dsd.ui.models import Loaded
from tests import browsing, tiny
from tests.browsing import done, download, expect, image, unfold_settings

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


def offers(tab, *phrases: str) -> None:
    expect(tab.locator("#chips .dsd-chip")).to_have_text(phrases)


def choose(tab, title: str, chip: str) -> None:
    tab.locator("#task").get_by_label(title).check()
    tab.locator("#chips").get_by_role("button", name=chip).wait_for()


def test_a_task_changes_chips_and_examples_and_keeps_what_was_typed(open_page, tmp_path):
    tab = open_page()
    prompt = tab.locator("#prompt textarea")
    prompt.fill("The same place at night")
    offers(tab, "in the snow", "on the beach")
    choose(tab, "Another light", "at night")
    offers(tab, "at sunset", "at night")
    expect(prompt).to_have_value("The same place at night")
    tab.locator("#chips [aria-pressed=true]").get_by_text("at night").wait_for()
    tab.get_by_label("In which light?").and_(tab.get_by_placeholder("at night")).wait_for()
    choose(tab, "Change something", "on the left")
    expect(prompt).to_have_value("The same place at night")
    shown = tab.locator("#examples img")
    expect(shown).to_have_count(1)
    expect(shown).to_have_attribute("src", re.compile("1.png"))
    tab.locator("#examples button").click()
    done(tab)
    expect(prompt).to_have_value("on the left")
    settings = provenance.read_settings(download(tab, tmp_path / "made.png"))
    assert (settings["prompt"], settings["seed"]) == ("on the left", 3) and "task" not in settings
    choose(tab, "Another light", "at night")
    expect(shown).to_have_attribute("src", re.compile("0.png"))  # without examples of its own: the characters
    tab.locator("#upload input[type=file]").set_input_files(str(tmp_path / "made.png"))
    tab.get_by_text("Its settings and its reference image have been restored").wait_for()
    expect(tab.get_by_label("Another light")).to_be_checked()
    expect(prompt).to_have_value("on the left")


def test_a_link_brings_the_task_back(open_page):
    tab = open_page("?prompt=at+sunset&task=relight")
    tab.locator("#chips [aria-pressed=true]").get_by_text("at sunset").wait_for()
    expect(tab.get_by_label("Another light")).to_be_checked()
    unfold_settings(tab)
    tab.get_by_role("button", name="Copy link").click()
    expect(tab.locator("#link").get_by_role("textbox")).to_have_value(re.compile("&task=relight$"))
