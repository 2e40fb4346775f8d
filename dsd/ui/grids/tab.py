"""The Grids tab: its layout and its events; the work is in `handlers`."""

import gradio as gr
from gradio.blocks import Block

from dsd.grids.recipes import CRITTERS
from dsd.pocket.world import ACCESSORIES, ACCESSORY_COLORS, COLORS, EARS, LIGHTS, PATTERNS, SCENES, SHAPES
from dsd.ui import events, messages
from dsd.ui.events import AT_ONCE, LATEST, PRIVATE, Parts
from dsd.ui.generate import layout
from dsd.ui.generate.layout import FRAME
from dsd.ui.grids.examples import EXAMPLES
from dsd.ui.grids.handlers import PLACES, REMARKS, WHERE, DrawingGrids, finish
from dsd.ui.models import Wheel


def build(wheel: Wheel) -> None:
    """Add the tab to the page under construction; the models are opened for the first grid."""
    gr.Markdown(
        "The model draws one subject in four places, and a judge compares the four panels two by two. "
        "Panels that truly show the same one become training pairs: from them a model learns to keep a "
        "subject without a single photograph.",
        elem_classes="dsd-introduction",
    )
    gr.HTML(messages.quiet(wheel.about), padding=False, elem_classes="dsd-flush")
    with gr.Row(equal_height=False, elem_classes="dsd-columns"):
        with gr.Column(scale=5, min_width=320):
            parts = _form(wheel)
        with gr.Column(scale=6, min_width=320):
            parts |= _results()
    _wire(parts, DrawingGrids(wheel))


def _form(wheel: Wheel) -> Parts:
    examples, parts = EXAMPLES[wheel.recipe.name], Parts()
    subject_hint, place_hints = examples[0]
    look = {"lines": 1, "max_lines": 3, "elem_id": "grid-subject"}
    parts["subject"] = gr.Textbox(label="Who or what?", placeholder=subject_hint, **look)
    parts["subject_remark"] = gr.HTML(elem_id="grid-subject-remark", visible=False, padding=False)
    parts["examples"] = gr.Dataset(
        components=["textbox"], samples=[[subject] for subject, _ in examples], type="index",
        label="Or start from one of these", elem_id="grid-examples",
    )  # fmt: skip
    parts["surprise"] = gr.Button("Surprise me", size="sm", elem_id="grid-surprise")
    with gr.Group(elem_id="grid-places"):
        for row in ((0, 1), (2, 3)):
            with gr.Row():
                for panel in row:
                    words = {"label": WHERE[panel], "placeholder": place_hints[panel]}
                    parts[PLACES[panel]] = gr.Textbox(**words, lines=1, max_lines=3, min_width=130)
    parts["place_remark"] = gr.HTML(elem_id="grid-place-remark", visible=False, padding=False)
    parts["unknown"] = gr.HTML(elem_id="grid-unknown", visible=False, padding=False)
    if wheel.recipe is CRITTERS:
        with gr.Accordion("The words it knows", open=False):
            gr.HTML(_known_words(), padding=False)
    with gr.Row():
        look = {"variant": "primary", "scale": 3, "min_width": 130}
        parts["draw"] = gr.Button("Draw the grid", elem_id="grid-draw", **look)
        parts["cancel"] = gr.Button("Cancel", interactive=False, elem_id="grid-cancel", scale=1, min_width=90)
    parts["setting_remark"] = gr.HTML(elem_id="grid-setting-remark", visible=False, padding=False)
    with gr.Accordion("More settings", open=False):
        info = f"{layout.NEW_SEED} The same seed and words give the same grid."
        layout.seed(parts, info, elem_id="grid-seed")
    return parts


def _known_words() -> str:
    """Return as HTML the words of the embedded model, which was trained on no others."""
    groups = {
        "Who": ["critter"], "Colors": COLORS, "Shapes": SHAPES, "Patterns": PATTERNS,
        "Ears, as in “with long ears”": EARS, "Where": SCENES, "With a": ACCESSORIES[1:],
        "whose color is": ACCESSORY_COLORS, "When": LIGHTS,
    }  # fmt: skip
    rows = "".join(f"<dt>{name}</dt> <dd>{', '.join(words)}</dd>" for name, words in groups.items())
    return f'<dl class="dsd-known">{rows}</dl>'


def _results() -> dict[str, Block]:
    """Add the grid, shown while it is drawn, then its panels and the facts about them."""
    return {
        "status": gr.HTML(messages.idle("The grid will appear here."), elem_id="grid-status", padding=False),
        "grid": gr.Image(
            label="The grid", format="png", interactive=False, buttons=["download", "fullscreen"],
            height=430, elem_id="grid-grid", elem_classes=FRAME,
        ),
        "panels": gr.Gallery(
            label="Cut into four panels", format="png", columns=4, height="auto", interactive=False,
            object_fit="contain", buttons=[], allow_preview=False, visible=False, elem_id="grid-panels",
            elem_classes=FRAME,
        ),
        "facts": gr.HTML(elem_id="grid-facts", padding=False),
        "told": gr.State(""),  # the facts as the server knows them
        "kept": gr.State(),  # the last finished grid
    }  # fmt: skip


def _wire(parts: Parts, work: DrawingGrids) -> None:
    fields = ["subject", *PLACES]
    parts["examples"].click(**parts.call(work.example, ["examples"], fields), **AT_ONCE)
    parts["surprise"].click(**parts.call(work.surprise, [], fields), **AT_ONCE)
    typed = [parts[name].change for name in fields]
    gr.on(typed, **parts.call(work.remark, fields, ["unknown"]), **LATEST, **AT_ONCE)
    shown = ["grid", "panels", "facts"]
    draw = parts.call(work.draw, [*fields, "seed"], ["status", *shown, "told", *REMARKS])
    ends = events.connect_run(parts, [parts["draw"].click, *(parts[name].submit for name in fields)], draw)
    for end in ends:
        end.then(None, js=events.TO_PROBLEM, **PRIVATE)
        end.then(**parts.call(finish, ["grid", "panels", "told", "kept"], [*shown, "kept"]), **AT_ONCE)
