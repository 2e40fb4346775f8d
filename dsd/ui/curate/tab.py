"""The Curate tab: its layout and its events; `handlers` has the event handlers."""

from collections.abc import Callable
from functools import partial, update_wrapper
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.blocks import Block

from dsd.curation import review
from dsd.curation.verdict import KEEP, TOP_SCORE, Thresholds
from dsd.ui import messages
from dsd.ui.curate import results
from dsd.ui.curate.handlers import SLIDERS, Curating
from dsd.ui.events import AT_ONCE, Parts, scroll_to
from dsd.ui.models import Wheel

SAVE = """text => { if (!text) return;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], {type: "application/jsonl"}));
  link.download = "labels.jsonl"; link.click(); URL.revokeObjectURL(link.href); }"""
RECORD = """labels => { const cards = document.querySelector("#curate-cards [data-marked]");
  const row = JSON.parse(cards.dataset.marked); return {...labels, [row.id]: row}; }"""
KEYS = "Keys: S for same, D for different, arrows for the next pair. Click a pair or press Tab to begin."
# Not with {{}}: gradio would run scripts in what it fills in there.
TEMPLATE = '${value.map((end, card) => (begins[card] ?? "") + end).join("")}'


def build(wheel: Wheel, tab: gr.Tab) -> None:
    """Add the tab to the page that is being built; the run is read when a visitor opens the tab."""
    gr.Markdown(
        "Any two panels of a grid make a pair, and a judge decides which pairs show the same subject. "
        "Only those are kept, because a model that learns from the others learns to change its subject.",
        elem_classes="dsd-introduction",
    )
    with gr.Tabs():
        with gr.Tab("Pairs", id="pairs"):
            parts = _pairs()
        with gr.Tab("Results", id="results") as results_tab:
            results.build(wheel, results_tab)
    _wire(parts, Curating(wheel), tab)


def _pairs() -> Parts:
    parts = Parts()
    parts["message"] = gr.HTML(messages.idle("Reading the run."), elem_id="curate-message", padding=False)
    with gr.Row(equal_height=False, visible=False, elem_classes="dsd-columns") as parts["body"]:
        with gr.Column(scale=3, min_width=280, elem_classes="dsd-aside"):
            with gr.Column(elem_classes="dsd-limits"):
                parts |= _limits()
            with gr.Column(elem_classes="dsd-opinion"):
                parts |= _opinion()
        with gr.Column(scale=9, min_width=320):
            parts |= _pages()
    # What a visitor's page knows is kept in the page itself: gradio forgets the states of old sessions.
    # `known`: the labels when the filter was set. `shown`: the pair ids on the cards.
    memory = {"is_open": False, "known": {}, "shown": [], "own_labels": {}}
    parts |= {name: gr.JSON(value, visible=False) for name, value in memory.items()}
    return parts


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
            0, TOP_SCORE, default.minimum_score, step=1, label="Minimum score of each trait",
            info="0 means not alike at all, 4 means exactly alike.", buttons=[], elem_id="curate-minimum",
        ),
        "reset": gr.Button("Reset to the run's own thresholds", size="sm"),
    }  # fmt: skip


def _opinion() -> dict[str, Block]:
    gr.Markdown("## You and the judge", elem_classes="dsd-heading")
    return {
        "agreement": gr.HTML(elem_id="curate-agreement", padding=False),
        "download": gr.Button("Download my labels", size="sm", elem_id="curate-download"),
        "download_remark": gr.HTML(visible=False, padding=False, elem_id="curate-download-remark"),
        "text": gr.Textbox(visible=False),
    }


def _pages() -> dict[str, Block]:
    parts: dict[str, Block] = {
        "show": gr.Dropdown(
            choices=[("All pairs", review.ALL), ("Kept", KEEP)], value=review.ALL, label="Show",
            elem_id="curate-show", filterable=False,
        ),
        "position": gr.HTML(elem_id="curate-position", padding=False),
        "keys": gr.HTML(messages.quiet(KEYS), padding=False, elem_classes="dsd-flush dsd-keys"),
        "cards": gr.HTML(
            [], begins=[], refused=None, html_template=TEMPLATE, elem_id="curate-cards", padding=False,
            apply_default_css=False, js_on_load=Path(__file__).with_name("cards.js").read_text("utf-8"),
        ),
    }  # fmt: skip
    with gr.Row(elem_classes="dsd-pages"):
        parts["back"] = gr.Button("← Previous", size="sm", min_width=100, elem_id="curate-back")
        parts["page"] = gr.Number(
            1, label="Page", show_label=False, container=False, precision=0, min_width=70,
            elem_id="curate-page",
        )  # fmt: skip
        parts["forth"] = gr.Button("Next →", size="sm", min_width=100, elem_id="curate-forth")
    return parts


def _wire(parts: Parts, work: Curating, tab: gr.Tab) -> None:
    outputs = ["is_open", "body", "message", *SLIDERS, "known"]
    _view_on(
        parts, work, tab.select(**parts.call(work.open, ["is_open", "own_labels"], outputs), **AT_ONCE).then
    )
    for name in SLIDERS:  # handlers also set sliders, but `input` fires only for the visitor
        _view_on(parts, work, parts[name].input)
    reset = parts["reset"].click(**parts.call(work.own_thresholds, [], SLIDERS), **AT_ONCE)
    _view_on(parts, work, reset.then)
    first_page = parts.call(work.first_page, ["own_labels"], ["page", "known"])
    _view_on(parts, work, parts["show"].input(**first_page, **AT_ONCE).then)
    _view_on(parts, work, parts["page"].submit)
    for name, step in (("back", -1), ("forth", 1)):
        turn = parts.call(update_wrapper(partial(work.turn, step), work.turn), ["page"], ["page"])
        _view_on(parts, work, parts[name].click(**turn, js=scroll_to("#curate-show"), **AT_ONCE).then)
    _label_on(parts, work)
    text = parts["text"]
    said = [text, parts["download_remark"]]
    export = parts["download"].click(work.export, parts["own_labels"], said, **AT_ONCE)
    export.then(None, text, None, js=SAVE, **AT_ONCE)


def _view_on(parts: Parts, work: Curating, event: Callable) -> None:
    inputs = [*SLIDERS, "show", "page", "known", "shown", "own_labels"]
    outputs = ["rates", "agreement", "show", "page", "position", "shown", "cards"]
    event(**parts.call(work.view, inputs, outputs), trigger_mode="always_last", **AT_ONCE)


def _label_on(parts: Parts, work: Curating) -> None:
    """Record a label in the page at once, then on the server; two in a hurry must not lose one."""
    inputs, options = ["own_labels", *SLIDERS], {"trigger_mode": "multiple", **AT_ONCE}

    def label(
        mark: gr.EventData, own_labels: Any, floor: Any, ceiling: Any, minimum: Any
    ) -> dict[Block, Any]:
        values = dict(zip(inputs, (own_labels, floor, ceiling, minimum), strict=True))
        return parts.updates(work.label(mark.pair, mark.label, values))

    parts["cards"].mark(None, parts["own_labels"], parts["own_labels"], js=RECORD, **options)
    call = parts.named(inputs, ["agreement", "cards"])
    parts["cards"].mark(label, **call, preprocess=False, **options)
