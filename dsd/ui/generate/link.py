"""Links that carry settings: written from the form, and read when a link opens a page.

A link never carries the image. Its values are untrusted and pass the same checks as all other input. A link
with one invalid value changes nothing.
"""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

import gradio as gr

from dsd.generate.drawing import Options
from dsd.ui.generate.handlers import whole
from dsd.ui.generate.layout import MAX_COUNT
from dsd.ui.generate.restoring import fields
from dsd.ui.loaded import Loaded
from dsd.ui.messages import explained, notice, problem

SETTINGS = (  # in the order of the form
    "count", "steps", "image_guidance", "text_guidance", "guidance",
    "seed", "width", "height", "fit", "quality",
)  # fmt: skip
WHOLE, SHARE, WORD = r"-?\d{1,10}", r"-?\d{1,4}(\.\d{1,6})?", r"[a-z]{1,10}"
FORMS = dict.fromkeys(SETTINGS, WHOLE)
FORMS |= dict.fromkeys(("image_guidance", "text_guidance", "guidance"), SHARE)
FORMS |= dict.fromkeys(("fit", "quality"), WORD)
LONGEST = 4000  # characters: gradio repeats the query with every event, and many servers refuse 8 kB
SHOWN = 40  # characters of an invalid value in a message
SPACE = "SPACE_ID"  # environment variable with the Space's name, "owner/name"
NO_PROMPT = "-"  # placeholder for a prompt that is still to be written
SILENT = {"prompt": ("prompt",), "seed": ("seed", "new seed")}  # left unchanged where a link lacks the name
BROUGHT = "This link brought its settings, but links never carry an image: add yours, then click Create."


class Linking:
    """Event handlers for one loaded model."""

    def __init__(self, loaded: Loaded) -> None:
        self.loaded = loaded

    def make(self, prompt: str, *values: Any) -> tuple[gr.Textbox, str]:
        """Return (box with the link, remark) for the form's prompt and settings and the page's address."""
        *settings, address = values
        try:
            link = f"{base(address)}?{query(prompt, settings, self.loaded)}"
        except Exception as error:  # the page must always get an answer
            return gr.Textbox("", visible=False), problem(explained(error))
        return gr.Textbox(link, visible=True), ""

    def read(self, request: gr.Request) -> tuple[Any, ...]:
        """Return (prompt, *settings, new seed, remark) from the page's address; missing values are skips.

        `request.query_params` is the query of the page itself, which gradio's client sends with every event.
        On a Space, that page is a frame. It receives the query with which the surrounding page was opened,
        and names that Spaces adds (`__theme`). Unknown names are ignored.
        """
        nothing = [gr.skip()] * (len(SETTINGS) + 2)
        params = {name: text for name, text in dict(request.query_params).items() if name in known()}
        if not params:
            return *nothing, gr.skip()
        try:
            options = asked(params, self.loaded)
            brought = options.count, *fields(options, self.loaded)[1:]
        except Exception as error:  # an untrusted link can cause any error
            line = f"The settings in this link were not used. {explained(error)}"
            return *nothing, gr.HTML(problem(line), visible=True)
        values = {"prompt": options.prompt, **dict(zip(SETTINGS, brought, strict=True)), "new seed": False}
        for name in SILENT.keys() - {name for name, text in params.items() if text.strip()}:
            values |= dict.fromkeys(SILENT[name], gr.skip())
        return *values.values(), gr.HTML(notice(BROUGHT), visible=True)


def base(address: str) -> str:
    """Return the page to link to: the page's own address or, on a Space, the page that surrounds it.

    On the surrounding page, visitors are logged in and have their GPU quota. The frame cannot read that
    page's address.
    """
    space = os.environ.get(SPACE)
    return f"https://huggingface.co/spaces/{space}" if space else address


def known() -> tuple[str, ...]:
    """Return the names that a link can carry."""
    return ("prompt", *SETTINGS)


def query(prompt: str, settings: Sequence[Any], loaded: Loaded) -> str:
    """Return prompt and settings as a link's query; raise ValueError for values that reading would refuse."""
    params = {name: whole(value) for name, value in zip(SETTINGS, settings, strict=True) if value is not None}
    params = {
        name: str(round(value, 3) if isinstance(value, float) else value) for name, value in params.items()
    }
    prompt = (prompt or "").strip()
    options = asked(params | {"prompt": prompt}, loaded)
    fields(options, loaded)
    text = urlencode({"prompt": prompt} | params)
    if len(text) > LONGEST:
        raise ValueError(f"a prompt of {len(prompt):,} characters is too long for a link: make it shorter")
    return text


def asked(params: Mapping[str, str], loaded: Loaded) -> Options:
    """Return a link's parameters as checked options; missing ones are as on a new page."""
    values = {name: _value(name, text) for name, text in params.items() if name in SETTINGS}
    if values.get("count", 1) > MAX_COUNT:
        raise ValueError(f"the number of images must be from 1 to {MAX_COUNT}, got {values['count']}")
    side = loaded.pipe.frame_size
    prompt = params.get("prompt", "").strip() or NO_PROMPT
    return Options(**{"width": side, "height": side, "prompt": prompt} | values)


def _value(name: str, text: str) -> int | float | str:
    form = FORMS[name]
    if not re.fullmatch(form, text, re.ASCII):
        kind = {WHOLE: "a whole number", SHARE: "a number", WORD: "a word"}[form]
        short = text if len(text) <= SHOWN else f"{text[:SHOWN]} ..."
        raise ValueError(f'{name.replace("_", " ")} must be {kind}, got "{short}"')
    return {WHOLE: int, SHARE: float, WORD: str}[form](text)
