"""Events of the Generate tab; the layout is in `dsd.ui.generate.layout`, the work in `handlers`."""

import json
from pathlib import Path
from typing import Any

import gradio as gr

from dsd.model.sampling import QUALITIES
from dsd.ui import events
from dsd.ui.events import AT_ONCE, LANE, PRIVATE, QUIET, Parts
from dsd.ui.generate import layout
from dsd.ui.generate.enhancing import Enhancing
from dsd.ui.generate.form import FIELDS, RANGES, Form
from dsd.ui.generate.handlers import Generating
from dsd.ui.generate.history import History
from dsd.ui.models import Loaded

LATEST = {"trigger_mode": "always_last"}
RESTORED = ["image", *FIELDS, "new_seed", "restored", "note", "own_image"]
COSTS = ["count", "steps", "image_guidance", "text_guidance", "width", "height", "quality"]
ABOUT = (
    "Draw the subject of an image somewhere new. Returns PNG files, which carry their settings, and their "
    "seeds. Without a seed a new one is taken, without steps the quality's."
)
_MEET = "(position) => ({__type__: 'update', slider_position: position})"
_HERE = "(...form) => [...form.slice(0, -1), location.origin + location.pathname]"
_COPY = """async (link, remark) => {
  if (!link) return remark;  // what was wrong with the form
  try { await navigator.clipboard.writeText(link); } catch { return ""; }  // refused, or not a safe address
  return '<p class="dsd-quiet" role="status">The link is copied.</p>';
}"""


def build(loaded: Loaded, examples: Path) -> None:
    work, enhancing, parts = Generating(loaded), Enhancing(loaded), Parts()
    with gr.Row(equal_height=False, elem_classes="dsd-columns"):
        with gr.Column(scale=5, min_width=320):
            layout.reference(parts, loaded)
            layout.form(parts, loaded, work.form, enhancing)
        with gr.Column(scale=6, min_width=320):
            layout.results(parts)
            layout.history(parts)
    layout.examples(parts, examples)
    _wire_reference(parts, work)
    _wire_prompt(parts, work, enhancing)
    ends = _wire_runs(parts, work)
    _wire_cost(parts, work, ends)
    _wire_history(parts, History(work.form), ends)
    _wire_link(parts, work.form)
    _wire_endpoint(parts, work)


def _wire_reference(parts: Parts, work: Generating) -> None:
    names = ["image", "width", "height", "fit"]
    changes = [parts[name].change for name in names]
    gr.on(changes, **parts.call(work.see, names, ["seen", "remarks"]), **LATEST, **QUIET)
    parts["image"].upload(**parts.call(work.form.restore, ["image"], RESTORED), **QUIET)
    parts["image"].clear(lambda: gr.Group(visible=False), None, parts["restored"], **AT_ONCE)

    def use_itself(values: dict[str, Any]) -> dict[str, Any]:
        return {"image": values["own_image"], "restored": gr.Group(visible=False)}

    parts["use_itself"].click(**parts.call(use_itself, ["own_image"], ["image", "restored"]), **AT_ONCE)


def _wire_prompt(parts: Parts, work: Generating, enhancing: Enhancing) -> None:
    parts["prompt"].change(**parts.call(work.remark, ["prompt"], ["unknown"]), **LATEST, **AT_ONCE)
    suggestion = ["suggestion", "use_suggestion", "describe_remark"]
    describe = parts.call(enhancing.describe, ["image", "prompt"], suggestion)
    wait = {"show_progress": "minimal", "show_progress_on": parts["describe_remark"]}
    parts["describe"].click(**describe, **wait, **LANE, **PRIVATE)
    parts["use_suggestion"].click(lambda text: text, parts["suggestion"], parts["prompt"], **AT_ONCE)


def _wire_runs(parts: Parts, work: Generating) -> list[Any]:
    """Make Create and Enter draw, with Cancel enabled meanwhile; return the events that end a run."""
    draw = parts.call(work.draw, ["image", *FIELDS, "new_seed"], ["images", "redrawn", "status", "seed"])
    ends = events.connect_run(parts, [parts["create"].click, parts["prompt"].submit], draw)
    show = parts["show_redrawn"]
    show.change(lambda on: gr.Gallery(visible=on), show, parts["redrawn"], **AT_ONCE)
    # In the browser, at once; restored settings bring their own steps.
    own = json.dumps({name: quality.steps for name, quality in QUALITIES.items()})
    parts["quality"].input(None, parts["quality"], parts["steps"], js=f"(name) => ({own})[name]", **PRIVATE)
    return ends


def _wire_cost(parts: Parts, work: Generating, ends: list[Any]) -> None:
    """Show the expected time before the click: when a page opens, a setting changes, or a run ends."""
    cost = {**parts.call(work.cost, COSTS, ["cost"]), **AT_ONCE}
    gr.on(None, **cost, **LATEST)
    for end in ends:
        end.then(**cost)


def _wire_history(parts: Parts, history: History, ends: list[Any]) -> None:
    for end in ends:
        end.then(**parts.call(history.add, ["visit", "images"], ["visit", "history", "strip"]), **AT_ONCE)

    def pick(visit: Any, against: str, event: gr.SelectData) -> dict[Any, Any]:
        return parts.updates(history.pick(visit, against, event.index))

    view = ["visit", "strip", "panel", "pair", "slider", "against", "about"]
    parts["strip"].select(pick, **parts.named(["visit", "against"], view), **AT_ONCE)
    parts["position"].input(None, parts["position"], parts["slider"], js=_MEET, **PRIVATE)
    compare = parts.call(history.compare, ["visit", "against"], ["pair", "slider"])
    parts["against"].input(**compare, **AT_ONCE)
    up = {"js": events.scroll_to("#upload"), **PRIVATE}
    parts["reuse"].click(**parts.call(history.reuse, ["visit"], RESTORED), **AT_ONCE).success(None, **up)
    refer = parts.call(history.refer, ["visit"], ["image", "restored"])
    parts["refer"].click(**refer, **AT_ONCE).success(None, **up)


def _wire_link(parts: Parts, form: Form) -> None:
    """Show the link, and copy it to the clipboard if the browser allows it; read the one that is followed."""
    make = parts.call(form.make_link, [*FIELDS, "address"], ["link", "link_remark"])
    click = parts["make_link"].click(**make, js=_HERE, **AT_ONCE)
    click.then(None, [parts["link"], parts["link_remark"]], parts["link_remark"], js=_COPY, **PRIVATE)

    def read(request: gr.Request) -> dict[Any, Any]:
        return parts.updates(form.read_link(dict(request.query_params)))

    outputs = parts.named([], [*FIELDS, "new_seed", "link_notice"])
    gr.on(None, read, **outputs, **AT_ONCE)  # when a page opens
    parts["image"].change(lambda: gr.HTML(visible=False), None, parts["link_notice"], **AT_ONCE)


def _wire_endpoint(parts: Parts, work: Generating) -> None:
    """Add `/generate` for programs, with the page's own inputs, so that ranges and defaults stay the same.

    Only the steps have an input of their own. The page always sends them, but a program that names a quality
    need not know its steps.
    """
    low, high = RANGES["steps"]
    with gr.Row(visible=False):
        steps = gr.Number(None, label="Steps", minimum=low, maximum=high)
        files = gr.File(label="PNG files", file_count="multiple")
        seeds, trigger = gr.JSON(label="Seeds"), gr.Button()
        words, ask = gr.JSON(label="Unknown words"), gr.Button()
    inputs = [steps if name == "steps" else parts[name] for name in ("image", *FIELDS)]
    api = {"preprocess": False, "api_name": "generate", "api_description": ABOUT}
    trigger.click(work.endpoint, inputs, [files, seeds], **api, **LANE)
    ask.click(work.unknown_words, parts["prompt"], words, queue=False, api_name="unknown_words")
