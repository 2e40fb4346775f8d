"""A thousand prompts that nobody should write: each is drawn from, kept and shown as it is, or refused."""

import random
import unicodedata
from collections.abc import Iterator

import gradio as gr
import pytest
from PIL import Image

from dsd.files import intake
from dsd.generate import drawing, provenance
from dsd.grids.grids import new_grid
from dsd.grids.recipes import CRITTERS, IDENTITY
from dsd.model import known_words
from dsd.ui import messages
from dsd.ui.generate.handlers import Generating, finish
from dsd.ui.grids import facts as grid_facts
from dsd.ui.grids import handlers as drawing_grids
from dsd.ui.models import Loaded
from tests import tiny
from tests.forms import form
from tests.markup import Reading

COUNT = 1000
HALVES = range(0xD800, 0xE000)
MARKUP = (
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "</div></body>", "<!--", "<![CDATA[",
    "&lt;b&gt;", "&#x3c;script&#x3e;", "javascript:alert(1)", '" onmouseover="alert(1)',
    "' onfocus=alert(1) '", "<svg/onload=alert(1)>", "{{7*7}}", "${7*7}", "<iframe srcdoc='<b>1</b>'>",
    "\0<script>",
    "<\0b>", "<style>*{display:none}</style>", "<|endoftext|>", "</s>", "<extra_id_0>", "<pad>", "%00%0a",
    "../../etc/passwd",
)  # fmt: skip
RIGHT_TO_LEFT = (
    "قطة حمراء على الشاطئ",
    "חתול אדום על החוף",
    "\u202eevil\u202c",
    "\u2067a\u2066b\u2069\u2069",
    "\u200f",
)
CONTROLS = [chr(code) for code in (*range(32), *range(127, 160), 0x2028, 0x2029, 0xFEFF, 0xFFFE, 0xFFFF)]
JOINED = "👩‍👩‍👧‍👦", "🏳️‍🌈", "e" + "\u0301" * 60, "ﷺ" * 20, "Z̷̨͎a̵l̷g̴o̸", "🇪🇺", "\U0010ffff", "\ue000"


def prompts() -> Iterator[str]:
    """A thousand, from one seed; some have half characters, some are far too long."""
    rng = random.Random(0)
    kinds = (_any, _any, _markup, _controls, _pieces, _halves)
    for number in range(COUNT - 12):
        yield kinds[number % len(kinds)](rng)
    for unit in ("a", "a ", "字", "\0", "<b>", "👩‍👩‍👧‍👦"):
        yield (unit * 100_000)[:100_000]
        yield (unit * intake.MAX_PROMPT)[: intake.MAX_PROMPT - 1]


def _any(rng: random.Random) -> str:
    """All of Unicode, half characters apart."""
    codes = (rng.randrange(0x110000) for _ in range(rng.randint(1, 120)))
    return "".join(chr(code) for code in codes if code not in HALVES)


def _markup(rng: random.Random) -> str:
    return rng.choice(("", "a hat ")).join(rng.choices(MARKUP, k=rng.randint(1, 12)))


def _controls(rng: random.Random) -> str:
    return "".join(rng.choice(("red", *rng.choices(CONTROLS, k=3))) for _ in range(rng.randint(1, 60)))


def _pieces(rng: random.Random) -> str:
    return "".join(rng.choices((*RIGHT_TO_LEFT, *JOINED, "a red hat", " "), k=rng.randint(1, 30)))


def _halves(rng: random.Random) -> str:
    text = [chr(rng.choice(HALVES)), *"on the beach"]
    rng.shuffle(text)
    return "".join(text)


@pytest.fixture(scope="module")
def corpus() -> list[str]:
    return list(prompts())


@pytest.fixture(scope="module")
def accepted(corpus) -> list[str]:
    """Those that may be drawn from; the others are refused here, in a sentence."""
    good = []
    for prompt in corpus:
        try:
            good.append(drawing.Options(prompt=prompt).prompt.strip())
        except ValueError as error:
            assert str(error).startswith("the prompt") and len(str(error)) < 200 and str(error).isprintable()
    return good


@pytest.fixture(scope="module")
def work() -> Generating:
    return Generating(Loaded(pipe=tiny.pipeline(guidance_embeds=False), name="tiny"))


def is_ours(said: str) -> bool:
    return not Reading(said).strange


def test_the_corpus_has_a_thousand_of_every_kind(corpus, accepted):
    assert len(corpus) >= 1000 and 700 < len(accepted) < len(corpus) - 150
    assert {unicodedata.category(letter) for prompt in corpus for letter in prompt[:200]} >= {
        "Cc", "Cf", "Cs", "Co", "Cn", "Lo", "Mn", "So", "Zl",
    }  # fmt: skip
    assert all(any(mark in prompt for prompt in accepted) for mark in MARKUP)


def test_half_a_character_is_named(accepted):
    with pytest.raises(ValueError, match=r"half a character \(U\+D800, number 3\)"):
        intake.check_prompt("a \ud800 hat")
    assert intake.check_prompt("a \U0001f98a hat")


def test_what_is_accepted_comes_back_from_the_file_as_it_was(accepted, tmp_path, all_faults):
    frame = tiny.image()
    for prompt in accepted if all_faults else accepted[::5]:  # files take time, and the kinds alternate
        settings = {"prompt": prompt, "seed": 1}
        path = provenance.save(tmp_path / "a.png", frame, settings, frame)
        assert provenance.read_settings(path) == settings and provenance.read_reference(path) == frame


def test_what_is_said_about_a_prompt_is_text(work, accepted):
    """The longest quote on the page is the part of the prompt that the model never reads."""
    for prompt in accepted:
        cut = intake.prompt_notice(work.loaded.pipe, prompt)
        assert is_ours(finish(drawing.Options(prompt=prompt), cut)), prompt[:80]
        for said in (messages.problem, messages.notice, messages.status, messages.idle):
            assert is_ours(said(prompt)) and is_ours(messages.status(prompt, 0.5))


def test_the_form_of_grids_takes_it_or_says_why_not(work, accepted, corpus):
    drawn = 0
    for index, prompt in enumerate(corpus):
        recipe = (CRITTERS, IDENTITY)[index % 2]
        try:
            grid = drawing_grids.new_prompt(recipe, prompt, ["beach"] * 3 + [prompt[:20]], 7)
        except ValueError as error:
            assert is_ours(messages.problem(messages.explain(error))) and len(str(error)) < 1000
            continue
        drawn += 1
        unknown = known_words.notice(known_words.unknown_words(work.loaded.pipe, prompt))
        stamp = {
            "steps": 1,
            "guidance": 1.0,
            "generator": prompt,
            "margin": 0,
            "generator_hash": "0",
            "license": prompt,
        }
        told = grid_facts.facts(
            new_grid(grid, None, prompt, stamp), unknown=unknown, pairs=[], expected=6, unjudged=prompt
        )
        assert not [
            tag
            for tag, *_ in Reading(told).strange
            if tag not in ("h2", "table", "thead", "tbody", "tr", "th", "td", "blockquote")
        ]
    assert drawn > 100


def test_a_few_of_each_kind_are_drawn(work, accepted, tmp_path, monkeypatch):
    monkeypatch.setattr(gr, "Warning", lambda *_, **__: None)
    Image.new("RGB", (40, 40), "red").save(tmp_path / "a.png")
    values = [1, 1, 1.0, 1.0, None, 7, 32, 32, "crop"]
    for prompt in accepted[:: len(accepted) // 12] + [max(accepted, key=len)]:
        ((file,), _), *_ = list(work.endpoint(str(tmp_path / "a.png"), prompt, *values))[-1:]
        assert file.endswith("dsd-7.png")


def test_those_refused_are_refused_in_the_page_without_a_trace(work, corpus, accepted, tmp_path, monkeypatch):
    monkeypatch.setattr(gr, "Warning", lambda *_, **__: None)
    Image.new("RGB", (40, 40), "red").save(tmp_path / "a.png")
    good = set(accepted)
    for prompt in [prompt for prompt in corpus if prompt.strip() not in good]:
        *_, shown = work.draw(form(str(tmp_path / "a.png"), prompt=prompt))
        told = shown["unknown"].value
        assert 'role="alert"' in told and "he prompt" in told and "went wrong" not in told
