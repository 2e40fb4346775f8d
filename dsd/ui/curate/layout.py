"""Layout of the Curate tab; `dsd.ui.curate.tab` connects its events."""

from typing import NamedTuple

import gradio as gr

from dsd.curation import review
from dsd.curation.verdict import KEEP, TOP_SCORE, Thresholds
from dsd.ui import messages
from dsd.ui.curate.handlers import CARDS


class Limits(NamedTuple):
    """The sliders for the thresholds that a pair must meet."""

    floor: gr.Slider
    ceiling: gr.Slider
    minimum: gr.Slider
    reset: gr.Button
    rates: gr.HTML


class Opinion(NamedTuple):
    """The agreement of the visitor's labels with the judge's verdicts."""

    agreement: gr.HTML
    download: gr.Button
    text: gr.Textbox


class Card(NamedTuple):
    """The components for one pair."""

    card: gr.Column
    images: gr.HTML
    words: gr.HTML
    accept: gr.Button
    reject: gr.Button


class Pages(NamedTuple):
    """The filter, the controls that turn pages, and the cards."""

    show: gr.Dropdown
    page: gr.Number
    back: gr.Button
    forth: gr.Button
    position: gr.HTML
    cards: list[Card]


def introduction() -> gr.HTML:
    """Add the introduction; return the message on where labels go or why there is nothing to show."""
    gr.Markdown(
        "Any two panels of a grid make a pair. A judge decides which pairs show the same subject, and says "
        "why. Move the limits, read its reasons, and say where you disagree.",
        elem_classes="dsd-introduction",
    )
    return gr.HTML(messages.idle("Reading the run."), elem_id="curate-message", padding=False)


def limits() -> Limits:
    """Add the thresholds as sliders and the keep rate that results from them."""
    rates = gr.HTML(elem_id="curate-rates", padding=False)
    default = Thresholds()
    floor = gr.Slider(
        0, 1, default.floor, step=0.01, label="Least similarity",
        info="Below it, two images cannot show the same subject.", buttons=[], elem_id="curate-floor",
    )  # fmt: skip
    ceiling = gr.Slider(
        0, 1, default.ceiling, step=0.01, label="Greatest similarity",
        info="Above it, they are the same image twice, which teaches copying.", buttons=[],
        elem_id="curate-ceiling",
    )  # fmt: skip
    minimum = gr.Slider(
        0, TOP_SCORE, default.minimum_score, step=1, label="Least score of every part",
        info="0 is not alike at all, 4 exactly alike.", buttons=[], elem_id="curate-minimum",
    )  # fmt: skip
    reset = gr.Button("Back to the run's own limits", size="sm")
    return Limits(floor, ceiling, minimum, reset, rates)


def opinion() -> Opinion:
    """Add the agreement of visitor and judge, and the download of the labels."""
    gr.Markdown("### You and the judge", elem_classes="dsd-heading")
    agreement = gr.HTML(elem_id="curate-agreement", padding=False)
    download = gr.Button("Download my labels", size="sm", elem_id="curate-download")
    return Opinion(agreement, download, gr.Textbox(visible=False))


def pages() -> Pages:
    """Add the filter, one page of cards, and the controls that turn pages."""
    show = gr.Dropdown(
        choices=[("All pairs", review.ALL), ("Kept", KEEP)], value=review.ALL, label="Show",
        elem_id="curate-show", filterable=False,
    )  # fmt: skip
    position = gr.HTML(elem_id="curate-position", padding=False)
    with gr.Row(elem_classes="dsd-cards"):
        cards = [_card(index) for index in range(CARDS)]
    with gr.Row(elem_classes="dsd-pages"):
        back = gr.Button("← Previous", size="sm", min_width=100, elem_id="curate-back")
        page = gr.Number(
            1, label="Page", show_label=False, container=False, precision=0, minimum=1, min_width=70,
            elem_id="curate-page",
        )  # fmt: skip
        forth = gr.Button("Next →", size="sm", min_width=100, elem_id="curate-forth")
    return Pages(show, page, back, forth, position, cards)


def _card(index: int) -> Card:
    with gr.Column(visible=False, min_width=300, elem_classes="dsd-card", elem_id=f"pair-{index}") as card:
        images, words = gr.HTML(padding=False), gr.HTML(padding=False)
        with gr.Row():
            accept = gr.Button("Accept", size="sm", min_width=80)
            reject = gr.Button("Reject", size="sm", min_width=80)
    return Card(card, images, words, accept, reject)
