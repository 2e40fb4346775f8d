"""Events of the Grids tab; the layout is in `dsd.ui.grids.layout`, the work in `handlers`."""

import gradio as gr

from dsd.ui import events
from dsd.ui.events import AT_ONCE, LANE, PRIVATE
from dsd.ui.grids import layout
from dsd.ui.grids.handlers import DrawingGrids
from dsd.ui.grids.layout import Form, Results
from dsd.ui.loaded import Wheel


def build(wheel: Wheel) -> None:
    """Add the tab to the page under construction; the models are opened for the first grid."""
    work = DrawingGrids(wheel)
    layout.introduction(wheel)
    with gr.Row(equal_height=False, elem_classes="dsd-columns"):
        with gr.Column(scale=5, min_width=320):
            form = layout.form(wheel)
        with gr.Column(scale=6, min_width=320):
            results = layout.results()
    _wire(form, results, work)


def _wire(form: Form, results: Results, work: DrawingGrids) -> None:
    fields = [form.subject, *form.places]
    form.examples.click(work.example, form.examples, fields, **AT_ONCE)
    form.surprise.click(work.surprise, None, fields, **AT_ONCE)
    begin = [form.draw.click, *(field.submit for field in fields)]
    gr.on(begin, events.running, None, form.cancel, js=events.scroll_to("#grid-status"), **AT_ONCE)
    run = gr.on(
        begin,
        work.draw,
        [*fields, form.seed, form.new_seed],
        [results.grid, results.panels, results.facts, results.status, form.seed],
        trigger_mode="once",
        show_progress="minimal",
        show_progress_on=results.status,
        **LANE,
        **PRIVATE,
    )
    run.then(events.idle, None, form.cancel, **AT_ONCE)
    events.cancels([run], form.cancel, results.status)
