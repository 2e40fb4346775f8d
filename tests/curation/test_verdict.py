"""What a judge's words and numbers come to: strict reading, honest decisions."""

import json
import random
from dataclasses import replace

import pytest

from dsd.curation.verdict import REASONS, Judged, Thresholds, decide, read_answer
from dsd.grids.recipes import CRITTERS, IDENTITY
from tests.judging import USUAL, answer

# ---------------------------------------------------------------- reading


@pytest.mark.parametrize("separator", [" ", "\n", "\n\n", "  \n "])
@pytest.mark.parametrize("comma", [" ", ", ", ",", " ,\n"])
def test_an_answer_is_read_whatever_separates_its_fields_and_scores(separator, comma):
    read = read_answer(answer("different", separator=separator, comma=comma, ears=1), CRITTERS)
    assert (read.subject, read.first, read.second) == ("a critter", "red 0° round", "red 12° round")
    assert read.scores == {"color": 4, "shape": 4, "pattern": 4, "ears": 1, "eyes": 4}
    assert read.differences == "none" and read.same is False
    assert read_answer(answer("same"), CRITTERS).same is True


def test_parts_may_come_in_any_order_and_are_those_of_the_recipe():
    text = answer().replace("color 4 shape 4", "shape 2 color 4")
    assert read_answer(text, CRITTERS).scores["shape"] == 2
    assert read_answer(text, IDENTITY) is None
    asked = IDENTITY.compare.split("one field a line")[1]
    assert all(part in asked for part in IDENTITY.parts)


UNREADABLE = {
    "nothing": "",
    "a chat": "Yes, these are the same.",
    "a word that holds the verdict's opposite": answer("not the same"),
    "a negated word": answer("insame"),
    "INCORRECT": answer("INCORRECT"),
    "another case": answer("Same"),
    "a full stop": answer("same."),
    "both verdicts": answer("same or different"),
    "trailing junk": answer() + " I hope this helps!",
    "a second answer": answer() + "\n" + answer("different"),
    "leading words": "Sure! " + answer(),
    "no verdict": answer().replace(" verdict: same", ""),
    "an empty verdict": answer(""),
    "an empty field": answer().replace("differences: none", "differences:"),
    "fields out of order": answer()
    .replace("first:", "x:")
    .replace("second:", "first:")
    .replace("x:", "second:"),
    "a field twice": answer().replace("differences: none", "differences: first: a hat"),
    "a missing field": answer().replace("differences: none ", ""),
    "a capital field": answer().replace("subject:", "Subject:"),
    "a score above the scale": answer(color=5),
    "a score below it": answer(color=-1),
    "two digits": answer(color=44),
    "a fraction": answer().replace("color 4", "color 3.5"),
    "the scale itself": answer().replace("color 4", "color 0-4"),
    "a word for a score": answer().replace("color 4", "color four"),
    "a score out of": answer().replace("color 4", "color 4/4"),
    "a part missing": answer().replace("color 4 ", ""),
    "a part twice": answer().replace("shape 4", "color 4"),
    "a part too many": answer().replace("color 4", "color 4 tail 4"),
    "a part of another name": answer().replace("color 4", "colors 4"),
    "another digit's alphabet": answer().replace("color 4", "color ٤"),
    "a comma too many": answer(comma=", ").replace(" verdict", ", verdict"),
}


@pytest.mark.parametrize("text", UNREADABLE.values(), ids=UNREADABLE)
def test_what_is_not_exactly_an_answer_is_unreadable(text):
    assert read_answer(text, CRITTERS) is None


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
