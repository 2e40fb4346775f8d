"""Events of the Generate tab; the layout is in `dsd.ui.generate.layout`, the work in `handlers`."""

import json
from pathlib import Path
from typing import Any

import gradio as gr

from dsd.model.sampling import QUALITIES
from dsd.ui import events
from dsd.ui.events import AT_ONCE, LANE, PRIVATE, QUIET
from dsd.ui.generate import history_layout, layout
from dsd.ui.generate.enhancing import Enhancing
from dsd.ui.generate.handlers import Generating
from dsd.ui.generate.history import History
from dsd.ui.generate.history_layout import HistoryBox
from dsd.ui.generate.layout import Form, Reference, Results
from dsd.ui.generate.link import Linking
from dsd.ui.generate.restoring import OFFERED
from dsd.ui.loaded import Loaded

_MEET = "(position) => ({__type__: 'update', slider_position: position})"
_COPY = """async (link, remark) => {
  if (!link) return remark;  // what was wrong with the form
  try { await navigator.clipboard.writeText(link); } catch { return ""; }  // refused, or not a safe address
  return '<p class="dsd-quiet" role="status">The link is copied.</p>';
}"""


def build(loaded: Loaded, examples: Path) -> None:
    """Add the tab to the page under construction."""
    work, enhancing = Generating(loaded), Enhancing(loaded)
    with gr.Row(equal_height=False, elem_classes="dsd-columns"):
        with gr.Column(scale=5, min_width=320):
            reference = layout.reference(loaded)
            form = layout.form(loaded, work, enhancing)
        with gr.Column(scale=6, min_width=320):
            results = layout.results(loaded)
            past = history_layout.history()
    gallery, rows = layout.examples(examples)
    back = _wire_reference(reference, form, work)
    _wire_description(reference, form, enhancing)
    _wire_quality(form)
    form.prompt.change(work.remark, form.prompt, form.unknown, trigger_mode="always_last", **AT_ONCE)
    ends = _wire_runs(reference, form, results, work, gallery, rows)
    _wire_cost(form, ends, work)
    _wire_history(past, ends, results, History(work), back)
    _wire_link(reference, form, Linking(loaded))
    _wire_endpoint(reference, form, work)


def _wire_reference(reference: Reference, form: Form, work: Generating) -> list[Any]:
    """Connect the reference's events; return the components that restored settings fill in."""
    *_, width, height, fit, _ = form.settings
    gr.on(
        [reference.image.change, fit.change, width.change, height.change],
        work.see,
        [reference.image, width, height, fit],
        [reference.seen, reference.remarks],
        trigger_mode="always_last",
        **QUIET,
    )
    own_path, box = gr.State(), reference.restored
    back = [reference.image, form.prompt, *form.settings, form.new_seed, box, reference.note, own_path]
    reference.image.upload(work.restore, reference.image, back, **QUIET)
    reference.itself.click(
        lambda path: (path, gr.Group(visible=False)), own_path, [reference.image, box], **AT_ONCE
    )
    reference.image.clear(lambda: gr.Group(visible=False), None, box, **AT_ONCE)
    return back


def _wire_description(reference: Reference, form: Form, enhancing: Enhancing) -> None:
    box = form.description
    box.describe.click(
        enhancing.describe,
        [reference.image, form.prompt],
        [box.suggestion, box.use, box.remark],
        show_progress="minimal",
        show_progress_on=box.remark,
        **LANE,
        **PRIVATE,
    )
    box.use.click(lambda text: text, box.suggestion, form.prompt, **AT_ONCE)


def _wire_quality(form: Form) -> None:
    """Set the steps when a visitor chooses a quality; restored settings bring their own steps."""
    _, steps, *_, quality = form.settings
    own = json.dumps({name: known.steps for name, known in QUALITIES.items()})
    quality.input(None, quality, steps, js=f"(name) => ({own})[name]", **PRIVATE)  # in the browser, at once


def _wire_runs(
    reference: Reference,
    form: Form,
    results: Results,
    work: Generating,
    gallery: gr.Gallery | None,
    rows: list[dict[str, str]],
) -> list[Any]:
    """Make Create, Enter and a click on an example draw, with Cancel enabled meanwhile.

    Returns the events that end a run, including a cancel.
    """
    asked = [form.create.click, form.prompt.submit]
    gr.on(asked, events.running, None, form.cancel, js=events.scroll_to("#status"), **AT_ONCE)
    run = gr.on(
        asked,
        work.draw,
        [reference.image, form.prompt, *form.settings, form.new_seed],
        [results.images, results.redrawn, results.status, form.seed],
        trigger_mode="once",  # applies to this event alone; an event chained to another would run twice
        show_progress="minimal",
        show_progress_on=results.status,
        **LANE,
        **PRIVATE,
    )
    if gallery is not None:

        def fill(event: gr.SelectData) -> tuple[str, str]:
            return gallery.value[event.index]["image"]["path"], rows[event.index]["prompt"]

        filled = gallery.select(fill, None, [reference.image, form.prompt], **AT_ONCE)
        filled.then(None, js='() => document.querySelector("#create").click()', **PRIVATE)
    ends = [run.then(events.idle, None, form.cancel, **AT_ONCE)]
    ends.append(events.cancels([run], form.cancel, results.status))
    show = results.show_redrawn
    show.change(lambda on: gr.Gallery(visible=on), show, results.redrawn, **AT_ONCE)
    return ends


def _wire_cost(form: Form, ends: list[Any], work: Generating) -> None:
    """Show the expected time before the click: when a page opens, a setting changes, or a run ends.

    Values are taken as the browser sends them, because gradio would report an error for a number that is
    still being typed.
    """
    count, steps, image_guidance, text_guidance, _, _, width, height, _, quality = form.settings
    asked = [count, steps, image_guidance, text_guidance, width, height, quality]
    said: dict[str, Any] = {"preprocess": False, **AT_ONCE}
    gr.on(None, work.cost, asked, form.cost, trigger_mode="always_last", **said)
    for end in ends:
        end.then(work.cost, asked, form.cost, **said)


def _wire_history(
    past: HistoryBox, ends: list[Any], results: Results, history: History, back: list[Any]
) -> None:
    """Connect the history to the results and the form.

    `back` lists what restored settings fill in: first the reference, at -3 the box that announces them.
    """
    visit, panel = past.visit, past.panel
    for end in ends:
        end.then(history.add, [visit, results.images], [visit, past.box, past.strip], **AT_ONCE)
    shown = [visit, past.strip, panel.box, panel.pair, panel.slider, panel.against, panel.about]
    past.strip.select(history.pick, [visit, panel.against], shown, **AT_ONCE)
    panel.position.input(None, panel.position, panel.slider, js=_MEET, **PRIVATE)
    panel.against.input(history.compare, [visit, panel.against], [panel.pair, panel.slider], **AT_ONCE)
    up = {"js": events.scroll_to("#upload"), **PRIVATE}
    image, restored = back[0], back[-3]
    panel.reuse.click(history.reuse, visit, back, **AT_ONCE).success(None, **up)
    panel.refer.click(history.refer, visit, [image, restored], **AT_ONCE).success(None, **up)


def _wire_link(reference: Reference, form: Form, linking: Linking) -> None:
    """Show the link, and copy it to the clipboard if the browser allows it."""
    link, fields = form.link, [form.prompt, *form.settings]
    here = "(...form) => [...form.slice(0, -1), location.origin + location.pathname]"
    made = link.make.click(linking.make, [*fields, link.address], [link.box, link.remark], js=here, **AT_ONCE)
    made.then(None, [link.box, link.remark], link.remark, js=_COPY, **PRIVATE)
    gr.on(None, linking.read, None, [*fields, form.new_seed, form.brought], **AT_ONCE)  # when a page opens
    reference.image.change(lambda: gr.HTML(visible=False), None, form.brought, **AT_ONCE)


def _wire_endpoint(reference: Reference, form: Form, work: Generating) -> None:
    """Add `/generate` for programs, with the page's own inputs, so that ranges and defaults stay the same.

    Only the steps have an input of their own. The page always sends them, but a program that names a quality
    need not know its steps.
    """
    low, high = OFFERED["steps"]
    count, _, *others = form.settings
    with gr.Row(visible=False):
        steps = gr.Number(None, label="Steps", minimum=low, maximum=high)
        files = gr.File(label="PNG files", file_count="multiple")
        seeds, trigger = gr.JSON(label="Seeds"), gr.Button()
        words, ask = gr.JSON(label="Unknown words"), gr.Button()
    trigger.click(
        work.endpoint,
        [reference.image, form.prompt, count, steps, *others],
        [files, seeds],
        api_name="generate",
        api_description="Draw the subject of an image somewhere new. Returns PNG files, which carry their "
        "settings, and their seeds. Without a seed a new one is taken, without steps the quality's.",
        **LANE,
    )
    ask.click(work.unknown_words, form.prompt, words, queue=False, api_name="unknown_words")
