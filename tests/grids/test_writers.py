"""A caption becomes a subject and places, or is dropped for a reason that is counted."""

import pytest

from dsd.files import jsonl
from dsd.grids import prompts, writers
from dsd.grids.prompts import PromptError, fingerprints, write_prompts
from dsd.grids.recipes import IDENTITY
from dsd.grids.writers import PLACES, Draft, Unusable
from dsd.vlm.base import REFUSED
from tests.writing import FOX, PETS, Fake, options, pairs, written


@pytest.mark.parametrize(
    ("caption", "subject"),
    [
        ("a photo of a red fox in the snow", "red fox"),
        ("A grey cat sleeping on a sofa.", "grey cat"),
        ("Close-up portrait of an old captain with a beard, oil on canvas", "old captain with a beard"),
        ("a black and white dog", "black and white dog"),
        ("her leather-bound book", "leather-bound book"),
        ("running shoes", "running shoes"),
        ("The Eiffel Tower at night", "Eiffel Tower"),
        ("Women's leather bag - brown", "Women's leather bag"),
        ("a tall brick building near the river", "tall brick building"),
        ("vintage sewing machine for sale", "vintage sewing machine"),
        ("a red round critter with long ears wearing a hat", "red round critter with long ears"),
    ],
)
def test_the_template_finds_the_subject_of_a_plain_caption(caption, subject):
    assert writers.extract_subject(caption) == subject


@pytest.mark.parametrize(
    ("caption", "reason"),
    [
        ("two dogs on a beach", "several subjects"),
        ("a group of people at a table", "several subjects"),
        ("a dog and a cat", "several subjects"),
        ("3 tips", "several subjects"),
        ("in the snow", "no subject found"),
        ("12 x 7", "several subjects"),
        ("...", "no subject found"),
        ("", "no subject found"),
    ],
)
def test_the_template_leaves_out_what_has_no_single_subject(caption, reason):
    with pytest.raises(Unusable, match=reason):
        writers.extract_subject(caption)


def test_the_written_places_are_many_short_and_different():
    assert len(PLACES) >= 60
    assert all(len(place.split()) <= 12 for place in PLACES)
    assert not any(fingerprints("", [a]) & fingerprints("", [b]) for a in PLACES for b in PLACES if a < b)


def test_free_captions_become_grids_with_places_of_the_list_and_every_phrasing(tmp_path):
    kinds = [f"{color} {animal}" for color in ("red", "grey", "tiny") for animal in ("fox", "owl")]
    captions = [f"a {kind} in the park" for kind in kinds]
    made = written(tmp_path, captions, recipe="identity", rows=3, columns=3)
    assert [row["subject"] for row in made] == kinds
    assert all(len(set(row["places"])) == 9 and set(row["places"]) <= set(PLACES) for row in made)
    assert {row["phrasing"] for row in made} == {0, 1, 2}
    assert all(row["writer"] == "template" for row in made)


def test_a_writers_subject_and_places_are_taken_and_its_name_kept(tmp_path):
    vlm = Fake({PETS[0]: FOX})
    (first, *_) = written(tmp_path, PETS, vlm, **pairs())
    assert (first["subject"], first["places"]) == ("small red fox", ["in deep snow", "on a beach"])
    assert first["writer"] == "fake" and first["caption"] == PETS[0] and "small red fox" in first["prompt"]
    assert vlm.asked[0] == IDENTITY.filter.format(caption=PETS[0])
    assert IDENTITY.write.format(caption=PETS[0], count=2) in vlm.asked


def test_captions_are_filtered_and_every_loss_is_counted(tmp_path):
    clear = {"b": "no", "c": "Yes, it does.", "d": " **No** ", "e": "perhaps", "f": "YES!"}
    answers = {
        "f": "a fox in the snow and on a beach",
        "g": FOX.replace("on a beach", "In deep snow"),
        "i": FOX.replace("a beach", "x " * 17),
        "j": FOX,
    }
    captions = ["", "a b", "b", "c", "d", "e", "f", "g", "A B", "i", "x " * 201, "j"]
    vlm = Fake(answers, clear)
    dropped = write_prompts(tmp_path, options(**pairs()), captions=captions, vlm=vlm)
    assert dropped == {
        "empty caption": 1,
        "repeated caption": 1,
        "no clear subject": 2,
        "unreadable": 2,
        "a place twice": 1,
        "too long": 2,
    }
    assert [row["caption"] for row in jsonl.read(tmp_path / "prompts.jsonl")] == ["a b", "c", "j"]
    assert (
        len(vlm.asked) == 9 + 6 + 2
    )  # not about the empty, repeated and endless ones; about unreadable ones twice
    kept = jsonl.read(tmp_path / "writer.jsonl")
    assert [row.get("clear") for row in kept[2:6]] == ["no", "Yes, it does.", " **No** ", "perhaps"]


def draft(answer: str) -> Draft:
    return writers._read_draft({"caption": "a", "clear": "yes", "written": answer, "panels": 2}, None)


@pytest.mark.parametrize(
    "answer",
    [
        "subject: red fox 1: in deep snow 2: on a beach",
        "Subject: red fox\n\n1:  in deep snow.\n2: on a beach\n",
        "\nsubject:\nred fox\n1:\nin deep snow;\n2:\non a beach",
    ],
)
def test_an_answer_is_read_on_lines_or_on_one(answer):
    assert draft(answer) == Draft(caption="a", subject="red fox", places=("in deep snow", "on a beach"))


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("", "unreadable"),
        ("1: in deep snow\n2: on a beach", "unreadable"),
        ("subject: red fox\n1: in deep snow", "unreadable"),
        ("subject: ...\n1: ...\n2: ...", "unreadable"),
        ("subject: \n1: in deep snow\n2: on a beach", "unreadable"),
        ("I'm sorry, but I can't help with that.", "unreadable"),
        ("subject: red fox\n1: in deep snow\n2: In Deep Snow", "a place twice"),
    ],
)
def test_an_answer_without_subject_and_places_is_dropped(answer, reason):
    assert draft(answer) == Draft(caption="a", dropped=reason)


def test_what_a_content_filter_refuses_is_counted_as_that():
    assert draft(f"{REFUSED}no").dropped == "refused"


def test_an_unreadable_answer_is_asked_for_again_once_and_kept(tmp_path):
    class Late(Fake):
        def ask_many(self, requests):
            for request in requests:
                (answer,) = super().ask_many([request])
                yield "hm" if request.seed is None else answer

    vlm = Late()
    assert len(written(tmp_path, PETS[:1], vlm, **pairs())) == 1 and len(vlm.asked) == 4
    (row,) = jsonl.read(tmp_path / "writer.jsonl")
    assert (row["first_clear"], row["clear"], row["first_written"]) == ("hm", "Yes.", "hm")


def test_a_time_of_day_is_no_label():
    assert draft("subject: fox\n1: in snow at 2:30\n2: at home").places[0] == "in snow at 2:30"


def test_nothing_is_asked_twice(tmp_path):
    captions = [
        f"photo {i} of a {color} fox" for i, color in enumerate(("red", "grey", "blue", "old", "sly"))
    ]
    whole = written(tmp_path / "whole", captions, Fake(), **pairs())
    first, second = Fake(), Fake()
    written(tmp_path / "parts", captions, first, **pairs(count=2))
    assert len(first.asked) == 8  # one block of four, two questions each
    assert written(tmp_path / "parts", captions, second, **pairs()) == whole
    assert len(second.asked) == 2 and len(whole) == 5


def test_a_writer_that_fails_keeps_what_was_made_and_can_be_gone_on_with(tmp_path):
    class Failing(Fake):
        def ask_many(self, requests):
            if len(self.asked) >= 8:
                raise ValueError("the server is gone")
            yield from super().ask_many(requests)

    captions = [f"photo of a fox called {name}" for name in ("Ada", "Bob", "Cid", "Dee", "Eve", "Flo")]
    with pytest.raises(ValueError, match="the server is gone"):
        written(tmp_path, captions, Failing(), **pairs())
    assert len(jsonl.read(tmp_path / "prompts.jsonl")) == 4
    assert len(written(tmp_path, captions, Fake(), **pairs())) == 6


def test_a_writer_that_never_gives_anything_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(prompts, "PATIENCE", 10)
    endless = (f"caption {i}" for i in range(10**9))
    vlm = Fake(clear={f"caption {i}": "maybe" for i in range(2, 99)})
    with pytest.raises(PromptError, match=r"10 captions in a row gave no prompt \(10 unreadable\)"):
        written(tmp_path, endless, vlm, **pairs())
    assert len(jsonl.read(tmp_path / "prompts.jsonl")) == 2
