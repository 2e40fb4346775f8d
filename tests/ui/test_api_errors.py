"""Wrong values through the API: a sentence that names the field and the value, as plain text."""

import json

import httpx
import pytest

from tests.calling import asked, file

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
