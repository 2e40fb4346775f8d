"""A richer prompt: the looks of the subject merged with the user's words, or put before them."""

import pytest

from dsd.curation.captions import LONGEST, SHORTER
from dsd.curation.enhancement import enhance
from dsd.grids.recipes import CRITTERS, IDENTITY, recipe_of
from dsd.pocket.world import COLORS, PATTERNS, SHAPES
from dsd.vlm.base import REFUSED, VLMError
from dsd.vlm.open import open_vlm
from tests import tiny
from tests.chat.server import Chat, serving
from tests.chat.styles import READABLE
from tests.judging import FakeJudge

WISH = "on the beach"
MERGED = "A small round teal robot with one antenna, on the beach at noon"


def words(text: str) -> int:
    """A tokenizer of the simplest kind."""
    return len(text.split())


def merge(said, prompt: str = WISH, count=words) -> tuple[str, list]:
    judge = FakeJudge(said)
    return enhance(judge, tiny.image(), prompt, count=count), judge.requests


# ---------------------------------------------------------------- merged by a full-size model


@pytest.mark.parametrize(
    "said, prompt",
    [
        # Concatenation gave `This on the beach`, `A small on the beach` and `on the beach` for such captions.
        ("This is a photo of a small, round, teal robot on the beach.",
         "a photo of a small, round, teal robot on the beach."),
        ("A small, round, teal robot on the beach.", "A small, round, teal robot on the beach."),
        ("On a sunlit beach, a ginger cat.", "On a sunlit beach, a ginger cat."),
        ("The image shows a ginger cat on the beach", "a ginger cat on the beach"),
        ("In this photo, there is a ginger cat on the beach", "a ginger cat on the beach"),
        ("**Prompt:** A ginger cat on the beach", "A ginger cat on the beach"),
        ("Sure! Here is the prompt:\n\n\"A ginger cat on the beach\"", "A ginger cat on the beach"),
        ('```json\n{"prompt": "A ginger cat on the beach"}\n```', "A ginger cat on the beach"),
        ("<think>Teal?</think>A ginger cat\non the beach", "A ginger cat on the beach"),
    ],
)  # fmt: skip
def test_the_prompt_is_what_the_model_merged_and_nothing_else(said, prompt):
    merged, requests = merge([said])
    assert merged == prompt and len(requests) == 1


def test_the_model_sees_the_image_and_the_users_own_words():
    _, (request,) = merge([MERGED], 'under a {sign} that says "hi"\nat night')
    assert '"under a {sign} that says "hi" at night"' in request.question and len(request.images) == 1


def test_without_words_of_their_own_the_looks_alone_are_asked_for():
    merged, (request,) = merge(["The picture shows a teal robot"], " ")
    assert merged == "a teal robot" and request.question == IDENTITY.looks


@pytest.mark.parametrize(
    "first", ["robot " * 76, "I'm sorry, I can't help with that.", "", f"{REFUSED}too hot", "**Prompt:**"]
)
def test_it_asks_once_more_for_what_is_too_long_or_no_prompt(first):
    assert words("robot " * 76) < LONGEST
    merged, requests = merge([first, MERGED], count=lambda text: 2 * words(text))
    assert merged == MERGED and len(requests) == 2 and requests[1].question.endswith(SHORTER)


def test_a_prompt_of_exactly_77_tokens_is_taken_and_a_longer_one_is_refused_with_its_length():
    assert words(merge(["robot " * 77])[0]) == 77
    with pytest.raises(VLMError, match="is longer than the model reads: '.*'. Use fewer words"):
        merge(["robot " * 90, "robot " * 78])


@pytest.mark.parametrize("sorry", ["I'm sorry, I can't help with that.", f"{REFUSED}too hot", ""])
def test_a_model_that_refuses_twice_is_quoted_and_its_words_are_no_prompt(sorry):
    with pytest.raises(
        VLMError, match="gave no prompt for this image.*describe the subject yourself"
    ) as error:
        merge([sorry, sorry])
    assert repr(sorry) in str(error.value)


@pytest.mark.parametrize("style", READABLE)
def test_a_server_gives_the_same_prompt_in_every_style(style):
    with serving(Chat(style=style)) as address:
        merged = enhance(open_vlm(address), tiny.image(), WISH)
    assert merged.lower().rstrip(".").startswith("a ") and " robot " in merged and "\n" not in merged
    assert not set("*#`{}<>:") & set(merged)


def test_the_recipe_follows_the_model_that_is_asked():
    assert recipe_of("pocket") is CRITTERS
    assert recipe_of("http://localhost/v1") is recipe_of("flux-dev") is IDENTITY


# ---------------------------------------------------------------- put before the words by the embedded one


SEEN = "a red round striped critter with long ears wearing a hat on the beach"
SUBJECT = "a red round striped critter with long ears"


@pytest.mark.parametrize(
    "prompt, enhanced",
    [
        ("in the snow", f"{SUBJECT} in the snow"),
        ("wearing a blue scarf in the city", f"{SUBJECT} wearing a blue scarf in the city"),
        ("it in the forest", f"{SUBJECT} in the forest"),
        ("The critter holding a flag", f"{SUBJECT} holding a flag"),
        ("a red critter on the beach", f"{SUBJECT} on the beach"),
        ("this character, at night", f"{SUBJECT} at night"),
        ("a blue dragon in the city", f"{SUBJECT} a blue dragon in the city"),  # not ours to correct
        ("happily\nwearing a hat", f"{SUBJECT} happily wearing a hat"),
        ("the critter", SUBJECT),
    ],
)
def test_a_prompt_gets_the_subject_of_the_image_and_none_of_its_place(prompt, enhanced):
    judge = FakeJudge([SEEN])
    assert enhance(judge, tiny.image(), prompt, CRITTERS) == enhanced
    (request,) = judge.requests
    assert request.question == CRITTERS.captions["caption"] and len(request.images) == 1


@pytest.mark.parametrize("length", [1, 60, 70, 77, 90])
def test_the_users_words_are_never_cut_and_the_description_makes_room(length):
    prompt = " ".join(["in", *["snow"] * (length - 1)])
    enhanced = enhance(FakeJudge([SEEN]), tiny.image(), prompt, CRITTERS, count=words)
    assert enhanced.endswith(prompt) and words(enhanced) == min(max(length, LONGEST), length + words(SUBJECT))


def test_a_judge_that_says_nothing_leaves_the_prompt_as_it_is():
    assert enhance(FakeJudge(["", ""]), tiny.image(), "in the snow", CRITTERS) == "in the snow"


@pytest.mark.parametrize("word", [*COLORS, *SHAPES, *PATTERNS])
def test_the_article_suits_every_word_of_the_embedded_world(word):
    enhanced = enhance(FakeJudge([f"a {word} critter on the beach"]), tiny.image(), "", CRITTERS)
    assert enhanced.split()[0] == ("an" if word[0] in "aeiou" else "a")
