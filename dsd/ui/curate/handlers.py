"""Event handlers of the Curate tab: a run's pairs at the visitor's thresholds, and the visitor's labels.

The run is read when the tab is first opened, and again when its files have changed. Labels are saved in the
run if it belongs to the user who started the app and is writable. Otherwise, as with the public sample run,
they stay with the visitor, who can download them.
"""

import html
import json
import os
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from threading import Lock
from typing import Any

import gradio as gr

from dsd.curation import judge as curation
from dsd.curation import review
from dsd.curation.review import Decisions, Review
from dsd.curation.verdict import DROP, KEEP, REASONS, SAME, Thresholds
from dsd.files import jsonl
from dsd.files.jsonl import Row, RunError
from dsd.ui.curate import cards as curate_cards
from dsd.ui.curate import judged
from dsd.ui.generate.handlers import whole
from dsd.ui.loaded import Wheel
from dsd.ui.messages import explained, notice, problem

CARDS = 6  # per page
OPEN = "secondary"  # variant of a button that is not chosen
NO_RUN = (
    "There is no run to look through. Start the app with one: python app.py --run FOLDER, where FOLDER is "
    "what python -m train.curate has judged."
)
SAVED = "Your labels are saved in the run's folder as you click, beside the judge's verdicts (labels.jsonl)."
SAMPLE = (
    "This is the sample run that comes with the project, and it stays as it is: your labels live on this "
    "page until you reload it. Download them to keep them."
)
READ_ONLY = (
    "This run's folder cannot be written to: your labels live on this page until you reload it. Download "
    "them to keep them."
)
Said = dict[str, Row]  # pair id -> the visitor's own label, if it is not saved in the run


class Curating:
    """Event handlers for one run."""

    def __init__(self, wheel: Wheel) -> None:
        self.run, self.own = wheel.run, wheel.own
        self._lock, self._read, self._review = Lock(), None, None

    # ------------------------------------------------------------ the run

    @property
    def saves(self) -> bool:
        """Return whether labels are saved in the run."""
        return self.own and self.run is not None and os.access(self.run, os.W_OK)

    def where(self) -> str:
        """Return the notice that tells visitors where labels are saved."""
        if self.run is None:
            return problem(NO_RUN)
        return notice(SAVED if self.saves else READ_ONLY if self.own else SAMPLE)

    def review(self) -> Review:
        """Return the run as it was when the tab was last opened; raise RunError if there is none to show."""
        return self._review or self._read_again()

    def _read_again(self) -> Review:
        if self.run is None:
            raise RunError(NO_RUN)
        with self._lock:
            if self._read != (now := review.changed(self.run)):
                self._review, self._read = review.open_review(self.run), now
            return self._review

    def labels(self, said: Said) -> dict[str, str]:
        """Return the labels by pair id: the run's if they are saved there, else the visitor's."""
        if self.saves:
            return curation.labels(self.run)
        return {name: row["label"] for name, row in said.items()}

    # ------------------------------------------------------------ events; `dsd.ui.curate.tab` names outputs

    def open(self, opened: bool, said: Said) -> tuple[Any, ...]:
        """Open the tab; the first time, set the sliders to the run's own thresholds.

        Returns (opened, body, message, floor, ceiling, minimum score, labels at this time).
        """
        try:
            own, labels = self._read_again().thresholds, self.labels(said)
        except Exception as error:  # the page must always get an answer
            hidden = gr.Row(visible=False)
            return False, hidden, problem(explained(error)), *[gr.skip()] * 3, gr.skip()
        if opened:
            return True, gr.skip(), gr.skip(), *[gr.skip()] * 3, gr.skip()
        low = min(0.0, own.floor)
        sliders = (
            gr.Slider(minimum=low, value=own.floor),
            gr.Slider(minimum=low, value=own.ceiling),
            gr.Slider(value=own.minimum_score),
        )
        return True, gr.Row(visible=True), self.where(), *sliders, labels

    def own_thresholds(self) -> tuple[float, float, int]:
        """Return the run's own thresholds for the sliders."""
        own = self.review().thresholds
        return own.floor, own.ceiling, own.minimum_score

    def thresholds(self, floor: float, ceiling: float, minimum: float) -> Thresholds:
        """Return the visitor's thresholds with the run's votes; raise ValueError if floor > ceiling."""
        own = self.review().thresholds
        if floor > ceiling:
            raise ValueError(f"the least similarity, {floor:g}, is above the greatest, {ceiling:g}: lower it")
        return Thresholds(
            floor=floor, ceiling=ceiling, minimum_score=whole(minimum), needed=own.needed, votes=own.votes
        )

    def view(
        self,
        floor: float,
        ceiling: float,
        minimum: float,
        show: str,
        page: float,
        known: Mapping[str, str],
        shown: list[str],
        said: Said,
    ) -> tuple[Any, ...]:
        """Return the view for these thresholds, this filter and this page number.

        `known` holds the labels from when the filter was set, so that pages do not shift during labeling.
        `shown` holds the ids on the cards now. Returns (rates, agreement, filter, page, position, ids,
        *cards).
        """
        try:
            found, thresholds = self.review(), self.thresholds(floor, ceiling, minimum)
            decided, labels = found.decided(thresholds), self.labels(said)
        except Exception as error:
            return problem(explained(error)), *[gr.skip()] * (5 + 5 * CARDS)
        places = review.select(found, decided, show, known)
        page, pages, on_page = _page(places, page)
        ids = [found.pairs[place]["id"] for place in on_page]
        cards = [self._card(found, thresholds, i, on_page, shown, labels) for i in range(CARDS)]
        return (
            self._rates(found, decided, thresholds),
            curate_cards.agreement(review.agreement(found, decided, labels)),
            gr.Dropdown(choices=_filters(decided)),
            gr.Number(value=page, maximum=pages),
            _position(len(places), page, pages),
            ids,
            *(update for card in cards for update in card),
        )

    def _rates(self, found: Review, decided: Decisions, thresholds: Thresholds) -> str:
        was = sum(verdict == KEEP for verdict, _ in found.decided(found.thresholds))
        command = review.command(found, thresholds) if self.own else None
        return curate_cards.rates(review.counts(decided), was, command)

    def _card(
        self,
        found: Review,
        thresholds: Thresholds,
        index: int,
        places: list[int],
        shown: list[str],
        labels: Mapping[str, str],
    ) -> tuple[Any, ...]:
        """Return (card, images, words, accept, reject); images that are already shown are not sent again."""
        if index >= len(places):
            return gr.Column(visible=False), "", "", gr.skip(), gr.skip()
        pair = found.pairs[places[index]]
        there = index < len(shown) and shown[index] == pair["id"]
        return (
            gr.Column(visible=True),
            gr.skip() if there else _images(found, pair),
            _words(pair, found.decided(thresholds)[places[index]], thresholds.minimum_score),
            *_buttons(labels.get(pair["id"])),
        )

    def label(
        self, index: int, verdict: str, shown: list[str], said: Said, *sliders: float
    ) -> tuple[Any, ...]:
        """Label the pair on a card; return (accept, reject, agreement, the visitor's labels)."""
        if index >= len(shown):
            return (gr.skip(),) * 4
        try:
            if self.saves:
                with self._lock:  # the file allows one writer at a time, and clicks arrive in threads
                    curation.label(self.run, shown[index], verdict)
            else:
                time = datetime.now(UTC).isoformat(timespec="seconds")
                row = {"id": shown[index], "label": verdict, "time": time}
                said = {**said, shown[index]: row}
        except ValueError as error:
            gr.Warning(html.escape(explained(error)), title="Not saved")
            return (gr.skip(),) * 4
        return *_buttons(verdict), self.agreement(said, *sliders), said

    def agreement(self, said: Said, *sliders: float) -> str:
        """Return how well the labels agree with the judge at these thresholds, as HTML."""
        try:
            found = self.review()
            decided = found.decided(self.thresholds(*sliders))
        except ValueError as error:
            return problem(explained(error))
        return curate_cards.agreement(review.agreement(found, decided, self.labels(said)))

    def export(self, said: Said) -> str:
        """Return the labels as the lines of a `labels.jsonl`, each with the run's own verdict."""
        given = said
        if self.saves:
            given = {row["id"]: row for row in jsonl.read(self.run / "labels.jsonl")}
        if not given:
            gr.Warning("Accept or reject a pair first.", title="There are no labels yet")
            return ""
        pairs = {pair["id"]: pair for pair in self.review().pairs if pair["id"] in given}
        return "".join(_line(row, pairs.get(name)) for name, row in given.items())


def _page(places: list[int], page: float | None) -> tuple[int, int, list[int]]:
    """Return the page number within bounds, the number of pages, and the items on the page."""
    pages = max(1, -(-len(places) // CARDS))
    number = min(max(1, int(page or 1)), pages)
    return number, pages, places[CARDS * (number - 1) : CARDS * number]


def _line(label: Row, pair: Row | None) -> str:
    machine = {"verdict": pair["verdict"], "reason": pair["reason"]} if pair else {}
    return json.dumps({**label, **machine}, ensure_ascii=False) + "\n"


def _images(found: Review, pair: Row) -> str:
    try:
        places = found.grids.get(pair["grid"], {}).get("places", [])
        return curate_cards.images(*review.images(found, pair), pair, places)
    except (ValueError, KeyError) as error:  # one damaged file must not hide the others
        return problem(explained(error) if isinstance(error, ValueError) else f"the grid's row lacks {error}")


def _words(pair: Row, decision: tuple[str, str], minimum: int) -> str:
    try:
        return curate_cards.words(pair, decision, minimum)
    except (ValueError, TypeError, KeyError):
        return problem(f"the row of pair {pair['id']} cannot be shown: it was edited")


def _buttons(label: str | None) -> tuple[gr.Button, gr.Button]:
    return (
        gr.Button("Accepted ✓", variant="primary") if label == KEEP else gr.Button("Accept", variant=OPEN),
        gr.Button("Rejected ✗", variant="stop") if label == DROP else gr.Button("Reject", variant=OPEN),
    )


def _filters(decided: Decisions) -> list[tuple[str, str]]:
    """Return the filter's choices, each kind of pair with its count."""
    counts = Counter(reason for _, reason in decided)
    total, kept = len(decided), counts[SAME]
    return [
        (f"All pairs ({total:,})", review.ALL),
        (f"Kept ({kept:,})", KEEP),
        (f"Dropped ({total - kept:,})", DROP),
        *((f"Dropped: {judged.WORDS[reason]} ({counts[reason]:,})", reason) for reason in REASONS[1:]),
        ("Without your label", review.UNLABELLED),
        ("With your label", review.LABELLED),
        ("You and the judge disagree", review.DISAGREE),
    ]


def _position(count: int, page: int, pages: int) -> str:
    if not count:
        return '<p class="dsd-quiet">There are no such pairs.</p>'
    first, last = CARDS * (page - 1) + 1, min(CARDS * page, count)
    return f'<p class="dsd-quiet">Pairs {first:,} to {last:,} of {count:,} · page {page:,} of {pages:,}</p>'
