"""Behind the Curate tab: a run by other thresholds, page by page."""

import base64
import io
import json
import re

import pytest
from PIL import Image

from dsd.curation import judge as curation
from dsd.curation import review
from dsd.curation.judge import new_pair
from dsd.curation.verdict import (
    KEEP,
    REASONS,
    SAME,
    Thresholds,
)
from dsd.files import jsonl
from dsd.grids import grids
from dsd.ui.curate import cards as curate_cards
from dsd.ui.curate import handlers
from dsd.ui.curate.handlers import SLIDERS
from tests import judging
from tests.wheel_page import LIMITS, OWN, begins, cards, curating, ids, judged_run, label, opened, view


@pytest.fixture
def six(monkeypatch):
    """Pages of six pairs."""
    monkeypatch.setattr(handlers, "CARDS", 6)


# -- the page


def test_a_page_has_rows_of_one_length_on_any_width():
    assert handlers.CARDS == 24 and all(handlers.CARDS % columns == 0 for columns in (1, 2, 3, 4, 6))


def test_the_pages_show_every_pair_once_with_both_images(judged, six):
    work = curating(judged)
    seen = [view(work, page=page) for page in (1, 2, 3)]
    assert sum(map(ids, seen), []) == [pair.id for pair in curation.read_pairs(judged)]
    assert all(card.count("<img") == 2 for one in seen for card in begins(one))
    assert "Pairs 13 to 18 of 18" in seen[2]["position"]


@pytest.mark.parametrize(
    ("typed", "shown"),
    [(99, 3), (-3, 1), (0, 1), (None, 1), ("", 1), ("2", 2), (2.0, 2), (float("inf"), 1), ("x", 1), ([], 1)],
)
def test_a_page_that_does_not_exist_is_the_nearest(judged, six, typed, shown):
    seen = view(curating(judged), page=typed)
    assert seen["page"] == shown and ids(seen) == ids(view(curating(judged), page=shown))


@pytest.mark.parametrize(("typed", "step", "shown"), [(99, 1, 3), (-3, -1, 1), (2, 1, 3), (None, 1, 2)])
def test_the_next_page_counts_from_what_was_typed(judged, six, typed, step, shown):
    work = curating(judged)
    assert view(work, page=work.turn(step, {"page": typed})["page"])["page"] == shown


def test_the_filter_offers_the_reasons_that_some_pair_has_and_the_chosen_one(judged):
    work = curating(judged)
    reasons = {reason for _, reason in work.review().decided(LIMITS)}
    offered = [value for _, value in view(work)["show"].choices]
    assert {value for value in offered if value in REASONS} == reasons - {SAME}
    assert (unused := next(reason for reason in REASONS if reason not in reasons))
    assert unused in [value for _, value in view(work, show=unused)["show"].choices]


def test_a_last_page_is_as_short_as_it_is(judged, six):
    work = curating(judged)
    kept = view(work, show=KEEP, page=2)
    total = len(review.select(work.review(), work.review().decided(LIMITS), KEEP, {}))
    assert len(cards(kept)) == total - 6 > 0
    assert view(work, show="not judged")["position"].count("No pairs match this filter") == 1


def test_a_card_tells_scores_reasons_similarity_and_what_was_asked(judged):
    seen, pair = view(curating(judged)), curation.read_pairs(judged)[0]
    words = cards(seen)[0]
    assert "the judge sees one subject" in words and words.count("of 4") == len(pair.scores)
    assert f"{pair.similarity:.2f}" in words and pair.prompt in words
    places = review.open_review(judged).grids["000000"].places
    assert all(place in begins(seen)[0] for place in places[:2])


def differences(card: str) -> str | None:
    """What a card says of them before anything is unfolded."""
    found = re.search(r'<p class="dsd-differences"><b>Different:</b> (.*?)</p>', card)
    return found and found[1]


def test_the_traits_that_differ_are_told_on_dropped_cards_and_in_a_table(judged):
    pairs = curation.read_pairs(judged)
    place = next(i for i, pair in enumerate(pairs) if pair.scores and pair.scores["pattern"] == 2)
    work = curating(judged)

    def card(minimum: int) -> str:
        return cards(view(work, limits=(*OWN[:2], minimum)))[place]

    assert differences(card(3)) == "pattern" and differences(card(2)) is None
    assert card(3).count('<td class="dsd-low">') == 1 and card(2).count('<td class="dsd-low">') == 0
    assert card(3).count('<td class="dsd-same">') == len(pairs[place].scores) - 1


def test_the_embedded_judges_notation_stays_off_the_cards_and_other_words_are_shown(run):
    pairs = jsonl.read(run / "pairs.jsonl")
    notation = "color red 216° – red 216° agree , eyes three 120% – three 100% differ"
    said = [notation, "the second one has a scar & <b>", notation]
    judged = [pair for pair in pairs if pair["descriptions"]][:3]
    for pair, differences in zip(judged, said, strict=True):
        pair |= {"differences": differences, "descriptions": ["red 216° critter three 120% eyes", "b"]}
    (run / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    shown = dict(zip([pair["id"] for pair in pairs], cards(view(curating(run))), strict=True))
    first, second, _ = (shown[pair["id"]] for pair in judged)
    assert "red critter three eyes" in first and "Comparison" not in first
    assert not any(mark in card for card in shown.values() for mark in ("°", "%", " agree ,", "– red"))
    assert "the second one has a scar &amp; &lt;b&gt;" in second


def test_a_difference_that_only_measures_tell_is_said_to_be_one(run):
    pairs = jsonl.read(run / "pairs.jsonl")
    judged = [pair for pair in pairs if pair["descriptions"]][:3]
    told = (("eyes 120%", "eyes 80%", 0), ("eyes 120%", "no eyes", 0), ("eyes 120%", "eyes 120%", 4))
    for pair, (first, second, score) in zip(judged, told, strict=True):
        pair |= {"descriptions": [first, second], "scores": dict.fromkeys(pair["scores"], score)}
    (run / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    shown = dict(zip([pair["id"] for pair in pairs], cards(view(curating(run))), strict=True))
    assert [curate_cards.UNNAMED in shown[pair["id"]] for pair in judged] == [True, False, False]


def test_moving_a_threshold_moves_the_rate_and_the_verdicts_but_sends_no_image_again(judged):
    work = curating(judged)
    before = view(work)
    after = view(work, limits=(*OWN[:2], 4), shown=ids(before))
    assert (
        before["rates"] != after["rates"]
        and "by your thresholds" in after["rates"]
        and "--minimum-score 4" in after["rates"]
    )
    assert begins(before) and begins(after) is None
    assert cards(before) != cards(after)
    labels = dict(after["show"].choices)
    assert {value: name for name, value in labels.items()}[KEEP] != next(
        name for name, value in before["show"].choices if value == KEEP
    )


def test_the_command_is_only_shown_to_whom_the_run_belongs(judged):
    assert "train.curate" not in view(curating(judged, own=False), limits=(*OWN[:2], 4))["rates"]


def test_only_the_grids_on_the_page_are_opened(judged, monkeypatch):
    read, work = [], curating(judged)
    monkeypatch.setattr(handlers, "CARDS", 9)
    monkeypatch.setattr(grids, "open_panels", lambda run, grid: read.append(grid.id) or panels())
    opened(work)
    assert read == []
    view(work)
    assert len(read) == 9


def panels() -> list[Image.Image]:
    return [Image.new("RGB", (1024, 1024), "red")] * 4


def test_large_images_are_made_smaller_for_the_page():
    shown = curate_cards.images(
        *panels()[:2], new_pair(judging.grid(0, "red", "red")[1], 0, 1), ["here", "there"]
    )
    data = re.findall(r'base64,([^"]+)"', shown)
    assert [Image.open(io.BytesIO(base64.b64decode(one))).size for one in data] == [(256, 256)] * 2


def test_a_floor_above_the_ceiling_is_answered_by_a_sentence(judged):
    seen = view(curating(judged), limits=(0.99, 0.95, 3))
    assert "is above the maximum" in seen["rates"] and set(seen) == {"rates"}


def test_one_damaged_grid_hides_no_other(run):
    (run / "grids" / "000000.png").write_bytes(b"not an image")
    seen = begins(view(curating(run)))
    assert sum("cannot be read" in card for card in seen) == 6
    assert sum(card.count("<img") == 2 for card in seen) == 12


def test_nothing_in_a_run_becomes_html(tmp_path):
    evil = "<img src=x onerror=alert(1)>"
    run = judged_run(tmp_path / "run", grids=1, places=[evil] * 4, prompt=evil)
    pairs = jsonl.read(run / "pairs.jsonl")
    for pair in pairs:
        pair |= {"subject": evil, "judge": evil, "differences": evil, "answers": [evil]}
        pair["scores"] = pair["scores"] and {evil: 3}
        pair["descriptions"] = pair["descriptions"] and [evil, evil]
    (run / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    work = curating(run)
    label(work, pairs[0]["id"], KEEP)
    seen = view(work)
    told = [part for part in seen.values() if isinstance(part, str)] + cards(seen) + begins(seen)
    assert sum(text.count("&lt;img") for text in told) > 10
    assert not any(evil in text for text in told)


def test_a_row_with_nonsense_in_it_is_named_with_its_line_and_field(run):
    pairs = jsonl.read(run / "pairs.jsonl")
    pairs[0]["scores"] = {"color": "<b>"}
    (run / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    seen = view(curating(run))
    assert set(seen) == {"rates"} and "line 1" in seen["rates"] and "scores" in seen["rates"]


# -- coming to the tab


def test_at_first_the_sliders_are_the_runs_own_and_later_as_they_were_left(judged):
    work = curating(judged)
    update = opened(work)
    assert update["is_open"] and update["body"].visible and update["known"] == {}
    assert "labels.jsonl" in update["message"]
    assert tuple(update[name].value for name in SLIDERS) == OWN
    assert work.own_thresholds() == dict(zip(SLIDERS, OWN, strict=True))
    assert opened(work, again=True) == {"is_open": True}


def test_without_a_run_or_without_pairs_the_page_says_how_to_get_some(tmp_path):
    for run, words in ((None, "--run FOLDER"), (tmp_path, "train.curate")):
        update = opened(curating(run))
        assert not update["is_open"] and not update["body"].visible
        assert words in update["message"] and 'role="alert"' in update["message"]


def test_what_is_judged_meanwhile_is_there_when_one_comes_back(run):
    work = curating(run)
    opened(work)
    assert len(work.review().pairs) == 18
    more = {**jsonl.read(run / "pairs.jsonl")[0], "id": "000009-0-1"}
    with jsonl.writing(jsonl.shard(run / "pairs.jsonl", 0)) as append:
        append([more])
    assert len(work.review().pairs) == 18  # nothing moves while one looks
    opened(work, again=True)
    assert len(work.review().pairs) == 19


def test_a_judge_with_votes_is_decided_by_the_runs_votes(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    said = [judging.answer("different"), judging.answer(), judging.answer()]
    votes = Thresholds(floor=-1.0, ceiling=1.0, needed=2, votes=3)
    image, grid = judging.grid(0, "red", "blue")
    (run / "grids").mkdir()
    image.save(run / "grids" / grid.file)
    pairs = curation.judge_grids(
        [grid], run=run, vlm=judging.FakeJudge(said), embedder=None, thresholds=votes
    )
    for name, found in (("grids/grids.jsonl", [grid]), ("pairs.jsonl", pairs)):
        jsonl.write_rows(run / name, [row.to_json() for row in found])
    work = curating(run)
    assert opened(work)["floor"].minimum == -1.0
    (card,) = cards(view(work, limits=(-1.0, 1.0, 3)))
    assert "the judge sees one subject" in card and "different, same, same" in card
    assert "similarity" not in card
