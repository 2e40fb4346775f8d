"""What a judge's words and numbers come to: votes of answers, honest decisions."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from dsd.curation.verdict import REASONS, Judged, Thresholds, add_answer, decide, own_thresholds
from dsd.files import jsonl
from dsd.grids.recipes import CRITTERS, CRITTERS_EDIT, EDIT, IDENTITY, RELIGHT
from tests.judging import USUAL, answer

# ---------------------------------------------------------------- reading


def voted(*texts: str, recipe=CRITTERS) -> Judged:
    pair = row()
    for text in texts:
        pair = add_answer(pair, text, recipe)
    return pair


@pytest.mark.parametrize("separator", [" ", "\n", "\n\n", "  \n "])
@pytest.mark.parametrize("comma", [" ", ", ", ",", " ,\n"])
def test_an_answer_is_read_whatever_separates_its_fields_and_scores(separator, comma):
    read = voted(answer("different", separator=separator, comma=comma, ears=1))
    assert (read.subject, read.descriptions) == ("a critter", ["red 0° round", "red 12° round"])
    assert read.scores == {"color": 4, "shape": 4, "pattern": 4, "ears": 1, "eyes": 4}
    assert read.differences == "none" and read.votes == [False] and read.lowest == [1]
    assert voted(answer("same")).votes == [True]


def test_parts_may_come_in_any_order_and_are_those_of_the_recipe():
    text = answer().replace("color 4 shape 4", "shape 2 color 4")
    assert voted(text).scores["shape"] == 2
    assert voted(text, recipe=IDENTITY).votes == [None]
    assert all(part in IDENTITY.question for part in IDENTITY.parts)


UNREADABLE = {
    "nothing": "",
    "a chat": "Yes, these are the same.",
    "INCORRECT": answer("INCORRECT"),
    "both verdicts": answer("same or different"),
    "a second answer": answer(separator="\n") + "\n" + answer("different", separator="\n"),
    "no verdict": answer().replace(" verdict: same", ""),
    "an empty verdict": answer(""),
    "a score above the scale": answer(color=5),
    "a fraction": answer().replace("color 4", "color 3.5"),
    "the scale itself": answer().replace("color 4", "color 0-4"),
    "a part missing": answer().replace("color 4 ", ""),
}


@pytest.mark.parametrize("text", UNREADABLE.values(), ids=UNREADABLE)
def test_an_answer_without_verdict_or_scores_is_unreadable_and_kept(text):
    pair = voted(text)
    assert (pair.votes, pair.lowest, pair.answers) == ([None], [None], [text]) and pair.subject is None


def test_a_no_needs_no_scores():
    assert voted("verdict: different").votes == [False]


def test_recorded_answers_give_their_recorded_votes():
    path = Path(__file__).parents[1] / "data" / "old_run" / "pairs.jsonl"
    for old in jsonl.read_records(path, Judged):
        now = replace(old, answers=[], votes=[], lowest=[], subject=None, descriptions=None)
        for text in old.answers:
            now = add_answer(now, text, CRITTERS)
        assert now == old


# ---------------------------------------------------------------- deciding


@pytest.mark.parametrize(
    "wrong, named",
    [
        ({"floor": 0.9, "ceiling": 0.5}, "floor and ceiling.*0.9 and 0.5"),
        ({"floor": -2}, "-2"),
        ({"ceiling": 1.5}, "1.5"),
        ({"minimum_score": 5}, "minimum_score.*5"),
        ({"needed": 0}, "got 0"),
        ({"needed": 3, "votes": 2}, r"1\.\.2.*got 3"),
    ],
)
def test_thresholds_that_make_no_sense_are_refused_by_value(wrong, named):
    with pytest.raises(ValueError, match=named):
        Thresholds(**wrong)


def row(similarity: float | None = 0.8, votes=(), lowest=()) -> Judged:
    numbers = {"similarity": similarity, "votes": list(votes), "lowest": list(lowest)}
    return Judged(id="", recipe="critters", seed=0, **numbers)


@pytest.mark.parametrize(
    "pair, thresholds, reason",
    [
        (row(0.4999), {}, "too different"),
        (row(0.5, [True], [4]), {}, "same subject"),
        (row(0.98, [True], [4]), {}, "same subject"),
        (row(0.9801), {}, "too alike"),
        (row(None, [True], [3]), {}, "same subject"),  # without a first look the judge alone decides
        (row(0.8, [False], [4]), {}, "judged different"),
        (row(0.8, [True], [2]), {}, "a part scores low"),
        (row(0.8, [True], [2]), {"minimum_score": 2}, "same subject"),
        (row(0.8, [None], [None]), {}, "unreadable"),
        (row(0.8, [None] * 3, [None] * 3), {"needed": 2, "votes": 3}, "unreadable"),
        (row(0.8, [True, False, True], [4, 4, 3]), {"needed": 2, "votes": 3}, "same subject"),
        (row(0.8, [True, False, True], [4, 4, 2]), {"needed": 2, "votes": 3}, "a part scores low"),
        (row(0.8, [True, False, False], [4, 4, 4]), {"needed": 2, "votes": 3}, "judged different"),
        (row(0.8, [True, False, None], [4, 4, None]), {"needed": 2, "votes": 3}, "unreadable"),
        (row(0.8, [None, False, False], [None, 0, 0]), {"needed": 2, "votes": 3}, "judged different"),
        (row(0.8, [True, True, None], [4, 4, None]), {"needed": 2, "votes": 3}, "same subject"),
        (row(0.8), {}, "not judged"),  # the run's own floor kept it from the judge; this one would not have
        (row(0.8, [True], [4]), {"needed": 2, "votes": 3}, "not judged"),
        (row(0.8, [True, False, False], [4, 4, 4]), {}, "same subject"),  # of one vote, the first
    ],
)
def test_a_row_is_decided_by_its_numbers_alone(pair, thresholds, reason):
    before = json.dumps(pair.to_json())
    verdict, found = decide(pair, replace(USUAL, **thresholds))
    assert (verdict, found) == ("keep" if reason == "same subject" else "drop", reason)
    assert found in REASONS and json.dumps(pair.to_json()) == before


LIT = "verdict: same scores: identity {} pose 4 place 4 framing 4 light {}"
EDITED = "verdict: same scores: identity {} pose 4 background 4 light 4 accessories {} colors {} position 4"


@pytest.mark.parametrize(
    ("recipe", "text", "scores", "reason"),
    [
        (RELIGHT, LIT.format(4, 0), (4, 0), "same subject"),
        (RELIGHT, LIT.format(3, 2), (3, 2), "same subject"),
        (RELIGHT, LIT.format(4, 4), (4, 4), "nothing changes"),
        (RELIGHT, LIT.format(2, 0), (2, 0), "a part scores low"),
        (RELIGHT, LIT.format(4, 0).replace("same", "different"), (4, 0), "judged different"),
        (RELIGHT, LIT.format(4, 0).replace(" light 0", ""), (None, None), "unreadable"),
        (EDIT, EDITED.format(4, 0, 4), (4, 0), "same subject"),
        (EDIT, EDITED.format(4, 4, 1), (4, 1), "same subject"),
        (EDIT, EDITED.format(4, 4, 4), (4, 4), "nothing changes"),
        (EDIT, EDITED.format(4, 0, 1), (1, 0), "a part scores low"),  # two changes
        (EDIT, EDITED.format(1, 0, 4), (1, 0), "a part scores low"),
        (
            IDENTITY,
            answer().replace("pattern 4 ears 4 eyes", "texture 4 face 4 details"),
            (4, None),
            "same subject",
        ),
    ],
)
def test_a_task_keeps_pairs_with_exactly_one_change_of_its_kind(recipe, text, scores, reason):
    pair = add_answer(replace(row(), recipe=recipe.name), text, recipe)
    assert (pair.lowest[0], (pair.changes or [None])[0]) == scores
    assert bool(pair.changes) == bool(recipe.changes)
    assert decide(pair, USUAL)[1] == reason
    assert decide(pair, replace(USUAL, needed=2, votes=2))[1] in (reason, "not judged")


def test_votes_about_a_change_are_counted_like_others():
    kept, unchanged = LIT.format(4, 0), LIT.format(4, 4)
    two = replace(USUAL, needed=2, votes=2)
    for texts, reason in (((kept, kept), "same subject"), ((kept, unchanged), "nothing changes")):
        assert decide(voted(*texts, recipe=RELIGHT), two)[1] == reason
    assert decide(voted(unchanged, recipe=RELIGHT), replace(USUAL, needed=1, votes=2))[1] == "not judged"
    assert (
        decide(voted(LIT.format(4, 3), recipe=RELIGHT), replace(USUAL, minimum_score=4))[1] == "same subject"
    )


def test_stricter_thresholds_never_keep_more():
    rng = random.Random(0)
    for _ in range(300):
        votes = [rng.choice((True, False, None)) for _ in range(3)]
        pair = row(rng.uniform(0, 1), votes, [None if v is None else rng.randrange(5) for v in votes])
        loose = Thresholds(floor=0.2, ceiling=0.9, minimum_score=rng.randrange(4), needed=1, votes=3)
        stricter = {"floor": 0.4, "ceiling": 0.7, "minimum_score": loose.minimum_score + 1, "needed": 2}
        for name, value in stricter.items():
            if decide(pair, replace(loose, **{name: value}))[0] == "keep":
                assert decide(pair, loose)[0] == "keep"


def test_a_recipes_thresholds_are_those_of_its_own_similarity_model():
    assert own_thresholds(CRITTERS) == own_thresholds(CRITTERS, "ranker") == Thresholds(floor=0.86)
    assert own_thresholds(CRITTERS, "judge") == own_thresholds(CRITTERS_EDIT, "none") == Thresholds()
    assert own_thresholds(EDIT) == own_thresholds(EDIT, "judge") == Thresholds(floor=0.7, ceiling=0.995)
    with pytest.raises(ValueError, match="compares critters alone: leave it out for identity"):
        own_thresholds(IDENTITY, "ranker")
