"""Behind the Curate tab: what people say of a run's pairs, where it is kept, and whom it agrees with."""

import json
from pathlib import Path

import pytest

from dsd.curation import judge as curation
from dsd.curation.judge import Agreement
from dsd.curation.review import UNLABELED
from dsd.curation.verdict import DROP, KEEP, LOW
from dsd.files.jsonl import RunError
from dsd.ui.curate import cards as curate_cards
from dsd.ui.curate import handlers
from tests.wheel_page import OWN, cards, curating, ids, judged_run, label, opened, pressed, row, view


@pytest.fixture
def run(tmp_path) -> Path:
    return judged_run(tmp_path / "run")


def test_a_label_goes_into_ones_own_run_beside_the_machines_verdict(run):
    work, before = curating(run), (run / "pairs.jsonl").read_bytes()
    shown = ids(view(work))
    assert "0 of 1" in label(work, shown[1], KEEP)["agreement"]
    label(work, shown[0], KEEP), label(work, shown[1], DROP)
    assert curation.labels(run) == {shown[0]: KEEP, shown[1]: DROP}
    assert (run / "pairs.jsonl").read_bytes() == before
    again = curating(run)
    seen = view(again)
    assert [pressed(card) for card in cards(seen)[:3]] == [[KEEP], [DROP], []]
    assert "2 of 2" in seen["agreement"]


@pytest.mark.parametrize("own", [False, True], ids=["the sample", "a read-only run"])
def test_labels_of_a_run_that_is_not_to_be_written_to_stay_with_the_visitor(run, own, monkeypatch):
    if own:
        monkeypatch.setattr("os.access", lambda *_: False)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    work = curating(run, own=own)
    message, shown = opened(work)["message"], ids(view(work))
    assert "Download them" in message
    said = row(shown[0], KEEP)
    assert "1 of 2" in label(work, shown[1], KEEP, said)["agreement"]
    assert pressed(cards(view(work, said=said))[0]) == [KEEP]
    assert pressed(cards(view(work))[0]) == []  # another visitor sees none of it
    work.export(said)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("own", [True, False])
def test_the_export_is_a_labels_file_with_the_verdict_beside_each(run, tmp_path, own):
    work, said = curating(run, own=own), {}
    shown = ids(view(work))
    for index, verdict in ((0, DROP), (1, DROP), (0, KEEP)):
        said |= row(shown[index], verdict)
        label(work, shown[index], verdict, said)
    exported, remark = work.export(said)
    assert not remark.visible
    (tmp_path / "labels.jsonl").write_text(exported)
    assert curation.labels(tmp_path) == {shown[0]: KEEP, shown[1]: DROP}
    first, second = map(json.loads, exported.splitlines())
    assert (first["verdict"], second["reason"]) == (KEEP, "too alike") and first["time"]


def test_with_no_labels_there_is_nothing_to_download(run):
    exported, remark = curating(run, own=False).export({})
    assert exported == "" and remark.visible and "Mark a pair as same or different first" in remark.value


def test_pages_do_not_shift_while_one_labels(run, monkeypatch):
    monkeypatch.setattr(handlers, "CARDS", 9)
    work = curating(run)
    first = ids(view(work, show=UNLABELED))
    for pair in first:
        label(work, pair, KEEP)
    second = ids(view(work, show=UNLABELED, page=2, known={}))
    assert not set(first) & set(second) and len(second) == 9
    fresh = ids(view(work, show=UNLABELED, known=work.labels({})))
    assert fresh == second


def test_the_agreement_is_with_the_verdicts_that_are_shown(run):
    work = curating(run)
    pairs = curation.read_pairs(run)
    low = next(pair.id for pair in pairs if pair.reason == LOW)
    curation.label(run, low, KEEP)
    assert "0 of 1" in view(work)["agreement"]
    assert "1 of 1" in view(work, limits=(*OWN[:2], 2))["agreement"]


def test_agreement_shows_share_chance_and_all_four_counts_in_plain_words():
    told = curate_cards.agreement(Agreement(both_keep=3, both_drop=4, only_judge=2, only_person=1))
    assert "7 of 10" in told and "70%" in told and "kappa" not in told.lower()
    assert "guess would agree now and then, too: on a scale from 0 for guessing to 1" in told
    assert "the two of you reach 0.40" in told
    alike = curate_cards.agreement(Agreement(both_keep=1, both_drop=0, only_judge=0, only_person=0))
    assert "Mark kept and left-out pairs" in alike
    cells = told.split("<tbody>")[1]
    assert [cells.index(f">{n}<") for n in (3, 1, 2, 4)] == sorted(cells.index(f">{n}<") for n in range(1, 5))


def test_a_label_that_cannot_be_written_is_said_on_its_card_and_not_shown(run, monkeypatch, toasts):
    def refuse(*_):
        raise RunError("cannot write labels.jsonl: no space left on device")

    work = curating(run)
    first, *_ = ids(view(work))
    label(work, first, DROP)
    monkeypatch.setattr(curation, "label", refuse)
    first_time, second_time = (label(work, first, KEEP) for _ in range(2))
    refused = first_time["cards"].props["refused"]
    assert (refused["pair"], refused["label"]) == (first, DROP)  # what the page then shows
    assert refused != second_time["cards"].props["refused"]  # or the page would not notice
    assert "no space left" in refused["why"] and not toasts


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize(("pair", "verdict"), [("000009-0-1", KEEP), ("000000-0-1", "maybe"), (None, DROP)])
def test_a_label_that_no_button_gives_is_refused(run, own, pair, verdict):
    said = label(curating(run, own=own), pair, verdict)
    assert list(said) == ["cards"] and said["cards"].props["refused"]["why"]
    assert curation.labels(run) == {}


def test_a_label_is_saved_although_the_thresholds_make_no_sense(run):
    work = curating(run)
    sliders = {"floor": 0.9, "ceiling": 0.1, "minimum": 3}
    update = work.label("000000-0-1", KEEP, {"own_labels": {}, **sliders})
    assert "above the maximum" in update["agreement"] and curation.labels(run) == {"000000-0-1": KEEP}
