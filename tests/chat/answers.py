"""What the fake model has to say, apart from how it says it: fields that depend on the images and the words.

Two images show the same subject if the same color channel is the strongest in both, so that every style of
answer has the same verdicts for the same pairs.
"""

import base64
import io
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

CHANNELS = ("red", "green", "blue")
PLACES = ("in deep snow", "on a sandy beach", "in a library", "under neon signs", "on a rooftop at night",
          "in a canoe", "by a fireplace", "on a park bench", "in a greenhouse")  # fmt: skip
Fields = dict[str, Any]


def asked(body: Mapping[str, Any]) -> tuple[str, list[Image.Image]]:
    """Return the words and the images of a chat's messages."""
    words, images = [], []
    for message in body["messages"]:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        words += [part["text"] for part in parts if part["type"] == "text"]
        images += [_opened(part["image_url"]["url"]) for part in parts if part["type"] == "image_url"]
    return "\n".join(words), images


def _opened(address: str) -> Image.Image:
    content = base64.b64decode(address.split("base64,", 1)[1])
    return Image.open(io.BytesIO(content)).convert("RGB")


def fields(words: str, images: list[Image.Image], wanted: frozenset[str] = frozenset()) -> Fields:
    """Return the answer to a question; `wanted` holds the names that a schema asks for."""
    if len(images) >= 2:
        judging = "verdict" in words.lower() or wanted & {"verdict", "same"}
        return compare(words, images[-2:]) if judging else {"instruction": f"move it {_place(images[-1])}"}
    if images:
        return {"caption": f"a {color(images[0])} robot {_place(images[0])}"}
    if re.search(r"\byes\b", words, re.IGNORECASE):
        return {"answer": "yes"}
    return draft(words)


def compare(words: str, images: list[Image.Image]) -> Fields:
    """Return the chain of thought about two images, with the scores that the question asks for."""
    first, second = map(color, images)
    same = first == second
    parts = re.findall(r'"(\w+)": N\b', words)
    assert parts, "the question names no parts to score"
    change = "accessories" if "accessories" in parts else "light"
    low = {"color": same, change: abs(brightness(images[0]) - brightness(images[1])) < 20}
    return {
        "subject": "a robot",
        "first": f"a {first} robot with a round head",
        "second": f"a {second} robot with a round head",
        "differences": "none" if same else f"the first is {first}, the second {second}",
        "scores": {part: 4 if low.get(part, True) else 1 for part in parts},
        "verdict": "same" if same else "different",
    }


def draft(words: str) -> Fields:
    """Return a subject and as many places as the question asks for."""
    caption = re.search(r'"([^"]+)"', words)
    subject = " ".join((caption[1] if caption else "robot").split()[:6]).rstrip(".,")
    count = int(found[1]) if (found := re.search(r"\bgive (\d+)\b", words)) else 4
    return {"subject": f"small {subject}", **{str(i + 1): PLACES[i] for i in range(count)}}


def color(image: Image.Image) -> str:
    return CHANNELS[int(np.asarray(image).reshape(-1, 3).mean(0).argmax())]


def brightness(image: Image.Image) -> float:
    return float(np.asarray(image).max(2).mean())


def _place(image: Image.Image) -> str:
    return PLACES[int(np.asarray(image).mean()) % len(PLACES)]


# ---------------------------------------------------------------- schemas


def by_schema(schema: Mapping[str, Any], known: Fields, name: str = "") -> Any:
    """Return a value that satisfies a JSON schema, from the known fields where their names occur in it."""
    kind, known_here = schema.get("type"), known.get(name)
    if kind == "object":
        inner = known_here if isinstance(known_here, dict) else known
        return {key: by_schema(one, inner, key) for key, one in schema.get("properties", {}).items()}
    if kind == "array":
        return _listed(schema, known)
    if "enum" in schema:
        return known_here if known_here in schema["enum"] else schema["enum"][0]
    if kind == "boolean":
        return known.get("verdict", known.get("answer")) in ("same", "yes")
    if kind in ("integer", "number"):
        return known_here if isinstance(known_here, int) else 4
    return str(known_here if known_here is not None else next(iter(known.values()), "none"))


def _listed(schema: Mapping[str, Any], known: Fields) -> list:
    """Return the numbered fields as a list, as long as the schema allows."""
    items = [value for name, value in known.items() if name.isdigit()] or ["none"]
    count = schema.get("minItems", len(items))
    return [by_schema(schema.get("items", {}), {"": item}, "") for item in items[:count]]


def names(schema: Mapping[str, Any]) -> frozenset[str]:
    """Return all property names of a schema."""
    inner = [one for one in schema.get("properties", {}).values()]
    return frozenset(schema.get("properties", {})).union(*map(names, inner))
