"""Layout of the visit's history; `dsd.ui.generate.tab` connects its events."""

from typing import NamedTuple

import gradio as gr

from dsd.ui.generate.history import BEFORE, REFERENCE, Visit
from dsd.ui.generate.layout import FRAME


class Panel(NamedTuple):
    """The picked image and its controls."""

    box: gr.Column
    pair: gr.Column
    slider: gr.ImageSlider
    position: gr.Slider
    against: gr.Radio
    about: gr.HTML
    reuse: gr.Button
    refer: gr.Button


class HistoryBox(NamedTuple):
    """All images of this visit, and the panel of the picked one."""

    visit: gr.State
    box: gr.Column
    strip: gr.Gallery
    panel: Panel


def history() -> HistoryBox:
    """Add the strip of images, hidden until there is an image."""
    visit = gr.State(Visit())
    with gr.Column(visible=False, elem_id="history") as box:
        gr.HTML(
            '<h3>Your images of this visit</h3><p class="dsd-quiet">Only you see them here, and only until '
            "you close or reload this page. Pick one to look at it again.</p>",
            padding=False,
            elem_id="history-title",
        )
        strip = gr.Gallery(
            show_label=False, container=False, height="auto", interactive=False,
            allow_preview=False, buttons=[], object_fit="contain", format="png", elem_id="history-strip",
            elem_classes=FRAME,
        )  # fmt: skip
        panel = _panel()
    return HistoryBox(visit, box, strip, panel)


def _panel() -> Panel:
    with gr.Column(visible=False, elem_id="history-panel") as box:
        with gr.Column() as pair:
            slider = gr.ImageSlider(
                format="png", interactive=False, buttons=["fullscreen"], max_height=420,
                elem_id="history-slider", elem_classes="dsd-frame",
            )  # fmt: skip
            position = gr.Slider(  # the handle on the image works only with a mouse or a finger
                0, 100, 50, step=1, label="Where the two meet", buttons=[], elem_id="history-position"
            )
        against = gr.Radio(
            [("Its reference", REFERENCE), ("The one picked before", BEFORE)], value=REFERENCE,
            label="Compare with", visible=False, elem_id="history-against",
        )  # fmt: skip
        about = gr.HTML(padding=False, elem_id="history-about")
        with gr.Row():
            reuse = gr.Button("Use these settings", size="sm", min_width=140, elem_id="history-reuse")
            refer = gr.Button("Use as reference", size="sm", min_width=140, elem_id="history-refer")
    return Panel(box, pair, slider, position, against, about, reuse, refer)
