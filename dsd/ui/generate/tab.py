"""Events of the Create tab; the layout is in `dsd.ui.generate.layout`, the work in `handlers`."""

import json
from pathlib import Path
from typing import Any

import gradio as gr

from dsd.model.sampling import QUALITIES
from dsd.ui import events
from dsd.ui.events import AT_ONCE, LANE, LATEST, PRIVATE, QUIET, Parts
from dsd.ui.generate import layout
from dsd.ui.generate.enhancing import Enhancing
from dsd.ui.generate.form import FIELDS, RANGES, Form
from dsd.ui.generate.handlers import Generating
from dsd.ui.generate.history import History
from dsd.ui.generate.reference import References
from dsd.ui.generate.sheet import Sheets
from dsd.ui.generate.tasks import Choice
from dsd.ui.models import Loaded

SETTINGS = [*(name for name in FIELDS if name != "prompt"), "aspect", "rank"]
RESTORED = ["image", "prompt", *SETTINGS, "restored", "note", "own_image", "remarks", "about", "actions"]
COSTS = ["rank", "count", "steps", "image_guidance", "text_guidance", "width", "height", "quality"]
RUN = ["images", "status", "about", "remarks", "unknown", "setting_remark"]
ADOPTED = ["image_guidance", "text_guidance", "images", "status", "sheet_status"]  # by a click on the sheet
CHANGED = ["image", "original", "restore", "remarks"]  # by a tool of the reference
ABOUT = (
    "Draw the subject of an image somewhere new. Returns PNG files, which carry their settings, and their "
    "seeds. Without a seed a new one is taken, without steps the quality's."
)
_HERE = "(...form) => [...form.slice(0, -1), location.origin + location.pathname]"
_COPY = """async (text, remark) => {{
  if (!text) return remark;  // what was wrong with it
  try {{ await navigator.clipboard.writeText(text); }} catch {{ return {refused}; }}  // or not a safe address
  return '<p class="dsd-quiet" role="status">{copied}</p>';
}}"""
_SAVE = """(file) => { if (file) {
  const link = document.createElement("a");
  Object.assign(link, {href: file.url, download: file.orig_name || ""}).click();
} }"""


def build(loaded: Loaded, examples: Path) -> Generating:
    """Add the tab to the page under construction; return what it draws with."""
    work, enhancing, parts = Generating(loaded), Enhancing(loaded), Parts()
    choice = Choice(loaded, examples, work.form.model_hash)
    layout.examples(parts, choice)
    first = layout.find_finished(choice)
    with gr.Row(equal_height=False, elem_classes=["dsd-columns", "dsd-create"]):
        with gr.Column(elem_classes="dsd-make"):
            layout.reference(parts, first)
            layout.form(parts, choice, first)
        with gr.Column(elem_classes="dsd-made"):
            layout.results(parts, first)
            layout.history(parts)
        with gr.Column(elem_classes="dsd-more"):
            layout.more(parts, loaded, work.form)
            layout.description(parts, enhancing)
    _wire_reference(parts, References(loaded, work.form), work.form)
    _wire_prompt(parts, work, enhancing)
    _wire_settings(parts, work.form)
    _wire_tasks(parts, work, choice)
    ends = [*_wire_runs(parts, work), _wire_sheet(parts, Sheets(work))]
    _wire_cost(parts, work, ends)
    _wire_history(parts, History(work.form), ends)
    _wire_actions(parts, History(work.form))
    _wire_link(parts, work.form)
    _wire_endpoint(parts, work)
    return work


def _wire_reference(parts: Parts, tools: References, form: Form) -> None:
    wire_tools(parts, tools, ["image", "width", "height", "fit"])
    parts["image"].upload(**parts.call(form.restore, ["image"], RESTORED), **QUIET)
    parts["image"].clear(lambda: gr.Group(visible=False), None, parts["restored"], **AT_ONCE)

    def use_itself(values: dict[str, Any]) -> dict[str, Any]:
        return {"image": values["own_image"], "restored": gr.Group(visible=False)}

    parts["use_itself"].click(**parts.call(use_itself, ["own_image"], ["image", "restored"]), **AT_ONCE)


def wire_tools(parts: Parts, tools: References, seen: list[str]) -> None:
    """Connect the tools of a reference, of any tab; `seen` are the fields that decide what is seen."""
    changes = [parts[name].change for name in seen]
    gr.on(changes, **parts.call(tools.see, seen, ["seen", "tools", "remarks"]), **LATEST, **QUIET)
    parts["image"].upload(**parts.call(tools.make_visible, ["image"], ["image"]), **QUIET)
    forget = parts.call(tools.forget, [], ["original", "restore"])
    gr.on([parts["image"].upload, parts["image"].clear], **forget, **AT_ONCE)
    box = f'async (image, original) => [image, original, await dsdBox("#{parts["image"].elem_id} img")]'
    crop = parts.call(tools.crop, ["image", "original", "box"], CHANGED)
    # "multiple", because the end of a box that was given up may still be on its way when the next is opened.
    parts["crop"].click(**crop, js=box, trigger_mode="multiple", **QUIET)
    if "background" in parts:
        remove = parts.call(tools.remove_background, ["image", "original"], CHANGED)
        parts["background"].click(**remove, show_progress_on=parts["image"], **LANE, **PRIVATE)
    parts["restore"].click(**parts.call(tools.restore, ["original"], CHANGED), **AT_ONCE)


def _wire_prompt(parts: Parts, work: Generating, enhancing: Enhancing) -> None:
    parts["prompt"].change(**parts.call(work.remark, ["prompt"], ["unknown"]), **LATEST, **AT_ONCE)
    parts["prompt"].change(None, js="() => dsdPress()", **PRIVATE)
    suggestion = ["suggestion", "use_suggestion", "describe_remark"]
    describe = parts.call(enhancing.describe, ["image", "prompt"], suggestion)
    wait = {"show_progress": "minimal", "show_progress_on": parts["describe_remark"]}
    parts["describe"].click(**describe, **wait, **LANE, **PRIVATE)
    parts["use_suggestion"].click(lambda text: text, parts["suggestion"], parts["prompt"], **AT_ONCE)


def _wire_settings(parts: Parts, form: Form) -> None:
    # In the browser, so that a click on Create right after it draws what was picked.
    size = [parts["width"], parts["height"]]
    js = f"(name, width, height) => ({json.dumps(form.sizes)})[name] ?? [width, height]"
    parts["aspect"].input(None, [parts["aspect"], *size], size, js=js, **PRIVATE)
    # As above; restored settings bring their own steps.
    own = json.dumps({name: quality.steps for name, quality in QUALITIES.items()})
    parts["quality"].input(None, parts["quality"], parts["steps"], js=f"(name) => ({own})[name]", **PRIVATE)
    defaults = form.defaults()
    names = [name for name in SETTINGS if name in defaults]
    parts["reset"].click(
        lambda: [defaults[name] for name in names], None, [parts[n] for n in names], **AT_ONCE
    )


def _wire_runs(parts: Parts, work: Generating) -> list[Any]:
    """Make Create, Enter and Draw another draw; return the events that end a run."""
    draw = parts.call(work.draw, ["image", *FIELDS, "rank", "planned"], [*RUN, "planned"])
    another = ([parts["another"].click], parts.call(work.draw_another, ["visit"], RUN))
    starts = [parts["create"].click, parts["prompt"].submit]
    ends = events.connect_run(parts, starts, draw, another, view="#images")
    return [end.then(None, js=events.TO_PROBLEM, **PRIVATE) for end in ends]


def _wire_sheet(parts: Parts, sheets: Sheets) -> Any:
    """Draw the guidance sheet on demand; return the event that takes over a cell as the result."""
    run = Parts(cancel=parts["cancel_sheet"], status=parts["sheet_status"])
    shown = ["sheet", "sheet_status", "remarks", "unknown", "setting_remark"]
    draw = parts.call(sheets.draw, ["image", *FIELDS], shown)
    for end in events.connect_run(run, [parts["draw_sheet"].click], draw):
        end.then(None, js=events.TO_PROBLEM, **PRIVATE)

    def adopt(images: Any, event: gr.SelectData) -> dict[Any, Any]:
        return parts.updates(sheets.adopt(images, event.index))

    adopted = parts.named(["sheet"], ADOPTED)
    return parts["sheet"].select(adopt, preprocess=False, **adopted, **AT_ONCE)


def _wire_tasks(parts: Parts, work: Generating, choice: Choice) -> None:
    """Make the task change the suggestions, and a click on an example fill the form, at once, and draw."""
    if len(choice.tasks) > 1:
        shown = ["prompt", "chips", *(name for name in ("heading", "examples") if name in parts)]
        chosen = parts["task"].change(**parts.call(choice.choose, ["task"], shown), **LATEST, **AT_ONCE)
        chosen.then(None, js="() => dsdPress()", **PRIVATE)
    if "examples" not in parts:
        return

    def fill(event: gr.SelectData) -> dict[Any, Any]:
        row = choice.find(event.value)
        return parts.updates(work.fill(str(choice.folder / row["image"]), row) if row else {})

    filled = ["image", "prompt", *SETTINGS, "planned", "original", "restore", "restored"]
    select = parts["examples"].select(fill, **parts.named([], filled), **AT_ONCE)
    select.success(None, js='() => document.querySelector("#create").click()', **PRIVATE)


def _wire_cost(parts: Parts, work: Generating, ends: list[Any]) -> None:
    """Show the expected time before the click: when a page opens, a setting changes, or a run ends."""
    cost = {**parts.call(work.cost, COSTS, ["cost", "sheet_cost"]), **AT_ONCE}
    gr.on(None, **cost, **LATEST)
    for end in ends:
        end.then(**cost)


def _wire_history(parts: Parts, history: History, ends: list[Any]) -> None:
    shown = ["visit", "about", "actions", "images"]
    for end in ends:
        add = parts.call(history.add, ["visit", "images"], [*shown, "history", "strip"])
        end.then(**add, **AT_ONCE)

    def pick(visit: Any, event: gr.SelectData) -> dict[Any, Any]:
        return parts.updates(history.pick(visit, event.index))

    def look(visit: Any, images: Any, event: gr.SelectData) -> dict[Any, Any]:
        return parts.updates(history.look(visit, images, event.index))

    up = {"js": events.scroll_to("#images"), **PRIVATE}
    picked = parts["strip"].select(pick, **parts.named(["visit"], [*shown, "strip", "status"]), **AT_ONCE)
    picked.success(None, **up)
    look_at = {"preprocess": False, **parts.named(["visit", "images"], shown[:3])}
    parts["images"].select(look, **look_at, **AT_ONCE)


def _wire_actions(parts: Parts, history: History) -> None:
    """Let the shown image be used again, downloaded and copied."""
    up = {"js": events.scroll_to("#upload"), **PRIVATE}
    reuse = parts.call(history.reuse, ["visit"], RESTORED)
    parts["reuse"].click(**reuse, **AT_ONCE).success(None, **up)
    refer = parts.call(history.refer, ["visit"], ["image", "restored", "original", "about", "actions"])
    parts["refer"].click(**refer, **AT_ONCE).success(None, **up)
    for name, handler in (("download", history.download), ("enlarge", history.enlarge)):
        get = parts[name].click(lambda: None, None, parts["file"], **AT_ONCE)
        get = get.then(**parts.call(handler, ["visit"], ["file", "about", "actions"]), **QUIET)
        get.success(None, parts["file"], js=_SAVE, **PRIVATE)
    copy = parts.call(history.copy, ["visit", "address"], ["copied", "copy_remark"])
    _copy_to_clipboard(parts["copy"].click(**copy, js=_HERE, **AT_ONCE), parts, "copied", "copy_remark")


def _copy_to_clipboard(event: Any, parts: Parts, text: str, remark: str) -> None:
    """Copy a text after an event, and say so; a text that the browser refuses to copy is shown instead."""
    show = "Object.assign(document.createElement('pre'), {textContent: text}).outerHTML"
    words = {"link": ("''", "The link is copied."), "copied": (show, "The settings are copied.")}
    refused, copied = words[text]
    js = _COPY.format(refused=refused, copied=copied)
    event.then(None, [parts[text], parts[remark]], parts[remark], js=js, **PRIVATE)


def _wire_link(parts: Parts, form: Form) -> None:
    """Show the link, and copy it to the clipboard if the browser allows it; read the one that is followed."""
    make = parts.call(form.make_link, [*FIELDS, "task", "address"], ["link", "link_remark"])
    _copy_to_clipboard(parts["make_link"].click(**make, js=_HERE, **AT_ONCE), parts, "link", "link_remark")

    def read(request: gr.Request) -> dict[Any, Any]:
        return parts.updates(form.read_link(dict(request.query_params)))

    outputs = parts.named([], ["prompt", "task", *SETTINGS, "link_notice"])
    gr.on(None, read, **outputs, **AT_ONCE)  # when a page opens
    parts["image"].upload(lambda: gr.HTML(visible=False), None, parts["link_notice"], **AT_ONCE)


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
    inputs = [steps if name == "steps" else parts[name] for name in ("image", *FIELDS, "rank")]
    api = {"preprocess": False, "api_name": "generate", "api_description": ABOUT}
    trigger.click(work.endpoint, inputs, [files, seeds], **api, **LANE)
    ask.click(work.unknown_words, parts["prompt"], words, queue=False, api_name="unknown_words")
