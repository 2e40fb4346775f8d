"""Event handlers of the Curate tab: a run's pairs at the visitor's thresholds, and the visitor's labels.

The run is read when the tab is opened and its files have changed. Labels are saved in the run if it belongs
to the user who started the app and is writable; otherwise, they stay in the visitor's page, from which they
can be downloaded. The server keeps no state of a visitor, because gradio drops the states of old sessions.
"""

import os
import time
from collections import Counter
from dataclasses import replace
from threading import Lock
from typing import Any

import gradio as gr

from dsd.curation import judge as curation
from dsd.curation import review
from dsd.curation.judge import Pair
from dsd.curation.review import Decisions, Review
from dsd.curation.verdict import DROP, KEEP, REASONS, SAME, Thresholds
from dsd.files import jsonl
from dsd.files.jsonl import Row, RunError
from dsd.ui.curate import cards, traits
from dsd.ui.events import Update
from dsd.ui.generate.handlers import whole
from dsd.ui.messages import explain, notice, problem, quiet, show
from dsd.ui.models import Wheel

CARDS = 24  # per page: even rows of 2, 3, 4 or 6
SLIDERS = ("floor", "ceiling", "minimum")
NO_RUN = (
    "There is no run to review. Start the app with one: python app.py --run FOLDER, where FOLDER is a run "
    "that python -m train.curate has judged."
)
SAVED = "Your labels are saved in the run's folder as you click, beside the judge's verdicts (labels.jsonl)."
NOT_SAVED = ": your labels stay on this page only until you reload it. Download them to keep them."
SAMPLE = "This is the sample run that comes with the project, and it cannot be changed" + NOT_SAVED
NO_LABELS = "Mark a pair as same or different first: there are no labels yet."
READ_ONLY = "This run's folder is not writable" + NOT_SAVED
Labels = dict[str, Row]  # pair id -> the visitor's own label, if it is not saved in the run


class Curating:
    def __init__(self, wheel: Wheel) -> None:
        self.run, self.own = wheel.run, wheel.own
        self._lock, self._state, self._review = Lock(), None, None

    @property
    def saves(self) -> bool:
        return self.own and self.run is not None and os.access(self.run, os.W_OK)

    def review(self) -> Review:
        """Return the run as it was when the tab was last opened; raise RunError if there is none to show."""
        return self._review or self._read_again()

    def _read_again(self) -> Review:
        if self.run is None:
            raise RunError(NO_RUN)
        with self._lock:
            if self._state != (state := review.state_of(self.run)):
                self._review, self._state = review.open_review(self.run), state
            return self._review

    def labels(self, own_labels: Labels) -> dict[str, str]:
        """Return the labels by pair id: the run's if they are saved there, else the visitor's."""
        if self.saves:
            return curation.labels(self.run)
        return {name: row["label"] for name, row in own_labels.items()}

    def thresholds(self, values: dict[str, Any]) -> Thresholds:
        """Return the sliders' thresholds with the run's votes; raise ValueError if floor > ceiling."""
        floor, ceiling, minimum = (values[name] for name in SLIDERS)
        if floor > ceiling:
            raise ValueError(f"the minimum similarity {floor:g} is above the maximum {ceiling:g}: lower it")
        limits = {"floor": floor, "ceiling": ceiling, "minimum_score": whole(minimum)}
        return replace(self.review().thresholds, **limits)

    # ------------------------------------------------------------ events; `dsd.ui.curate.tab` connects them

    def open(self, values: dict[str, Any]) -> Update:
        """Open the tab; the first time, set the sliders to the run's own thresholds."""
        try:
            own, labels = self._read_again().thresholds, self.labels(values["own_labels"])
        except Exception as error:  # the page must always get an answer
            return {"is_open": False, "body": gr.Row(visible=False), "message": problem(explain(error))}
        if values["is_open"]:
            return {"is_open": True}
        message, low = SAVED if self.saves else READ_ONLY if self.own else SAMPLE, min(0.0, own.floor)
        return {
            "is_open": True, "body": gr.Row(visible=True), "message": notice(message), "known": labels,
            "floor": gr.Slider(minimum=low, value=own.floor),
            "ceiling": gr.Slider(minimum=low, value=own.ceiling),
            "minimum": gr.Slider(value=own.minimum_score),
        }  # fmt: skip

    def own_thresholds(self) -> Update:
        own = self.review().thresholds
        return {"floor": own.floor, "ceiling": own.ceiling, "minimum": own.minimum_score}

    def first_page(self, values: dict[str, Any]) -> Update:
        """Go to the first page of a new filter; the filter uses the labels as they are now."""
        return {"page": 1, "known": self.labels(values["own_labels"])}

    def turn(self, step: int, values: dict[str, Any]) -> Update:
        """Go to the next or the previous page; `view` limits it to the pages that exist."""
        return {"page": _page_number(values["page"]) + step}

    def view(self, values: dict[str, Any]) -> Update:
        """Show one page of pairs for the given thresholds and filter.

        `known` holds the labels from when the filter was set, so that pages do not shift during labeling.
        `shown` holds the pair ids on the cards now, so that images already on the page are not sent again.
        """
        try:
            run, thresholds = self.review(), self.thresholds(values)
            decided, labels = run.decided(thresholds), self.labels(values["own_labels"])
            selected = review.select(run, decided, values["show"], values["known"])
        except Exception as error:
            return {"rates": problem(explain(error))}
        on_page, controls = _turn_to(selected, _page_number(values["page"]))
        own_count = review.counts(run.decided(run.thresholds))[SAME]
        command = review.command(run, thresholds) if self.own else None
        pairs = [run.pairs[index] for index in on_page]
        shown = [pair.id for pair in pairs]
        begins = {} if shown == values["shown"] else {"begins": _begin_cards(run, pairs)}
        ends = [
            cards.end(
                run.pairs[i],
                cards.words(run.pairs[i], decided[i], thresholds.minimum_score),
                labels.get(name),
            )
            for i, name in zip(on_page, shown, strict=True)
        ]
        return {
            "rates": cards.rates(review.counts(decided), own_count, command),
            "agreement": cards.agreement(review.agreement(run, decided, labels)),
            "show": gr.Dropdown(choices=_filters(decided, values["show"])),
            "shown": shown, "cards": gr.HTML(value=ends, **begins), **controls,
        }  # fmt: skip

    def label(self, pair_id: str, verdict: str, values: dict[str, Any]) -> Update:
        """Save a label and count it; the browser has recorded and shown it before."""
        own_labels = values["own_labels"]
        try:
            self._save(pair_id, verdict)
        except ValueError as error:
            before = self.labels(own_labels).get(pair_id) if self.saves else None
            # `at` makes a second refusal of the same label another value.
            refused = {"pair": pair_id, "label": before, "why": explain(error), "at": time.time()}
            return {"cards": gr.HTML(refused=refused)}
        try:
            decided = self.review().decided(self.thresholds(values))
            labels = {**self.labels(own_labels), pair_id: verdict}
            return {"agreement": cards.agreement(review.agreement(self.review(), decided, labels))}
        except ValueError as error:
            return {"agreement": problem(explain(error))}

    def _save(self, pair_id: str, verdict: str) -> None:
        """Save a label where labels are saved; raise ValueError for an unknown pair or label."""
        if all(pair.id != pair_id for pair in self.review().pairs):
            raise ValueError(f"pair {pair_id} is not in this run: reload the page")
        curation.new_label(pair_id, verdict)
        if self.saves:
            with self._lock:  # the file allows one writer at a time, and clicks arrive in threads
                curation.label(self.run, pair_id, verdict)

    def export(self, own_labels: Labels) -> tuple[str, gr.HTML]:
        """Return the labels as the text of a `labels.jsonl` file, each with the run's own verdict.

        Without labels, return what the visitor has to do first.
        """
        labels = own_labels
        if self.saves:
            labels = {row["id"]: row for row in jsonl.read(self.run / "labels.jsonl")}
        if not labels:
            return "", show(problem(NO_LABELS))
        verdicts = {pair.id: {"verdict": pair.verdict, "reason": pair.reason} for pair in self.review().pairs}
        lines = [jsonl.to_line({**row, **verdicts.get(name, {})}) for name, row in labels.items()]
        return b"".join(lines).decode(), show()


def _page_number(value: Any) -> int:
    """Return the page that a visitor typed, or 1 for anything but a number."""
    try:
        return int(value or 1)
    except (TypeError, ValueError, OverflowError):
        return 1


def _turn_to(selected: list[int], page: int) -> tuple[list[int], Update]:
    """Return the pairs on a page, or on the nearest one that exists, and what its controls show."""
    pages = max(1, -(-len(selected) // CARDS))
    page = min(max(1, page), pages)
    first, last = CARDS * (page - 1), min(CARDS * page, len(selected))
    position = f"Pairs {first + 1:,} to {last:,} of {len(selected):,} · page {page:,} of {pages:,}"
    position = quiet(position if selected else "No pairs match this filter.")
    return selected[first:last], {"page": page, "position": position}


def _begin_cards(run: Review, pairs: list[Pair]) -> list[str]:
    return [cards.begin(number, pair, _images(run, pair)) for number, pair in enumerate(pairs)]


def _images(run: Review, pair: Pair) -> str:
    try:
        first, second = review.images(run, pair)
        return cards.images(first, second, pair, run.grids[pair.grid].places)
    except ValueError as error:  # one damaged file must not hide the others
        return problem(explain(error))


def _filters(decided: Decisions, shown: str) -> list[tuple[str, str]]:
    """Return the choices of pairs to show: reasons that some pair has, and the one that is shown."""
    counts = Counter(reason for _, reason in decided)
    total, kept = len(decided), counts[SAME]
    return [
        (f"All pairs ({total:,})", review.ALL),
        (f"Kept ({kept:,})", KEEP),
        (f"Left out ({total - kept:,})", DROP),
        *(
            (f"Left out: {traits.WORDS[reason]} ({counts[reason]:,})", reason)
            for reason in REASONS[1:]
            if counts[reason] or reason == shown
        ),
        ("Not marked by you", review.UNLABELED),
        ("Marked by you", review.LABELED),
        ("You and the judge disagree", review.DISAGREE),
    ]
