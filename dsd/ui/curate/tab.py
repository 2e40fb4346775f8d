"""The Curate tab: its layout and its events; `handlers` has the event handlers."""

from collections.abc import Callable
from functools import partial, update_wrapper

import gradio as gr
from gradio.blocks import Block

from dsd.curation import review
from dsd.curation.verdict import DROP, KEEP, TOP_SCORE, Thresholds
from dsd.ui import messages
from dsd.ui.curate.handlers import CARDS, SLIDERS, Curating
from dsd.ui.events import AT_ONCE, Parts, scroll_to
from dsd.ui.models import Wheel

SAVE = """text => { if (!text) return;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], {type: "application/jsonl"}));
  link.download = "labels.jsonl"; link.click(); URL.revokeObjectURL(link.href); }"""
CARD = ("card", "images", "words", "accept", "reject")  # the parts of each card


def build(wheel: Wheel, tab: gr.Tab) -> None:
    """Add the tab to the page that is being built; the run is read when a visitor opens the tab."""
    gr.Markdown(
        "Any two panels of a grid make a pair. A judge decides which pairs show the same subject, and gives "
        "its reasons. Move the thresholds, read the reasons, and mark the pairs where you disagree.",
        elem_classes="dsd-introduction",
    )
    parts = Parts()
    parts["message"] = gr.HTML(messages.idle("Reading the run."), elem_id="curate-message", padding=False)
    with gr.Row(equal_height=False, visible=False, elem_classes="dsd-columns") as parts["body"]:
        with gr.Column(scale=4, min_width=300, elem_classes="dsd-aside"):
            with gr.Column(elem_classes="dsd-limits"):
                parts |= _limits()
            with gr.Column(elem_classes="dsd-opinion"):
                parts |= _opinion()
        with gr.Column(scale=8, min_width=320):
            parts |= _pages()
    # `known`: the labels when the filter was set. `shown`: the pair ids on the cards.
    states = {"is_open": False, "known": {}, "shown": [], "own_labels": {}}
    parts |= {name: gr.State(value) for name, value in states.items()}
    _wire(parts, Curating(wheel), tab)


def _limits() -> dict[str, Block]:
    default = Thresholds()
    return {
        "rates": gr.HTML(elem_id="curate-rates", padding=False),
        "floor": gr.Slider(
            0, 1, default.floor, step=0.01, label="Minimum similarity",
            info="Below this value, two images cannot show the same subject.", buttons=[],
            elem_id="curate-floor",
        ),
        "ceiling": gr.Slider(
            0, 1, default.ceiling, step=0.01, label="Maximum similarity",
            info="Above this value, two images are nearly identical, and such pairs teach copying.",
            buttons=[], elem_id="curate-ceiling",
        ),
        "minimum": gr.Slider(
            0, TOP_SCORE, default.minimum_score, step=1, label="Minimum score of each part",
            info="0 means not alike at all, 4 means exactly alike.", buttons=[], elem_id="curate-minimum",
        ),
        "reset": gr.Button("Reset to the run's own thresholds", size="sm"),
    }  # fmt: skip


def _opinion() -> dict[str, Block]:
    gr.Markdown("### You and the judge", elem_classes="dsd-heading")
    return {
        "agreement": gr.HTML(elem_id="curate-agreement", padding=False),
        "download": gr.Button("Download my labels", size="sm", elem_id="curate-download"),
        "text": gr.Textbox(visible=False),
    }


def _pages() -> dict[str, Block]:
    parts: dict[str, Block] = {
        "show": gr.Dropdown(
            choices=[("All pairs", review.ALL), ("Kept", KEEP)], value=review.ALL, label="Show",
            elem_id="curate-show", filterable=False,
        ),
        "position": gr.HTML(elem_id="curate-position", padding=False),
    }  # fmt: skip
    with gr.Row(elem_classes="dsd-cards"):
        for index in range(CARDS):
            parts |= _card(index)
    with gr.Row(elem_classes="dsd-pages"):
        parts["back"] = gr.Button("← Previous", size="sm", min_width=100, elem_id="curate-back")
        parts["page"] = gr.Number(
            1, label="Page", show_label=False, container=False, precision=0, minimum=1, min_width=70,
            elem_id="curate-page",
        )  # fmt: skip
        parts["forth"] = gr.Button("Next →", size="sm", min_width=100, elem_id="curate-forth")
    return parts


def _card(index: int) -> dict[str, Block]:
    with gr.Column(visible=False, min_width=300, elem_classes="dsd-card", elem_id=f"pair-{index}") as card:
        blocks = [card, gr.HTML(padding=False), gr.HTML(padding=False)]
        with gr.Row():
            blocks += [gr.Button(name, size="sm", min_width=80) for name in ("Accept", "Reject")]
    return {f"{name}_{index}": block for name, block in zip(CARD, blocks, strict=True)}


def _wire(parts: Parts, work: Curating, tab: gr.Tab) -> None:
    def view_on(event: Callable) -> None:
        cards = [f"{name}_{index}" for index in range(CARDS) for name in CARD]
        inputs = [*SLIDERS, "show", "page", "known", "shown", "own_labels"]
        outputs = ["rates", "agreement", "show", "page", "position", "shown", *cards]
        event(**parts.call(work.view, inputs, outputs), trigger_mode="always_last", **AT_ONCE)

    outputs = ["is_open", "body", "message", *SLIDERS, "known"]
    view_on(tab.select(**parts.call(work.open, ["is_open", "own_labels"], outputs), **AT_ONCE).then)
    for name in SLIDERS:  # handlers also set sliders, but `input` fires only for the visitor
        view_on(parts[name].input)
    view_on(parts["reset"].click(**parts.call(work.own_thresholds, [], SLIDERS), **AT_ONCE).then)
    first_page = parts.call(work.first_page, ["own_labels"], ["page", "known"])
    view_on(parts["show"].input(**first_page, **AT_ONCE).then)
    page, js = parts["page"], scroll_to("#curate-show")
    view_on(page.submit)
    for name, step in (("back", -1), ("forth", 1)):
        view_on(parts[name].click(partial(_turn, step), page, page, js=js, **AT_ONCE).then)
    for index in range(CARDS):
        outputs = [f"accept_{index}", f"reject_{index}", "agreement", "own_labels"]
        for name, verdict in (("accept", KEEP), ("reject", DROP)):
            label = update_wrapper(partial(work.label, index, verdict), work.label)
            call = parts.call(label, ["shown", "own_labels", *SLIDERS], outputs)
            parts[f"{name}_{index}"].click(**call, **AT_ONCE)
    text = parts["text"]
    export = parts["download"].click(work.export, parts["own_labels"], text, **AT_ONCE)
    export.then(None, text, None, js=SAVE, **AT_ONCE)


def _turn(step: int, page: float | None) -> int:
    """Return the next or the previous page number; `view` limits it to the pages that exist."""
    return max(1, int(page or 1) + step)
