"""Layout of the Grids tab; `dsd.ui.grids.tab` connects its events."""

from typing import NamedTuple

import gradio as gr

from dsd.grids.recipes import CRITTERS
from dsd.pocket.world import ACCESSORIES, ACCESSORY_COLORS, COLORS, EARS, PATTERNS, SCENES, SHAPES, shipped
from dsd.ui import messages
from dsd.ui.grids.handlers import EXAMPLES
from dsd.ui.loaded import Wheel

WHERE = ("Top left", "Top right", "Bottom left", "Bottom right")
FRAME = ["dsd-small-frame", "dsd-frame"]  # classes in style.css


class Form(NamedTuple):
    """The fields and buttons that say what to draw."""

    subject: gr.Textbox
    places: list[gr.Textbox]
    examples: gr.Dataset
    surprise: gr.Button
    draw: gr.Button
    cancel: gr.Button
    seed: gr.Number
    new_seed: gr.Checkbox


class Results(NamedTuple):
    """The drawn grid, its panels and the facts about it."""

    status: gr.HTML
    grid: gr.Image
    panels: gr.Gallery
    facts: gr.HTML


def introduction(wheel: Wheel) -> None:
    gr.Markdown(
        "Models learn to keep a subject from images like these: one grid, one subject, four places. "
        f"Panels that really show the same one become training pairs. {wheel.about}",
        elem_classes="dsd-introduction",
    )


def form(wheel: Wheel) -> Form:
    """Add the subject, the places in the layout of the grid, and the buttons."""
    first, *_ = EXAMPLES[wheel.recipe.name]
    subject = gr.Textbox(
        label="Who or what?", placeholder=first[0], lines=1, max_lines=3, elem_id="grid-subject"
    )
    examples = gr.Dataset(
        components=["textbox"], samples=[[subject] for subject, _ in EXAMPLES[wheel.recipe.name]],
        type="index", label="Or start from one of these", elem_id="grid-examples",
    )  # fmt: skip
    surprise = gr.Button("Surprise me", size="sm", elem_id="grid-surprise")
    with gr.Group():
        places = [
            place for start in (0, 2) for place in _row(WHERE[start : start + 2], first[1][start : start + 2])
        ]
    if wheel.recipe is CRITTERS:
        with gr.Accordion("The words it knows", open=False):
            gr.HTML(_known_words(), padding=False)
    with gr.Row():
        draw = gr.Button("Draw the grid", variant="primary", elem_id="grid-draw", scale=3, min_width=130)
        cancel = gr.Button("Cancel", interactive=False, elem_id="grid-cancel", scale=1, min_width=90)
    with gr.Accordion("More settings", open=False), gr.Row():
        seed = gr.Number(
            None, label="Seed", min_width=120,
            info="The same seed and words give the same grid; -1 takes a new one.",
        )  # fmt: skip
        new_seed = gr.Checkbox(True, label="New seed each time", min_width=120)
    return Form(subject, places, examples, surprise, draw, cancel, seed, new_seed)


def _known_words() -> str:
    """Return as HTML the words of the embedded model, which was trained on no others."""
    groups = {
        "Who": "critter", "Colors": COLORS, "Shapes": SHAPES, "Patterns": PATTERNS,
        "Ears, as in “with long ears”": EARS, "Where": SCENES, "With a": ACCESSORIES[1:],
        "whose color is": ACCESSORY_COLORS, "When": shipped().lights,
    }  # fmt: skip
    rows = "".join(
        f"<dt>{name}</dt> <dd>{words if isinstance(words, str) else ', '.join(words)}</dd>"
        for name, words in groups.items()
    )
    return f'<dl class="dsd-known">{rows}</dl>'


def _row(names: tuple[str, ...], hints: tuple[str, ...]) -> list[gr.Textbox]:
    with gr.Row():
        return [
            gr.Textbox(label=name, placeholder=hint, lines=1, max_lines=3, min_width=130)
            for name, hint in zip(names, hints, strict=True)
        ]


def results() -> Results:
    """Add the grid, shown while it is drawn, then its panels and the facts about them."""
    status = gr.HTML(messages.idle("The grid will appear here."), elem_id="grid-status", padding=False)
    grid = gr.Image(
        label="The grid", format="png", interactive=False, buttons=["download", "fullscreen"],
        height=430, elem_id="grid-grid", elem_classes=FRAME,
    )  # fmt: skip
    panels = gr.Gallery(
        label="Cut into four panels", format="png", columns=4, height="auto", interactive=False,
        object_fit="contain", buttons=[], allow_preview=False, visible=False, elem_id="grid-panels",
        elem_classes=FRAME,
    )  # fmt: skip
    return Results(status, grid, panels, gr.HTML(elem_id="grid-facts", padding=False))
