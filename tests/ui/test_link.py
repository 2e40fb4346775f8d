"""A link that carries the settings: what goes in comes out, and nothing else gets through."""

import random
from urllib.parse import parse_qsl, urlsplit

import pytest

from dsd.doctor.space import SPACE
from dsd.ui.generate.form import FIELDS, LONGEST_LINK, Form
from dsd.ui.models import Loaded
from tests import tiny
from tests.forms import form
from tests.markup import Reading

PAGE = "https://example.org/draw/"
FILLED = {"count": 2, "steps": 14, "height": 48, "fit": "pad", "quality": "balanced"}


@pytest.fixture(scope="module")
def page(loaded) -> Form:
    return Form(loaded)


def follow(page: Form, link: str) -> dict:
    """What a link brings."""
    return page.read_link(dict(parse_qsl(urlsplit(link).query, keep_blank_values=True)))


def values(**changes) -> dict:
    return form(address=PAGE, **{"prompt": "a red hat", **FILLED, **changes})


def made(page: Form, **changes) -> str:
    shown = page.make_link(values(**changes))
    assert shown["link"].visible and shown["link_remark"] == ""
    return shown["link"].value


@pytest.mark.parametrize(
    "prompt",
    [
        "a red hat",
        "帽子 🎩 שלום",
        "50% & more = a#b?c+d",
        "<img src=x onerror=alert(1)>",
        'two\nlines "quoted"',
    ],
)
def test_what_the_form_says_comes_back(page, prompt):
    link = made(page, prompt=prompt)
    assert link.startswith(f"{PAGE}?") and link.isascii() and "<" not in link and "\n" not in link
    back = follow(page, link)
    remark = back.pop("link_notice")
    assert "never carry an image" in remark.value and remark.visible
    expected = {name: value for name, value in values(prompt=prompt).items() if name in FIELDS}
    del expected["guidance"]
    assert back == expected | {"aspect": None}


def test_whatever_the_page_offers_comes_back(page):
    rng = random.Random(0)
    for _ in range(100):
        fields = {
            "count": rng.randint(1, 8), "steps": rng.randint(1, 100), "prompt": "a red hat",
            "image_guidance": rng.randint(0, 100) / 10, "text_guidance": rng.randint(0, 100) / 10,
            "seed": rng.choice([None, rng.randrange(10**6)]), "width": rng.randrange(32, 80, 16),
            "height": rng.randrange(32, 80, 16), "fit": rng.choice(["crop", "pad"]),
            "quality": rng.choice(["draft", "balanced", "best"]),
        }  # fmt: skip
        back = follow(page, made(page, **fields))
        assert {name: value for name, value in back.items() if name in FIELDS} == {
            name: value for name, value in fields.items() if value is not None
        }


def test_sliders_may_send_whole_numbers_as_floats(page):
    floats = {"count": 2.0, "steps": 14.0, "image_guidance": 2.0, "text_guidance": 1.2000000000000002}
    link = made(page, **floats, seed=7.0, width=32.0)
    assert "count=2&steps=14&image_guidance=2&text_guidance=1.2&seed=7&width=32" in link


def test_a_form_without_prompt_and_seed_leaves_those_of_the_page(page):
    back = follow(page, made(page, prompt="", seed=None))
    assert not {"prompt", "seed"} & set(back) and back["steps"] == 14


def test_a_link_may_name_one_thing_only(page):
    back = page.read_link({"quality": "draft"})
    assert (back["quality"], back["steps"], back["width"], back["height"]) == ("draft", 6, 32, 32)
    assert "prompt" not in back and page.read_link({"prompt": "-"})["prompt"] == "-"


def test_embedded_guidance_travels_where_the_model_has_it(page):
    distilled = Form(Loaded(pipe=tiny.pipeline(guidance_embeds=True), name="tiny"))
    link = made(distilled, guidance=4.2)
    assert follow(distilled, link)["guidance"] == 4.2
    assert "guidance" not in follow(page, link)


def test_the_seed_that_means_a_new_one_each_time_may_stand_in_a_link(page):
    back = page.read_link({"seed": "-1", "steps": "14"})
    assert (back["seed"], back["steps"]) == (-1, 14) and "never carry an image" in back["link_notice"].value
    assert page.read_link({"seed": "-1"})["seed"] == -1


@pytest.mark.parametrize(
    "params", [{}, {"__theme": "dark", "utm_source": "x", "logs": "build", "image": "/etc/passwd"}]
)
def test_a_plain_address_changes_nothing(page, params):
    assert page.read_link(params) == {}


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"steps": "101"}, "Steps must be a whole number from 1 to 100, got 101"),
        ({"steps": "many"}, 'Steps must be a whole number, got "many"'),
        ({"steps": ""}, "Steps must be a whole number"),
        ({"steps": "1_000"}, "whole number"),
        ({"steps": "٣"}, "whole number"),
        ({"count": "0"}, "Count must be a whole number from 1"),
        ({"count": "9"}, "from 1 to 8, got 9"),
        ({"seed": "-2"}, "Seed must be a whole number from 0"),
        ({"seed": "9" * 5000}, "9 ..."),
        ({"width": "512"}, "Width must be a whole number from 32 to 64, got 512"),
        ({"height": "33"}, "multiple of 16"),
        ({"image_guidance": "nan"}, "Image guidance must be a number"),
        ({"text_guidance": "1e9"}, "Text guidance must be a number"),
        ({"image_guidance": "11"}, "Image guidance must be a number from 0 to 10, got 11"),
        ({"fit": "stretch"}, "stretch"),
        ({"quality": "own"}, "Quality must be one of draft, balanced, best"),
        ({"quality": "<script>alert(1)</script>"}, "<script>"),
        ({"prompt": "x" * 20_001}, "at most 20,000"),
    ],
)  # fmt: skip
def test_one_bad_value_is_named_and_nothing_is_taken_over(page, params, sentence):
    back = page.read_link({"prompt": "a hat", "seed": "7"} | params)
    assert list(back) == ["link_notice"] and back["link_notice"].visible
    remark = Reading(back["link_notice"].value)
    assert not remark.strange and sentence in remark.text and len(remark.text) < 300
    assert remark.text.startswith("The settings in this link were not used. ") and remark.text.endswith(".")


def test_a_form_that_cannot_be_sent_says_why(page):
    for changes, sentence in (
        ({"prompt": "🎩" * 400}, "too long for a link"),
        ({"prompt": "half \ud83d"}, "half a character"),
        ({"seed": -3}, "Seed must be"),
    ):
        shown = page.make_link(values(**changes))
        assert not shown["link"].visible and shown["link"].value == "" and sentence in shown["link_remark"]
    assert len(made(page, prompt="x" * 3000)) < LONGEST_LINK + len(PAGE)


def test_on_a_space_the_link_leads_to_the_page_around_the_frame(page, monkeypatch):
    monkeypatch.setenv(SPACE, "somebody/dsd")
    assert made(page).startswith("https://huggingface.co/spaces/somebody/dsd?prompt=a+red+hat&count=2&")
