"""Behind the Curate tab: what people say of a run's pairs, where it is kept, and whom it agrees with."""

import json
from pathlib import Path

import gradio as gr
import pytest

from dsd.curation import judge as curation
from dsd.curation.judge import Agreement
from dsd.curation.review import UNLABELED
from dsd.curation.verdict import DIFFERENT, DROP, KEEP, LOW
from dsd.files.jsonl import RunError
from dsd.ui.curate import cards as curate_cards
from dsd.ui.curate.handlers import CARDS
from tests.wheel_page import OWN, cards, curating, ids, judged_run, label, opened, view


@pytest.fixture
def run(tmp_path) -> Path:
    return judged_run(tmp_path / "run")


@pytest.fixture(autouse=True)
def toasts(monkeypatch):
    said = []
    monkeypatch.setattr(gr, "Warning", lambda text, **_: said.append(text))
    return said


def test_a_label_goes_into_ones_own_run_beside_the_machines_verdict(run):
    work, before = curating(run), (run / "pairs.jsonl").read_bytes()
    shown = ids(view(work))
    update = label(work, 1, KEEP, shown)
    assert (update["accept_1"].variant, update["reject_1"].variant) == ("primary", "secondary")
    assert "0 of 1" in update["agreement"] and update["own_labels"] == {}
    label(work, 0, KEEP, shown), label(work, 1, DROP, shown)
    assert curation.labels(run) == {shown[0]: KEEP, shown[1]: DROP}
    assert (run / "pairs.jsonl").read_bytes() == before
    again = curating(run)
    seen = view(again)
    assert [card[3].variant for card in cards(seen)[:3]] == ["primary", "secondary", "secondary"]
    assert [card[4].variant for card in cards(seen)[:3]] == ["secondary", "stop", "secondary"]
    assert "2 of 2" in seen["agreement"]


@pytest.mark.parametrize("own", [False, True], ids=["the sample", "a read-only run"])
def test_labels_of_a_run_that_is_not_to_be_written_to_stay_with_the_visitor(run, own, monkeypatch):
    if own:
        monkeypatch.setattr("os.access", lambda *_: False)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    work = curating(run, own=own)
    message, shown = opened(work)["message"], ids(view(work))
    assert "Download them" in message
    said = label(work, 0, KEEP, shown)["own_labels"]
    update = label(work, 1, KEEP, shown, said)
    said = update["own_labels"]
    assert "1 of 2" in update["agreement"] and cards(view(work, said=said))[0][3].variant == "primary"
    assert cards(view(work))[0][3].variant == "secondary"  # another visitor sees none of it
    work.export(said)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("own", [True, False])
def test_the_export_is_a_labels_file_with_the_verdict_beside_each(run, tmp_path, own):
    work, said = curating(run, own=own), {}
    shown = ids(view(work))
    for index, verdict in ((0, DROP), (1, DROP), (0, KEEP)):
        said = label(work, index, verdict, shown, said)["own_labels"]
    exported = work.export(said)
    (tmp_path / "labels.jsonl").write_text(exported)
    assert curation.labels(tmp_path) == {shown[0]: KEEP, shown[1]: DROP}
    first, second = map(json.loads, exported.splitlines())
    assert (first["verdict"], second["reason"]) == (KEEP, DIFFERENT) and first["time"]


def test_with_no_labels_there_is_nothing_to_download(run, toasts):
    assert curating(run, own=False).export({}) == "" and len(toasts) == 1


def test_pages_do_not_shift_while_one_labels(run):
    work = curating(run)
    first = ids(view(work, show=UNLABELED))
    for index in range(CARDS):
        label(work, index, KEEP, first)
    second = ids(view(work, show=UNLABELED, page=2, known={}))
    assert not set(first) & set(second) and len(second) == CARDS
    fresh = ids(view(work, show=UNLABELED, known=work.labels({})))
    assert fresh == second


def test_the_agreement_is_with_the_verdicts_that_are_shown(run):
    work = curating(run)
    pairs = curation.read_pairs(run)
    low = next(pair.id for pair in pairs if pair.reason == LOW)
    curation.label(run, low, KEEP)
    assert "0 of 1" in view(work)["agreement"]
    assert "1 of 1" in view(work, limits=(*OWN[:2], 2))["agreement"]


def test_agreement_shows_share_kappa_and_all_four_counts():
    told = curate_cards.agreement(Agreement(both_keep=3, both_drop=4, only_judge=2, only_person=1))
    assert "7 of 10" in told and "70%" in told and "0.40" in told
    cells = told.split("<tbody>")[1]
    assert [cells.index(f">{n}<") for n in (3, 1, 2, 4)] == sorted(cells.index(f">{n}<") for n in range(1, 5))


def test_a_label_that_cannot_be_written_is_said_and_not_shown(run, monkeypatch, toasts):
    def refuse(*_):
        raise RunError("cannot write labels.jsonl: no space left on device")

    work = curating(run)
    shown = ids(view(work))
    monkeypatch.setattr(curation, "label", refuse)
    assert label(work, 0, KEEP, shown) == {}
    assert "no space left" in toasts[0]


def test_labels_of_a_card_that_is_gone_do_nothing(run):
    assert label(curating(run), 3, KEEP, ["000000-0-1"]) == {}
    assert curation.labels(run) == {}
