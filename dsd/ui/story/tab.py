"""The Story tab: its layout and its events; the work is in `handlers`."""

from pathlib import Path
from typing import Any

import gradio as gr

from dsd.generate.story import MOST
from dsd.model.sampling import QUALITIES
from dsd.ui import events, messages
from dsd.ui.events import AT_ONCE, LANE, LATEST, PRIVATE, QUIET, Parts
from dsd.ui.generate.form import RANGES
from dsd.ui.generate.handlers import Generating
from dsd.ui.generate.layout import FRAME, NEW_SEED, QUALITY, SLIDERS, SMALL, seed, tools
from dsd.ui.generate.reference import References
from dsd.ui.generate.tab import wire_tools
from dsd.ui.generate.tasks import read_rows
from dsd.ui.models import Loaded
from dsd.ui.story.handlers import SETTINGS, Telling
from dsd.ui.story.panels import FILES, bring_back, finish, pick

ABOUT = (
    "Draw one subject in up to eight panels, a line of the story each. Returns the strip as PNG and PDF, the "
    "panels as PNG files, which carry their settings, and the seeds."
)
REDRAWN = ["panels", "panel", "replaced", "back"]
RUN = [*REDRAWN, "status", "setting_remark", "line_remark", *FILES]


def build(loaded: Loaded, examples: Path, work: Generating) -> None:
    """Add the tab to the page under construction; `work` is what the Create tab draws with."""
    telling, parts = Telling(loaded, work), Parts()
    gr.Markdown(
        f"One character, up to {MOST} lines, a panel for each line. Any panel can be drawn again without the "
        "others, and the strip can be saved as PNG or PDF.",
        elem_classes="dsd-introduction",
    )
    with gr.Row(equal_height=False, elem_classes=["dsd-columns", "dsd-create", "dsd-story"]):
        with gr.Column(elem_classes="dsd-make"):
            _reference(parts, examples)
            _writer(parts, telling)
            _form(parts, loaded)
        with gr.Column(elem_classes="dsd-made"):
            _results(parts)
        with gr.Column(elem_classes="dsd-more"), gr.Accordion("More settings", open=False):
            _settings(parts, work.form.defaults())
    wire_tools(parts, References(loaded, work.form), ["image"])
    _wire(parts, telling)
    _wire_endpoint(parts, telling)


def _reference(parts: Parts, examples: Path) -> None:
    """Add the characters to start from, and the upload."""
    files = [str(examples / row["image"]) for row in read_rows(examples)]
    if files:
        gr.HTML("<h2>Pick a character, or bring your own</h2>", padding=False, elem_classes="dsd-heading")
        parts["characters"] = gr.Gallery(
            [(file, f"Character {number}") for number, file in enumerate(files, 1)], show_label=False,
            container=False, height="auto", interactive=False, allow_preview=False, buttons=[],
            object_fit="contain", elem_id="story-characters", elem_classes=FRAME,
        )  # fmt: skip
    parts["image"] = gr.Image(
        files[0] if files else None, label="The character", type="filepath", sources=["upload"], format="png",
        buttons=[], height=200, alt_text="The character", elem_id="story-image", elem_classes=FRAME,
    )  # fmt: skip
    parts["remarks"] = gr.HTML(elem_id="story-remarks", visible=False, padding=False)
    tools(parts, files[0] if files else None, prefix="story-")


def _writer(parts: Parts, telling: Telling) -> None:
    """Add the box that makes lines from one sentence, if a language model is at hand."""
    with gr.Accordion("A story from one sentence", visible=telling.can_write, elem_id="story-writer"):
        gr.HTML(messages.quiet(telling.about_writer()), padding=False)
        parts["sentence"] = gr.Textbox(
            label="What is the story about?", placeholder="It dreams of the sea and finds its way there",
            lines=1, max_lines=3, elem_id="story-sentence",
        )  # fmt: skip
        parts["write"] = gr.Button("Write me a story", size="sm", elem_id="story-write")
        parts["write_remark"] = gr.HTML(padding=False, elem_id="story-write-remark")


def _form(parts: Parts, loaded: Loaded) -> None:
    parts["lines"] = gr.Textbox(
        "\n".join(loaded.story) or None, label="The story, one line for each panel", lines=6, max_lines=12,
        placeholder="on the beach\nin the forest wearing a red hat", elem_id="story-lines",
    )  # fmt: skip
    parts["unknown"] = gr.HTML(elem_id="story-unknown", visible=False, padding=False)
    with gr.Row():
        look = {"variant": "primary", "scale": 3, "min_width": 130}
        parts["draw"] = gr.Button("Draw the story", elem_id="story-draw", **look)
        look = {"interactive": False, "scale": 1, "min_width": 90}
        parts["cancel"] = gr.Button("Cancel", elem_id="story-cancel", **look)
    parts["cost"] = gr.HTML(elem_id="story-cost", padding=False)  # filled in when a page opens
    parts["setting_remark"] = gr.HTML(elem_id="story-setting-remark", visible=False, padding=False)


def _settings(parts: Parts, default: dict[str, Any]) -> None:
    choices = [(QUALITY[name], name) for name in QUALITIES]
    look = {"label": "Quality", "elem_id": "story-quality"}
    parts["quality"] = gr.Radio(choices, value=default["quality"], **look)
    for name in ("image_guidance", "text_guidance"):
        step, label, info = SLIDERS[name]
        parts[name] = gr.Slider(*RANGES[name], default[name], step=step, label=label, info=info)
    seed(parts, f"Of the first panel; each further one adds 1. {NEW_SEED}", elem_id="story-seed")


def _results(parts: Parts) -> None:
    """Add the status, the panels, the tools of the picked one, and the strip's files."""
    parts["status"] = gr.HTML(
        messages.idle("The panels will appear here."), elem_id="story-status", padding=False
    )
    parts["panels"] = gr.Gallery(
        label="The strip", type="filepath", format="png", height="auto", interactive=False,
        object_fit="contain", columns=3, allow_preview=False, buttons=[], elem_id="story-panels",
        elem_classes=FRAME,
    )  # fmt: skip
    parts["picked"] = gr.State()  # place of the panel to draw again
    parts["replaced"] = gr.State({})  # file of the panel before, by the place of one that was drawn again
    parts["kept"] = gr.State(())  # files of the last strip
    with gr.Column(visible=False, elem_id="story-again") as parts["again"]:
        info = "It is drawn again with the settings that it has and a new seed."
        parts["line"] = gr.Textbox(label="Panel", info=info, lines=1, max_lines=3, elem_id="story-line")
        parts["line_remark"] = gr.HTML(elem_id="story-line-remark", visible=False, padding=False)
        with gr.Row(elem_classes="dsd-actions"):
            parts["redraw"] = gr.Button("Draw this panel again", elem_id="story-redraw", **SMALL)
            look = {"visible": False, "elem_id": "story-back", **SMALL}
            parts["back"] = gr.Button("Swap with the one before", **look)
            parts["panel"] = gr.DownloadButton("Download this panel", elem_id="story-panel", **SMALL)
    parts["font_remark"] = gr.HTML(visible=False, padding=False)
    with gr.Row(elem_classes="dsd-actions"):
        for kind in FILES:
            label = f"Download the strip as {kind.upper()}"
            parts[kind] = gr.DownloadButton(label, visible=False, elem_id=f"story-{kind}", **SMALL)


def _wire(parts: Parts, telling: Telling) -> None:
    if "characters" in parts:
        _wire_characters(parts)
    wait = {"show_progress": "minimal", "show_progress_on": parts["write_remark"]}
    write = parts.call(telling.write, ["sentence"], ["lines", "write_remark"])
    gr.on([parts["write"].click, parts["sentence"].submit], **write, **wait, **LANE, **PRIVATE)
    parts["lines"].change(**parts.call(telling.remark, ["lines"], ["unknown"]), **LATEST, **AT_ONCE)
    parts["line"].change(**parts.call(telling.remark_line, ["line"], ["line_remark"]), **LATEST, **AT_ONCE)
    strip = ["panels", "status", *FILES, "kept", "font_remark"]
    finishing = {**parts.call(finish, ["panels", "kept"], strip), **QUIET}
    _wire_panels(parts, strip)
    ends = _wire_runs(parts, telling)
    cost = {**parts.call(telling.estimate, ["lines", *SETTINGS[:-1]], ["cost"]), **AT_ONCE}
    gr.on(None, **cost, **LATEST)  # when a page opens or a field changes
    for end in ends:
        end.then(None, js=events.TO_PROBLEM, **PRIVATE)
        end.then(**finishing)
        end.then(**cost)


def _wire_characters(parts: Parts) -> None:
    def choose(event: gr.SelectData) -> dict[Any, Any]:
        image = parts["characters"].value[event.index]["image"]["path"]
        return parts.updates({"image": image, "original": None, "restore": gr.Button(visible=False)})

    chosen = parts.named([], ["image", "original", "restore"])
    parts["characters"].select(choose, **chosen, **AT_ONCE)


def _wire_panels(parts: Parts, strip: list[str]) -> None:
    """Let a panel be picked, and swapped with the one before; the strip's files change with it."""

    def choose(items: Any, replaced: dict[int, str], event: gr.SelectData) -> dict[Any, Any]:
        return parts.updates(pick(items, event.index, replaced))

    shown = ["again", "picked", "line", "line_remark", "panel", "back"]
    select = {"preprocess": False, **parts.named(["panels", "replaced"], shown)}
    picked = parts["panels"].select(choose, **select, **AT_ONCE)
    picked.success(None, js=events.scroll_to("#story-again"), **PRIVATE)
    swapped = list(dict.fromkeys([*REDRAWN, *strip, "line", "line_remark"]))
    parts["back"].click(**parts.call(bring_back, ["panels", "picked", "replaced"], swapped), **QUIET)


def _wire_runs(parts: Parts, telling: Telling) -> list[Any]:
    """Make the buttons draw; return the events at the end of a run."""
    outputs = [*RUN, "again", "picked", "remarks", "unknown"]
    draw = parts.call(telling.draw, ["image", "lines", *SETTINGS], outputs)
    redraw = parts.call(telling.redraw, ["panels", "picked", "line", "replaced"], RUN)
    again = [parts["redraw"].click, parts["line"].submit]
    return events.connect_run(parts, [parts["draw"].click], draw, (again, redraw))


def _wire_endpoint(parts: Parts, telling: Telling) -> None:
    """Add `/story` for programs, with the page's own settings, so that ranges and defaults stay the same.

    Image and lines have inputs of their own, without the page's examples as defaults.
    """
    with gr.Row(visible=False):
        image, lines = gr.Image(label="Image", type="filepath"), gr.Textbox(label="Lines")
        strips = gr.File(label="Strip as PNG and PDF", file_count="multiple")
        files = gr.File(label="Panels as PNG", file_count="multiple")
        seeds, trigger = gr.JSON(label="Seeds"), gr.Button()
    inputs = [image, lines, *(parts[name] for name in SETTINGS)]
    api = {"preprocess": False, "api_name": "story", "api_description": ABOUT}
    trigger.click(telling.endpoint, inputs, [strips, files, seeds], **api, **LANE)
