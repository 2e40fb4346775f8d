"""Layout of the Generate tab: every part under the name by which handlers know it."""

import json
from pathlib import Path

import gradio as gr

from dsd.generate.drawing import Options
from dsd.model.request import DEFAULT_GUIDANCE
from dsd.model.sampling import QUALITIES
from dsd.ui import messages
from dsd.ui.events import AT_ONCE, PRIVATE, Parts
from dsd.ui.generate.enhancing import Enhancing
from dsd.ui.generate.form import NO_PROMPT, RANGES, Form
from dsd.ui.generate.history import BEFORE, REFERENCE, Visit
from dsd.ui.models import Loaded

FRAME = ["dsd-small-frame", "dsd-frame"]  # classes in style.css
QUALITY = {  # work: model evaluations compared with `best`
    "draft": "Draft: to try things, at most a quarter of the work.",
    "balanced": "Balanced: at most half of the work.",
    "best": "Best: takes its time, for an image to keep.",
}
SLIDERS = {  # field -> step, label, explanation
    "steps": (1, "Steps", "More are slower and a little finer. Each quality brings its own number."),
    "image_guidance": (0.1, "Keep the subject", "Raise it when the subject changes too much. 1 is neutral."),
    "text_guidance": (0.1, "Follow the prompt", "Raise it when the prompt is ignored. 1 is neutral."),
    "guidance": (0.1, "Vividness", "Higher is bolder and more contrasty, lower is softer."),
}
PIXELS = 128  # frames up to this size are shown enlarged and labeled so


def reference(parts: Parts, loaded: Loaded) -> None:
    """Add the upload beside what the model sees of it, with remarks below."""
    enlarged = ", enlarged" if loaded.pipe.frame_size <= PIXELS else ""
    look = {"format": "png", "buttons": [], "height": 250, "min_width": 150, "elem_classes": FRAME}
    with gr.Row(equal_height=True):
        source = {"label": "Your image", "type": "filepath", "sources": ["upload", "clipboard"]}
        parts["image"] = gr.Image(elem_id="upload", **source, **look)
        label = f"What the model sees{enlarged}"
        parts["seen"] = gr.Image(label=label, interactive=False, elem_id="seen", **look)
    parts["remarks"] = gr.HTML(elem_id="remarks", visible=False, padding=False)
    with gr.Group(visible=False, elem_id="restored") as parts["restored"]:
        parts["note"] = gr.HTML(padding=False)
        parts["use_itself"] = gr.Button("Use the image itself instead", size="sm")
    parts["own_image"] = gr.State()


def form(parts: Parts, loaded: Loaded, form: Form, enhancing: Enhancing) -> None:
    """Add the prompt, the number of images, the buttons, and all other settings folded."""
    parts["link_notice"] = gr.HTML(elem_id="brought", visible=False, padding=False)
    parts["prompt"] = gr.Textbox(
        label="Where should it be?", placeholder="wearing a red hat on the beach", lines=1, max_lines=6,
        elem_id="prompt",
    )  # fmt: skip
    parts["unknown"] = gr.HTML(elem_id="unknown-words", visible=False, padding=False)
    _description(parts, enhancing)
    parts["count"] = gr.Slider(*RANGES["count"], 1, step=1, label="Number of images", elem_id="count")
    with gr.Row():
        parts["create"] = gr.Button("Create", variant="primary", elem_id="create", scale=3, min_width=120)
        parts["cancel"] = gr.Button("Cancel", interactive=False, elem_id="cancel", scale=1, min_width=90)
    parts["cost"] = gr.HTML(elem_id="cost", padding=False)  # filled in when a page opens
    with gr.Accordion("More settings", open=False, elem_id="advanced"):
        _settings(parts, loaded, form)
        _link(parts)


def _description(parts: Parts, enhancing: Enhancing) -> None:
    with gr.Accordion("Describe my image for me", open=False, elem_id="describe"):
        gr.HTML(enhancing.about(), padding=False)
        able = enhancing.trouble is None
        parts["describe"] = gr.Button("Describe it", size="sm", visible=able, elem_id="describe-it")
        parts["describe_remark"] = gr.HTML(padding=False, elem_id="describe-remark")
        text = {"label": "Suggested prompt", "lines": 2, "max_lines": 6}
        parts["suggestion"] = gr.Textbox(visible=False, elem_id="suggestion", **text)
        use = {"size": "sm", "elem_id": "use-suggestion"}
        parts["use_suggestion"] = gr.Button("Use this as my prompt", visible=False, **use)


def _settings(parts: Parts, loaded: Loaded, form: Form) -> None:
    default = Options(prompt=NO_PROMPT)
    choices = [(QUALITY[name], name) for name in QUALITIES]
    parts["quality"] = gr.Radio(choices, value=default.quality, label="Quality", elem_id="quality")
    values = {"steps": default.loop.steps, "guidance": DEFAULT_GUIDANCE}
    for name, (step, label, info) in SLIDERS.items():
        if name == "guidance" and not form.has_guidance:
            parts[name] = gr.State(None)  # cannot be set, neither here nor by a program
            continue
        value = values.get(name, getattr(default, name))
        parts[name] = gr.Slider(*RANGES[name], value, step=step, label=label, info=info, elem_id=name)
    seed(parts, "The same seed and settings give the same image; -1 takes a new one.")
    side = loaded.pipe.frame_size
    with gr.Row():
        for name in ("width", "height"):
            parts[name] = gr.Slider(*loaded.side_range, side, step=16, label=name.capitalize(), min_width=120)
    fits = [("Crop to fill", "crop"), ("Keep all, add white", "pad")]
    parts["fit"] = gr.Radio(fits, value=default.fit, label="Fitting your image")


def seed(parts: Parts, info: str) -> None:
    """Add the seed, and whether it is only used once."""
    with gr.Row():
        parts["seed"] = gr.Number(None, label="Seed", min_width=120, info=info)
        parts["new_seed"] = gr.Checkbox(True, label="New seed each time", min_width=120)


def _link(parts: Parts) -> None:
    parts["make_link"] = gr.Button("Copy link", size="sm", elem_id="link-make")
    parts["link"] = gr.Textbox(
        label="Link", info="It carries the prompt and these settings, never your image.", lines=1,
        max_lines=1, interactive=False, buttons=["copy"], visible=False, elem_id="link",
    )  # fmt: skip
    parts["link_remark"] = gr.HTML(elem_id="link-remark", padding=False)
    parts["address"] = gr.Textbox(visible=False)  # of the page: the browser fills it in


def results(parts: Parts) -> None:
    """Add the images and, on request, the reference as the model redrew it beside them."""
    status = messages.idle("Your images will appear here.")
    parts["status"] = gr.HTML(status, elem_id="status", padding=False)
    look = {
        "columns": 2, "format": "png", "interactive": False, "object_fit": "contain", "height": "auto",
        "scale": 1, "min_width": 220, "elem_classes": FRAME,
    }  # fmt: skip
    with gr.Row(equal_height=False):
        buttons = ["download", "fullscreen"]
        parts["images"] = gr.Gallery(
            label="Result", type="filepath", buttons=buttons, elem_id="images", **look
        )
        label = "Your image, redrawn"
        parts["redrawn"] = gr.Gallery(label=label, buttons=[], visible=False, elem_id="redrawn", **look)
    parts["show_redrawn"] = gr.Checkbox(
        False, label="Show your image as the model redrew it", elem_id="show-redrawn",
        info="The model draws your image again beside the new one. "
        "Where that copy is wrong, the result will be too.",
    )  # fmt: skip


def history(parts: Parts) -> None:
    """Add all images of this visit, hidden until there is one, and the panel of the picked image."""
    parts["visit"] = gr.State(Visit())
    with gr.Column(visible=False, elem_id="history") as parts["history"]:
        about = "Only you see them here, and only until you close or reload this page. "
        about = messages.quiet(f"{about}Pick one to look at it again.")
        gr.HTML(f"<h3>Your images of this visit</h3>{about}", padding=False, elem_id="history-title")
        parts["strip"] = gr.Gallery(
            show_label=False, container=False, height="auto", interactive=False, allow_preview=False,
            buttons=[], object_fit="contain", format="png", elem_id="history-strip", elem_classes=FRAME,
        )  # fmt: skip
        with gr.Column(visible=False, elem_id="history-panel") as parts["panel"]:
            _panel(parts)


def _panel(parts: Parts) -> None:
    with gr.Column() as parts["pair"]:
        parts["slider"] = gr.ImageSlider(
            format="png", interactive=False, buttons=["fullscreen"], max_height=420,
            elem_id="history-slider", elem_classes="dsd-frame",
        )  # fmt: skip
        label = "Where the two meet"  # a slider, because the handle on the image needs a mouse or a finger
        parts["position"] = gr.Slider(0, 100, 50, step=1, label=label, buttons=[], elem_id="history-position")
    parts["against"] = gr.Radio(
        [("Its reference", REFERENCE), ("The one picked before", BEFORE)], value=REFERENCE,
        label="Compare with", visible=False, elem_id="history-against",
    )  # fmt: skip
    parts["about"] = gr.HTML(padding=False, elem_id="history-about")
    with gr.Row():
        look = {"size": "sm", "min_width": 140}
        parts["reuse"] = gr.Button("Use these settings", elem_id="history-reuse", **look)
        parts["refer"] = gr.Button("Use as reference", elem_id="history-refer", **look)


def examples(parts: Parts, folder: Path) -> None:
    """Add the rows of `examples.json`, [{"image": "name.png", "prompt": "..."}]; a click fills the form."""
    listing = folder / "examples.json"
    rows = json.loads(listing.read_text(encoding="utf-8")) if listing.exists() else []
    if not rows:
        return
    gr.set_static_paths(folder)  # served in place, not copied for every visitor
    gr.Markdown("### Or try one of these", elem_classes="dsd-heading")
    gallery = gr.Gallery(
        [(str(folder / row["image"]), row["prompt"]) for row in rows], show_label=False, container=False,
        columns=8, height="auto", interactive=False, allow_preview=False, buttons=[],
        object_fit="contain", elem_id="examples", elem_classes=FRAME,
    )  # fmt: skip

    def fill(event: gr.SelectData) -> tuple[str, str]:
        return gallery.value[event.index]["image"]["path"], rows[event.index]["prompt"]

    select = gallery.select(fill, None, [parts["image"], parts["prompt"]], **AT_ONCE)
    select.then(None, js='() => document.querySelector("#create").click()', **PRIVATE)
