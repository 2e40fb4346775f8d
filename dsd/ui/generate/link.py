"""A link that carries the settings: written from the form, read when a page is opened by it.

It never carries the picture. What it says comes from a stranger, so it passes the same checks as everything
else; a link with one bad value changes nothing.
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
SHOWN = 40  # characters of a bad value
SPACE = "SPACE_ID"  # the variable by which a Space knows its name, "owner/name"
NO_PROMPT = "-"  # stands for a prompt that is still to be written
SILENT = {"prompt": ("prompt",), "seed": ("seed", "new seed")}  # what stays as it is where a link has none
BROUGHT = "This link brought its settings, but links never carry a picture: add yours, then click Create."


class Linking:
    """The handlers of one loaded model."""

    def __init__(self, loaded: Loaded) -> None:
        self.loaded = loaded

    def make(self, prompt: str, *values: Any) -> tuple[gr.Textbox, str]:
        """(box with the link, remark) for a form: its prompt, its settings, and the address of the page."""
        *settings, address = values
        try:
            link = f"{base(address)}?{query(prompt, settings, self.loaded)}"
        except Exception as error:  # the page must never be left waiting
            return gr.Textbox("", visible=False), problem(explained(error))
        return gr.Textbox(link, visible=True), ""

    def read(self, request: gr.Request) -> tuple[Any, ...]:
        """What the page's address brings: (prompt, *settings, new seed, remark), skips where it is silent.

        `request.query_params` is the query of the page itself, which gradio's client sends along with every
        event. On a Space that page is a frame, and Spaces gives it the query of the page around it when that
        is opened, beside names of its own (__theme): names that are not ours are left alone.
        """
        nothing = [gr.skip()] * (len(SETTINGS) + 2)
        params = {name: text for name, text in dict(request.query_params).items() if name in known()}
        if not params:
            return *nothing, gr.skip()
        try:
            options = asked(params, self.loaded)
            brought = options.count, *fields(options, self.loaded)[1:]
        except Exception as error:  # a stranger's link: anything may be wrong with it
            line = f"The settings in this link were not used. {explained(error)}"
            return *nothing, gr.HTML(problem(line), visible=True)
        values = {"prompt": options.prompt, **dict(zip(SETTINGS, brought, strict=True)), "new seed": False}
        for name in SILENT.keys() - {name for name, text in params.items() if text.strip()}:
            values |= dict.fromkeys(SILENT[name], gr.skip())
        return *values.values(), gr.HTML(notice(BROUGHT), visible=True)


def base(address: str) -> str:
    """The page to link to: the one that the visitor sees, or the Space, whose own page is around this one.

    There a visitor is known, and with them their share of the GPU. The frame cannot read that page's address.
    """
    space = os.environ.get(SPACE)
    return f"https://huggingface.co/spaces/{space}" if space else address


def known() -> tuple[str, ...]:
    """What a link can say."""
    return ("prompt", *SETTINGS)


def query(prompt: str, settings: Sequence[Any], loaded: Loaded) -> str:
    """Prompt and settings as the query of a link; ValueError for what would be refused when it is read."""
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
    """A link's words as options, checked; what it does not name is as on a fresh page."""
    values = {name: _value(name, text) for name, text in params.items() if name in SETTINGS}
    if values.get("count", 1) > MAX_COUNT:
        raise ValueError(f"the number of pictures must be from 1 to {MAX_COUNT}, got {values['count']}")
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
