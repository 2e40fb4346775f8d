"""Captions: one line that fits, asked once for each image."""

from pathlib import Path

import pytest

from dsd.curation import captions
from dsd.curation.captions import (
    LONGEST,
    SHORTER,
    Caption,
    caption_grids,
    counter,
    estimate,
    one_line,
    tokenizer_of,
    write,
)
from dsd.files import jsonl
from dsd.files.hub import LoadError
from dsd.grids.recipes import CRITTERS, IDENTITY
from dsd.pocket.words import SAME
from dsd.vlm.base import REFUSED
from dsd.vlm.open import Request
from tests import tiny
from tests.judging import FakeJudge, grid

COLORS = ("#ff0000", "#00ff00", "#0000ff", "#ffff00")
NAMES = {(255, 0, 0): "red", (0, 255, 0): "green", (0, 0, 255): "blue", (255, 255, 0): "yellow"}
LONG = " ".join(["word"] * 100)
QUESTION = Request("describe the picture")


def words(text: str) -> int:
    """A tokenizer of the simplest kind."""
    return len(text.split())


def seen(request: Request) -> str:
    return " to ".join(NAMES[image.getpixel((8, 8))] for image in request.images)


def captioned(tmp_path: Path, judge: FakeJudge, kept: list[tuple[int, int]], **options) -> list[Caption]:
    image, row = grid(0, *COLORS)
    (tmp_path / "grids").mkdir(exist_ok=True)
    image.save(tmp_path / "grids" / row.file)
    return caption_grids([row], {row.id: kept}, run=tmp_path, vlm=judge, count=words, **options)


# ---------------------------------------------------------------- of pairs


def test_both_orders_of_a_pair_are_captioned_by_their_target(tmp_path):
    judge = FakeJudge(seen)
    first, second = captioned(tmp_path, judge, [(0, 2)])
    said = {"caption": "blue", "instruction": "red to blue", "cut": False, "writer": "a tiny judge"}
    assert first == Caption(id="000000-0-2", **said)
    assert (second.id, second.caption, second.instruction) == ("000000-2-0", "red", "blue to red")


def test_an_image_is_described_once_however_many_pairs_it_is_in(tmp_path):
    judge = FakeJudge(seen)
    found = captioned(tmp_path, judge, [(0, 1), (0, 2), (0, 3)])
    asked = [request.question for request in judge.requests]
    assert (
        asked.count(CRITTERS.captions["caption"]) == 4 and asked.count(CRITTERS.captions["instruction"]) == 6
    )
    assert len(found) == 6 and {row.caption for row in found if row.id.endswith("-0")} == {"red"}


def test_an_instruction_is_the_context_alone_as_people_type_it(tmp_path):
    judge = FakeJudge(lambda request: "the same critter wearing a red hat in space")
    assert captioned(tmp_path, judge, [(0, 1)])[0].instruction == "wearing a red hat in space"


def test_the_questions_are_those_of_the_recipe(tmp_path):
    judge = FakeJudge(seen)
    captioned(tmp_path, judge, [(0, 1)], recipe="identity")
    assert {request.question for request in judge.requests} == set(IDENTITY.captions.values())


def test_a_text_that_had_to_be_cut_is_flagged_in_both_of_its_rows_only(tmp_path):
    judge = FakeJudge(lambda request: LONG if seen(request) == "red" else seen(request))
    found = captioned(tmp_path, judge, [(0, 1), (1, 2)])
    assert {row.id: row.cut for row in found} == {
        "000000-0-1": False, "000000-1-0": True, "000000-1-2": False, "000000-2-1": False,
    }  # fmt: skip
    assert all(words(row.caption) <= LONGEST for row in found)


def test_where_a_model_says_nothing_the_grids_own_words_stand_in_and_say_so(tmp_path):
    judge = FakeJudge(lambda request: " \n " if seen(request) == "red" else seen(request))
    first, second = captioned(tmp_path, judge, [(0, 1)])
    assert (first.writer, first.caption) == ("a tiny judge", "green")
    assert (second.writer, second.caption, second.instruction) == (
        "grid",
        "a red critter place 0",
        "place 0",
    )


# ---------------------------------------------------------------- of one text


def test_a_text_is_one_line():
    assert one_line(" a red\n\n critter\ton  the beach ") == "a red critter on the beach"
    assert write(FakeJudge(["a\nred  critter"]), [QUESTION], words) == [("a red critter", False)]


def test_what_is_too_long_is_asked_for_again_once_and_shorter():
    judge = FakeJudge(["short", LONG, "shorter now"])
    assert write(judge, [QUESTION, QUESTION], words) == [("short", False), ("shorter now", False)]
    assert [request.question.endswith(SHORTER) for request in judge.requests] == [False, False, True]
    assert judge.streams == 2  # all first, then all that are too long: a server keeps many in flight


def test_silence_is_asked_again_once():
    judge = FakeJudge(["", "a critter"])
    assert write(judge, [QUESTION], words) == [("a critter", False)] and len(judge.requests) == 2


SORRY = "I'm sorry, but I can't help with describing people."


@pytest.mark.parametrize("sorry", [SORRY, f"{REFUSED}the prompt is sensitive"])
def test_a_refusal_is_asked_again_once_and_never_a_caption(tmp_path, sorry):
    judge = FakeJudge([sorry, "a critter"])
    assert write(judge, [QUESTION], words) == [("a critter", False)] and len(judge.requests) == 2
    assert write(FakeJudge([sorry, sorry]), [QUESTION], words) == [("", False)]
    found = captioned(tmp_path, FakeJudge(lambda request: sorry), [(0, 1)])
    assert {row.writer for row in found} == {"grid"}


@pytest.mark.parametrize(
    "said",
    ["**Caption:** A red fox.", '"A red fox."', "Here is a description:\n\nA red fox.",
     '{"caption": "A red fox."}', "<think>A dog?</think>A red fox."],
)  # fmt: skip
def test_a_caption_holds_the_words_alone(said):
    assert write(FakeJudge([said]), [QUESTION], words) == [("A red fox.", False)]


def test_pockets_captions_are_taken_as_they_are_and_its_instructions_name_no_subject():
    path = Path(__file__).parents[1] / "data" / "old_run" / "captions.jsonl"
    for row in jsonl.read(path):
        for text in (row["caption"], row["instruction"]):
            assert write(FakeJudge([text]), [QUESTION], words) == [(text.removeprefix(SAME), False)]


def test_what_stays_too_long_is_cut_at_a_word():
    ((text, was_cut),) = write(FakeJudge([LONG, LONG]), [QUESTION], words)
    assert was_cut and text == " ".join(["word"] * LONGEST)
    assert write(FakeJudge([LONG, ""]), [QUESTION], words) == [(text, True)]  # silence is no shorter text
    assert write(FakeJudge(["", ""]), [QUESTION], words) == [("", False)]


@pytest.mark.parametrize("longest, kept", [(5, 5), (1, 1), (0, 0), (9, 7)])
def test_a_cut_keeps_as_many_words_as_fit(longest, kept):
    text = "one two three four five six seven"
    assert captions.fit(text, words, longest).text == " ".join(text.split()[:kept])


def test_exactly_77_tokens_are_not_cut():
    assert captions.fit(" ".join(["word"] * 77), words)[1] is False
    assert captions.fit(" ".join(["word"] * 78), words)[1] is True


# ---------------------------------------------------------------- counting


def test_tokens_are_counted_by_the_tokenizer_in_a_folder(tmp_path):
    clip, _ = tiny.tokenizers()
    clip.save_pretrained(tmp_path / "tokenizer")
    found = tokenizer_of(tmp_path)
    assert found == tmp_path / "tokenizer"
    assert counter(found)("a hat") == 2 + 4  # the two marks, and every letter, for this one knows no words
    assert counter(found)("a hat " * 50) == 2 + 200  # beyond its own limit too


def test_a_tokenizer_that_is_not_here_is_not_fetched(tmp_path):
    assert tokenizer_of(tmp_path) is None and tokenizer_of("nobody/has-this-model") is None
    assert counter(None) is estimate
    with pytest.raises(LoadError, match="not found"):
        counter(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "text, tokens",
    [("", 2), ("a red hat", 5), ("a red hat, please!", 9), ("1999", 6), ("photograph", 5), ("Übergröße", 5)],
)
def test_an_estimate_counts_pieces_marks_and_digits(text, tokens):
    assert estimate(text) == tokens


def test_the_estimate_errs_on_the_long_side_for_pockets_own_words():
    known = counter(captions.tokenizer_of(Path(__file__).parents[2] / "assets" / "pocket" / "student"))
    text = "a purple pointy striped critter with long ears holding a yellow balloon in the desert at sunset"
    assert known(text) == 2 + len(text.split()) <= estimate(text)
