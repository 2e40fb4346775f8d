"""Layout of the Generate tab; `dsd.ui.generate.tab` connects its events."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from dsd.generate.drawing import Options
from dsd.model.pipeline import DEFAULT_GUIDANCE
from dsd.model.sampling import QUALITIES
from dsd.ui import messages
from dsd.ui.generate.enhancing import Enhancing
from dsd.ui.generate.handlers import Generating
from dsd.ui.generate.restoring import OFFERED
from dsd.ui.loaded import Loaded

MAX_COUNT = 8
FRAME = ["dsd-small-frame", "dsd-frame"]  # classes in style.css
QUALITY = {  # work: model evaluations compared with `best`
    "draft": "Draft: to try things, at most a quarter of the work.",
    "balanced": "Balanced: at most half of the work.",
    "best": "Best: takes its time, for an image to keep.",
}
PIXELS = 128  # frames up to this size are shown enlarged and labeled so


class Reference(NamedTuple):
    """The visitor's image and what the page says about it."""

    image: gr.Image
    seen: gr.Image
    remarks: gr.HTML
    restored: gr.Group
    note: gr.HTML
    itself: gr.Button


class Description(NamedTuple):
    """The image in words, on request."""

    describe: gr.Button
    remark: gr.HTML
    suggestion: gr.Textbox
    use: gr.Button


class Link(NamedTuple):
    """A link that carries the settings; the browser fills in `address`."""

    make: gr.Button
    box: gr.Textbox
    remark: gr.HTML
    address: gr.Textbox


class Form(NamedTuple):
    """The fields and buttons that say what to draw."""

    prompt: gr.Textbox
    unknown: gr.HTML  # words of the prompt that the model does not know
    create: gr.Button
    cancel: gr.Button
    settings: list[Any]  # count, steps, image, text and embedded guidance, seed, width, height, fit, quality
    seed: gr.Number
    new_seed: gr.Checkbox
    description: Description
    brought: gr.HTML  # notice on the settings of the link that opened the page
    link: Link
    cost: gr.HTML  # expected time


class Results(NamedTuple):
    """The drawn images and their status."""

    status: gr.HTML
    images: gr.Gallery
    redrawn: gr.Gallery
    show_redrawn: gr.Checkbox


def reference(loaded: Loaded) -> Reference:
    """Add the upload beside what the model sees of it, with remarks below."""
    enlarged = ", enlarged" if loaded.pipe.frame_size <= PIXELS else ""
    with gr.Row(equal_height=True):
        image = gr.Image(
            label="Your image", type="filepath", format="png", sources=["upload", "clipboard"], buttons=[],
            height=250, min_width=150, elem_id="upload", elem_classes=FRAME,
        )  # fmt: skip
        image.preprocess = _as_sent
        seen = gr.Image(
            label=f"What the model sees{enlarged}", format="png", interactive=False, buttons=[],
            height=250, min_width=150, elem_id="seen", elem_classes=FRAME,
        )  # fmt: skip
    remarks = gr.HTML(elem_id="remarks", visible=False, padding=False)
    with gr.Group(visible=False, elem_id="restored") as restored:
        note = gr.HTML(padding=False)
        itself = gr.Button("Use the image itself instead", size="sm")
    return Reference(image, seen, remarks, restored, note, itself)


def _as_sent(payload: Any) -> str | None:
    """Return the uploaded file's path; `dsd.files.intake` opens the file and reports what is wrong with it.

    Gradio would open the file first, and report a broken one only as "Error". This function replaces the
    component's `preprocess`. The replacement lasts as long as no event returns an update for the component
    instead of a value. A subclass would last longer, but gradio writes a file beside the source of each
    subclass.
    """
    return payload.path if payload else None  # `dsd.ui.gate` has checked that it lies in the upload folder


def form(loaded: Loaded, work: Generating, enhancing: Enhancing) -> Form:
    """Add the prompt, the number of images, the buttons, and all other settings folded."""
    brought = gr.HTML(elem_id="brought", visible=False, padding=False)
    prompt = gr.Textbox(
        label="Where should it be?", placeholder="wearing a red hat on the beach", lines=1, max_lines=6,
        elem_id="prompt",
    )  # fmt: skip
    unknown = gr.HTML(elem_id="unknown-words", visible=False, padding=False)
    description = _description(enhancing)
    count = gr.Slider(1, MAX_COUNT, 1, step=1, label="Number of images", elem_id="count")
    with gr.Row():
        create = gr.Button("Create", variant="primary", elem_id="create", scale=3, min_width=120)
        cancel = gr.Button("Cancel", interactive=False, elem_id="cancel", scale=1, min_width=90)
    cost = gr.HTML(elem_id="cost", padding=False)  # filled in when a page opens
    with gr.Accordion("More settings", open=False, elem_id="advanced"):
        quality, steps = _quality()
        image_guidance, text_guidance, guidance = _guidance(work)
        seed, new_seed = _seed()
        width, height, fit = _size(loaded)
        link = _link()
    settings = [count, steps, image_guidance, text_guidance, guidance, seed, width, height, fit, quality]
    return Form(prompt, unknown, create, cancel, settings, seed, new_seed, description, brought, link, cost)


def _description(enhancing: Enhancing) -> Description:
    able = enhancing.trouble is None
    with gr.Accordion("Describe my image for me", open=False, elem_id="describe"):
        gr.HTML(enhancing.about(), padding=False)
        describe = gr.Button("Describe it", size="sm", visible=able, elem_id="describe-it")
        remark = gr.HTML(padding=False, elem_id="describe-remark")
        suggestion = gr.Textbox(
            label="Suggested prompt", lines=2, max_lines=6, visible=False, elem_id="suggestion"
        )
        use = gr.Button("Use this as my prompt", size="sm", visible=False, elem_id="use-suggestion")
    return Description(describe, remark, suggestion, use)


def _quality() -> tuple[gr.Radio, gr.Slider]:
    default = Options(prompt="-")
    choices = [(QUALITY[name], name) for name in QUALITIES]
    quality = gr.Radio(choices, value=default.quality, label="Quality", elem_id="quality")
    steps = gr.Slider(
        *OFFERED["steps"], default.steps, step=1, label="Steps", elem_id="steps",
        info="More are slower and a little finer. Each quality brings its own number.",
    )  # fmt: skip
    return quality, steps


def _guidance(work: Generating) -> tuple[Any, Any, Any]:
    default = Options(prompt="-")
    image_guidance = gr.Slider(
        *OFFERED["image_guidance"], default.image_guidance, step=0.1, label="Keep the subject",
        info="Raise it when the subject changes too much. 1 is neutral.",
    )  # fmt: skip
    text_guidance = gr.Slider(
        *OFFERED["text_guidance"], default.text_guidance, step=0.1, label="Follow the prompt",
        info="Raise it when the prompt is ignored. 1 is neutral.",
    )  # fmt: skip
    if not work.has_guidance:
        return image_guidance, text_guidance, gr.State(None)  # cannot be set, neither here nor by a program
    guidance = gr.Slider(
        *OFFERED["guidance"], DEFAULT_GUIDANCE, step=0.1, label="Vividness",
        info="Higher is bolder and more contrasty, lower is softer.",
    )  # fmt: skip
    return image_guidance, text_guidance, guidance


def _seed() -> tuple[gr.Number, gr.Checkbox]:
    with gr.Row():
        seed = gr.Number(
            None, label="Seed", min_width=120,
            info="The same seed and settings give the same image; -1 takes a new one.",
        )  # fmt: skip
        return seed, gr.Checkbox(True, label="New seed each time", min_width=120)


def _size(loaded: Loaded) -> tuple[gr.Slider, gr.Slider, gr.Radio]:
    low, high = loaded.side_range
    with gr.Row():
        width, height = (
            gr.Slider(low, high, loaded.pipe.frame_size, step=16, label=label, min_width=120)
            for label in ("Width", "Height")
        )
    fits = [("Crop to fill", "crop"), ("Keep all, add white", "pad")]
    return width, height, gr.Radio(fits, value=Options(prompt="-").fit, label="Fitting your image")


def _link() -> Link:
    make = gr.Button("Copy link", size="sm", elem_id="link-make")
    box = gr.Textbox(
        label="Link", info="It carries the prompt and these settings, never your image.", lines=1,
        max_lines=1, interactive=False, buttons=["copy"], visible=False, elem_id="link",
    )  # fmt: skip
    remark = gr.HTML(elem_id="link-remark", padding=False)
    return Link(make, box, remark, gr.Textbox(visible=False))


def results(loaded: Loaded) -> Results:
    """Add the images and, on request, the reference as the model redrew it beside them."""
    status = gr.HTML(messages.idle("Your images will appear here."), elem_id="status", padding=False)
    look: dict[str, Any] = {
        "format": "png", "interactive": False, "object_fit": "contain", "height": "auto", "scale": 1,
        "min_width": 220, "elem_classes": FRAME,
    }  # fmt: skip
    with gr.Row(equal_height=False):
        buttons = ["download", "fullscreen"]
        images = gr.Gallery(
            label="Result", columns=2, type="filepath", buttons=buttons, elem_id="images", **look
        )
        redrawn = gr.Gallery(
            label="Your image, redrawn", columns=2, buttons=[], visible=False, elem_id="redrawn", **look
        )
    show = gr.Checkbox(
        False, label="Show your image as the model redrew it", elem_id="show-redrawn",
        info="The model draws your image again beside the new one. "
        "Where that copy is wrong, the result will be too.",
    )  # fmt: skip
    return Results(status, images, redrawn, show)


def examples(folder: Path) -> tuple[gr.Gallery | None, list[dict[str, str]]]:
    """Add the images and prompts of `examples.json`: [{"image": "name.png", "prompt": "..."}]."""
    listing = folder / "examples.json"
    rows = json.loads(listing.read_text(encoding="utf-8")) if listing.exists() else []
    if not rows:
        return None, []
    gr.set_static_paths(folder)  # served in place, not copied for every visitor
    gr.Markdown("### Or try one of these", elem_classes="dsd-heading")
    items = [(str(folder / row["image"]), row["prompt"]) for row in rows]
    gallery = gr.Gallery(
        items, show_label=False, container=False, columns=8, height="auto", interactive=False,
        allow_preview=False, buttons=[], object_fit="contain", elem_id="examples", elem_classes=FRAME,
    )  # fmt: skip
    return gallery, rows
