"""Wrong values through the API: a sentence that names the field and the value, as plain text."""

import json

import httpx
import pytest

from tests.calling import asked, called, file

WRONG = ["2", "<b>", True, [1], {"a": 1}, -3, 1.5]
ACCEPTED = [("prompt", "2"), ("prompt", "<b>"), ("image_guidance", 1.5), ("text_guidance", 1.5)]
NAMES = "prompt count steps image_guidance text_guidance seed width height fit quality".split()
CASES = [(name, value) for name in NAMES for value in WRONG if (name, value) not in ACCEPTED]


def message(answer: httpx.Response) -> str:
    """The sentence of an error."""
    kind, data = answer.text.strip().split("\n")
    assert kind == "event: error"
    return json.loads(data.removeprefix("data: "))["error"]


@pytest.mark.parametrize("name", NAMES)
def test_a_value_of_the_wrong_kind_is_named_with_its_field(http, uploaded, name):
    for value in [value for field, value in CASES if field == name]:
        said = message(asked(http, image=file(uploaded), **{name: value}))
        assert name.replace("_", " ") in said.lower() and repr(value) in said, said
        assert said.endswith(".") and "&" not in said


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("prompt", "steps")])
def test_null_is_as_good_as_left_out(http, uploaded, name):
    assert "event: complete" in asked(http, image=file(uploaded), **{name: None}).text


def test_null_for_what_must_be_given_says_what_is_missing(http, uploaded):
    assert message(asked(http, image=file(uploaded), prompt=None)).startswith("The prompt is empty")
    assert message(asked(http, image=None)).startswith("There is no image yet")


# ------------------------------------------------------------ a story

STORY = {"lines": "in the snow", "quality": "draft", "seed": 7}


def told(http: httpx.Client, **changes) -> httpx.Response:
    return called(http, "story", STORY | changes)


@pytest.mark.parametrize("name", ["lines", "quality", "image_guidance", "text_guidance", "seed"])
def test_a_story_s_value_of_the_wrong_kind_is_named_with_its_field(http, uploaded, name):
    accepted = [("lines", "2"), ("lines", "<b>"), *ACCEPTED]
    for value in [value for value in WRONG if (name, value) not in accepted]:
        said = message(told(http, image=file(uploaded), **{name: value}))
        assert name.replace("_", " ") in said.lower() and repr(value) in said, said
        assert said.endswith(".") and "&" not in said


@pytest.mark.parametrize("name", ["quality", "image_guidance", "text_guidance", "seed"])
def test_null_is_as_good_as_left_out_of_a_story(http, uploaded, name):
    assert "event: complete" in told(http, image=file(uploaded), **{name: None}).text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lines": None}, "A story needs 1 to 8 lines, one for each panel, got 0."),
        ({"lines": "a\n" * 9}, "A story needs 1 to 8 lines, one for each panel, got 9."),
        ({"lines": "<b>" * 67}, "Line 1 of the story has 201 characters"),
        ({"lines": "a\nb", "seed": 2**32 - 1}, "from 0 to 4294967294, got 4294967295."),
        ({"image": None}, "There is no image yet"),
        ({"image": "x"}, "image must be an uploaded file"),
    ],
)
def test_what_no_story_can_be_made_of_is_said(http, uploaded, changes, words):
    assert words in message(told(http, **{"image": file(uploaded)} | changes))


@pytest.mark.parametrize("field", ["image", "lines"])
def test_a_missing_field_of_a_story_is_named(http, uploaded, field):
    body = STORY | {"image": file(uploaded)}
    del body[field]
    answer = called(http, "story", body)
    assert answer.status_code == 422 and answer.json()["detail"] == f"{field} is missing: give it a value"
