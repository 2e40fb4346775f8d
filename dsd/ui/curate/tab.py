"""Events of the Curate tab; the layout is in `dsd.ui.curate.layout`, the work in `handlers`."""

from functools import partial

import gradio as gr

from dsd.curation.verdict import DROP, KEEP
from dsd.ui.curate import layout
from dsd.ui.curate.handlers import Curating
from dsd.ui.curate.layout import Limits, Opinion, Pages
from dsd.ui.events import AT_ONCE, scroll_to
from dsd.ui.loaded import Wheel

SAVE = """text => { if (!text) return;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], {type: "application/jsonl"}));
  link.download = "labels.jsonl"; link.click(); URL.revokeObjectURL(link.href); }"""


def build(wheel: Wheel, tab: gr.Tab) -> None:
    """Add the tab to the page under construction; the run is read when a visitor opens the tab."""
    work = Curating(wheel)
    message = layout.introduction()
    with gr.Row(equal_height=False, visible=False, elem_classes="dsd-columns") as body:
        with gr.Column(scale=4, min_width=300, elem_classes="dsd-aside"):
            with gr.Column(elem_classes="dsd-limits"):
                limits = layout.limits()
            with gr.Column(elem_classes="dsd-opinion"):
                opinion = layout.opinion()
        with gr.Column(scale=8, min_width=320):
            pages = layout.pages()
    _Wiring(work, limits, opinion, pages).wire(tab, message, body)


class _Wiring:
    """The tab's event connections: each event updates the whole view or labels one card."""

    def __init__(self, work: Curating, limits: Limits, opinion: Opinion, pages: Pages) -> None:
        self.work, self.limits, self.opinion, self.pages = work, limits, opinion, pages
        self.opened, self.shown = gr.State(False), gr.State([])
        self.known, self.said = gr.State({}), gr.State({})  # labels when the filter was set, visitor's labels
        self.sliders = [limits.floor, limits.ceiling, limits.minimum]

    def wire(self, tab: gr.Tab, message: gr.HTML, body: gr.Row) -> None:
        """Connect all events."""
        self._wire_arrival(tab, message, body)
        self._wire_limits()
        self._wire_pages()
        self._wire_labels()
        opinion = self.opinion
        written = opinion.download.click(self.work.export, self.said, opinion.text, **AT_ONCE)
        written.then(None, opinion.text, None, js=SAVE, **AT_ONCE)

    def _view(self, event: object) -> None:
        """Update the whole view after `event`, or on it."""
        pages, cards = self.pages, [part for card in self.pages.cards for part in card]
        seen = [*self.sliders, pages.show, pages.page, self.known, self.shown, self.said]
        told = [self.limits.rates, self.opinion.agreement, pages.show, pages.page, pages.position, self.shown]
        event(self.work.view, seen, [*told, *cards], trigger_mode="always_last", **AT_ONCE)

    def _wire_arrival(self, tab: gr.Tab, message: gr.HTML, body: gr.Row) -> None:
        outputs = [self.opened, body, message, *self.sliders, self.known]
        self._view(tab.select(self.work.open, [self.opened, self.said], outputs, **AT_ONCE).then)

    def _wire_limits(self) -> None:
        # Programs set sliders too (`reset`, `open`), but `input` fires only for the visitor.
        for slider in self.sliders:
            self._view(slider.input)
        self._view(self.limits.reset.click(self.work.own_thresholds, None, self.sliders, **AT_ONCE).then)

    def _wire_pages(self) -> None:
        pages = self.pages
        chosen = pages.show.input(
            lambda said: (1, self.work.labels(said)), self.said, [pages.page, self.known], **AT_ONCE
        )
        self._view(chosen.then)
        self._view(pages.page.submit)
        for button, step in ((pages.back, -1), (pages.forth, 1)):
            js = scroll_to("#curate-show")
            turned = button.click(partial(_turned, step), pages.page, pages.page, js=js, **AT_ONCE)
            self._view(turned.then)

    def _wire_labels(self) -> None:
        for index, card in enumerate(self.pages.cards):
            for button, verdict in ((card.accept, KEEP), (card.reject, DROP)):
                button.click(
                    partial(self.work.label, index, verdict),
                    [self.shown, self.said, *self.sliders],
                    [card.accept, card.reject, self.opinion.agreement, self.said],
                    **AT_ONCE,
                )


def _turned(step: int, page: float | None) -> int:
    """Return the next or the previous page number; `view` limits it to the pages that exist."""
    return max(1, int(page or 1) + step)
