"""A link that carries the settings: what goes in comes out, and nothing else gets through."""

import random
from urllib.parse import parse_qsl, urlsplit

import gradio as gr
import pytest

from dsd.ui.generate.link import LONGEST, SETTINGS, SPACE, Linking
from dsd.ui.loaded import Loaded
from tests import tiny
from tests.markup import Reading

PAGE = "https://example.org/draw/"
FORM = (2, 14, 1.5, 1.0, None, 7, 32, 48, "pad", "balanced")  # as SETTINGS
SKIP = gr.skip()


@pytest.fixture(scope="module")
def linking() -> Linking:
    return Linking(Loaded(pipe=tiny.pipeline(guidance_embeds=False), name="tiny"))


def read(linking: Linking, **params: str) -> tuple:
    """What an address with that query brings."""
    return linking.read(gr.Request(query_params=params))


def follow(linking: Linking, link: str) -> tuple:
    return read(linking, **dict(parse_qsl(urlsplit(link).query, keep_blank_values=True)))


def made(linking: Linking, prompt: str = "a red hat", form: tuple = FORM) -> str:
    box, remark = linking.make(prompt, *form, PAGE)
    assert box.visible and remark == ""
    return box.value


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
def test_what_the_form_says_comes_back(linking, prompt):
    link = made(linking, prompt)
    assert link.startswith(f"{PAGE}?") and link.isascii() and "<" not in link and "\n" not in link
    back = follow(linking, link)
    assert back[:4] == (prompt, 2, 14, 1.5) and back[5:12] == (SKIP, 7, 32, 48, "pad", "balanced", False)
    assert "never carry an image" in back[-1].value and back[-1].visible


def test_whatever_the_page_offers_comes_back(linking):
    rng = random.Random(0)
    for _ in range(100):
        form = (
            rng.randint(1, 8), rng.randint(1, 100), rng.randint(0, 100) / 10, rng.randint(0, 100) / 10, None,
            rng.choice([None, rng.randrange(10**6)]), rng.randrange(32, 80, 16), rng.randrange(32, 80, 16),
            rng.choice(["crop", "pad"]), rng.choice(["draft", "balanced", "best"]),
        )  # fmt: skip
        values = dict(zip(SETTINGS, follow(linking, made(linking, form=form))[1:-2], strict=True))
        assert {name: values[name] for name in SETTINGS if values[name] != SKIP} == {
            name: value for name, value in zip(SETTINGS, form, strict=True) if value is not None
        }


def test_sliders_may_send_whole_numbers_as_floats(linking):
    link = made(linking, form=(2.0, 14.0, 2.0, 1.2000000000000002, None, 7.0, 32.0, 48.0, "pad", "best"))
    assert "count=2&steps=14&image_guidance=2&text_guidance=1.2&seed=7&width=32" in link


def test_a_form_without_prompt_and_seed_leaves_those_of_the_page(linking):
    back = follow(linking, made(linking, "", (*FORM[:5], None, *FORM[6:])))
    assert back[0] == SKIP and back[6] == SKIP and back[-2] == SKIP and back[2] == 14


def test_a_link_may_name_one_thing_only(linking):
    back = read(linking, quality="draft")
    assert back[10] == "draft" and back[2] == 6 and (back[7], back[8]) == (32, 32) and back[0] == SKIP
    assert read(linking, prompt="-")[0] == "-"


def test_embedded_guidance_travels_where_the_model_has_it(linking):
    distilled = Linking(Loaded(pipe=tiny.pipeline(guidance_embeds=True), name="tiny"))
    link = made(distilled, form=(*FORM[:4], 4.2, *FORM[5:]))
    assert follow(distilled, link)[5] == 4.2
    assert follow(linking, link)[5] == SKIP


@pytest.mark.parametrize(
    "params", [{}, {"__theme": "dark", "utm_source": "x", "logs": "build", "image": "/etc/passwd"}]
)
def test_a_plain_address_changes_nothing(linking, params):
    assert read(linking, **params) == (*[SKIP] * 12, SKIP)


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"steps": "101"}, "steps 101; the page offers 1 to 100"),
        ({"steps": "many"}, 'Steps must be a whole number, got "many"'),
        ({"steps": ""}, "Steps must be a whole number"),
        ({"steps": "1_000"}, "whole number"),
        ({"steps": "٣"}, "whole number"),
        ({"count": "0"}, "Count must be a whole number from 1"),
        ({"count": "9"}, "from 1 to 8, got 9"),
        ({"seed": "-1"}, "Seed must be a whole number from 0"),
        ({"seed": "9" * 5000}, "9 ..."),
        ({"width": "512"}, "Width must be from 32 to 64 with this model, got 512"),
        ({"height": "33"}, "multiple of 16"),
        ({"image_guidance": "nan"}, "Image guidance must be a number"),
        ({"text_guidance": "1e9"}, "Text guidance must be a number"),
        ({"image_guidance": "11"}, "image guidance 11"),
        ({"fit": "stretch"}, "stretch"),
        ({"quality": "own"}, "Quality must be one of draft, balanced, best"),
        ({"quality": "<script>alert(1)</script>"}, "<script>"),
        ({"prompt": "x" * 20_001}, "at most 20,000"),
    ],
)  # fmt: skip
def test_one_bad_value_is_named_and_nothing_is_taken_over(linking, params, sentence):
    *values, remark = read(linking, **{"prompt": "a hat", "seed": "7"} | params)
    assert values == [SKIP] * 12 and remark.visible
    said = Reading(remark.value)
    assert not said.strange and sentence in said.text and len(said.text) < 300
    assert said.text.startswith("The settings in this link were not used. ") and said.text.endswith(".")


def test_a_form_that_cannot_be_sent_says_why(linking):
    for prompt, form, sentence in (
        ("🎩" * 400, FORM, "too long for a link"),
        ("half \ud83d", FORM, "half a character"),
        ("a hat", (*FORM[:5], -3, *FORM[6:]), "Seed must be"),
    ):
        box, remark = linking.make(prompt, *form, PAGE)
        assert not box.visible and box.value == "" and sentence in remark
    assert len(made(linking, "x" * 3000)) < LONGEST + len(PAGE)


def test_on_a_space_the_link_leads_to_the_page_around_the_frame(linking, monkeypatch):
    monkeypatch.setenv(SPACE, "somebody/dsd")
    assert made(linking).startswith("https://huggingface.co/spaces/somebody/dsd?prompt=a+red+hat&count=2&")
