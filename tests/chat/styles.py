"""How models word an answer: one function for each style, from the fields to a message of the protocol.

An answer with a single field, such as a caption, is written as bare text where a model would not name it.
"""

import json
from collections.abc import Callable
from typing import Any

from tests.chat.answers import Fields

OPPOSITE = {"same": "different", "different": "same"}
FENCE = "```"
Message = dict[str, Any]


def lines(fields: Fields, write: Callable[[str, str], str], *, scored: str = "{part} {score}") -> str:
    return "\n".join(write(name, _text(value, scored)) for name, value in fields.items())


def _text(value: Any, scored: str = "{part} {score}") -> str:
    if not isinstance(value, dict):
        return str(value)
    return ", ".join(scored.format(part=part, score=score) for part, score in value.items())


def _said(text: str, finish: str = "stop", **more: Any) -> Message:
    return {"finish_reason": finish, "message": {"role": "assistant", "content": text, **more}}


def _bare(fields: Fields) -> str | None:
    return _text(next(iter(fields.values()))) if len(fields) == 1 else None


def _as_asked(fields: Fields) -> str:
    return _bare(fields) or lines(fields, lambda name, value: f"{name}: {value}")


# ---------------------------------------------------------------- text


def plain(fields: Fields) -> Message:
    return _said(_as_asked(fields))


def capitals(fields: Fields) -> Message:
    """`Subject: ...` and `Verdict: Same`, as most models write."""
    return _said(lines(fields, lambda name, value: f"{name.capitalize()}: {value[:1].upper()}{value[1:]}"))


def shouted(fields: Fields) -> Message:
    return _said(lines(fields, lambda name, value: f"{name.upper()}: {value}"))


def markdown(fields: Fields) -> Message:
    return _said(lines(fields, lambda name, value: f"**{name.capitalize()}:** {value}"))


def headings(fields: Fields) -> Message:
    return _said(lines(fields, lambda name, value: f"### {name.capitalize()}\n{value}\n"))


def bullets(fields: Fields) -> Message:
    return _said(lines(fields, lambda name, value: f"- {name}: {value}"))


def numbered(fields: Fields) -> Message:
    """A numbered list; the places of a subject have their numbers already."""
    places = {} if "1" in fields else {name: f"{place}. " for place, name in enumerate(fields, 1)}

    def write(name: str, value: str) -> str:
        return f"{name}. {value}" if name.isdigit() else f"{places.get(name, '')}{name.capitalize()}: {value}"

    return _said(lines(fields, write))


def preamble(fields: Fields) -> Message:
    return _said(f"Here is my answer:\n\n{_as_asked(fields)}\n\nLet me know if you need anything else!")


def sentence(fields: Fields) -> Message:
    """A full stop after everything, and quotation marks around a single text."""
    bare = _bare(fields)
    return _said(f'"{bare}."' if bare else lines(fields, lambda name, value: f"{name}: {value}."))


def scores_of_four(fields: Fields) -> Message:
    """`shape: 4/4`, as models write that were told about a scale."""
    return _said(
        _bare(fields) or lines(fields, lambda name, value: f"{name}: {value}", scored="{part}: {score}/4")
    )


def fenced(fields: Fields) -> Message:
    """The answer as asked, in a code fence."""
    return _said(f"{FENCE}\n{_as_asked(fields)}\n{FENCE}")


# ---------------------------------------------------------------- JSON


def bare_json(fields: Fields) -> Message:
    return _said(json.dumps(fields))


def fenced_json(fields: Fields) -> Message:
    return _said(f"{FENCE}json\n{json.dumps(fields, indent=2)}\n{FENCE}")


def json_in_prose(fields: Fields) -> Message:
    return _said(f"Comparing the two images, I get: {json.dumps(fields)}. I hope that this helps.")


# ---------------------------------------------------------------- thinking


def _thoughts(fields: Fields) -> str:
    """Return a draft that has the opposite verdict, which must not be taken for the answer."""
    draft = {name: OPPOSITE.get(value, "hm") for name, value in fields.items() if isinstance(value, str)}
    return (
        f"Wait, let me look first.\n{lines(draft, lambda name, value: f'{name}: {value}')}\nNo, I was wrong."
    )


def thinking(fields: Fields) -> Message:
    return _said(f"<think>\n{_thoughts(fields)}\n</think>\n\n{_as_asked(fields)}")


def thinking_unopened(fields: Fields) -> Message:
    """The opening tag is part of the prompt's template, so that only the closing one is in the answer."""
    return _said(f"{_thoughts(fields)}\n</think>\n\n{_as_asked(fields)}")


def reasoning_beside(fields: Fields) -> Message:
    """A server with a reasoning parser: thoughts and answer in fields of their own."""
    return _said(_as_asked(fields), reasoning_content=_thoughts(fields))


def reasoning_only(fields: Fields) -> Message:
    """A reasoning parser that does not suit the model: the whole answer is in `reasoning_content`."""
    return _said(None, reasoning_content=_as_asked(fields))


def parts(fields: Fields) -> Message:
    """Content as a list of parts."""
    words = _as_asked(fields)
    half = len(words) // 2
    return _said([{"type": "text", "text": words[:half]}, {"type": "text", "text": words[half:]}])


# ---------------------------------------------------------------- no answer


def refusal(fields: Fields) -> Message:
    return _said("I'm sorry, but I can't help with identifying subjects in images.")


def refusal_field(fields: Fields) -> Message:
    """OpenAI's own form: no content, and the reason in `refusal`."""
    return _said(None, refusal="I'm sorry, I can't assist with that request.")


def truncated(fields: Fields) -> Message:
    """The answer ran into the limit of tokens."""
    words = _as_asked(fields)
    return _said(words[: 2 * len(words) // 3], finish="length")


def truncated_thinking(fields: Fields) -> Message:
    """All tokens went into thinking, and the closing tag never came."""
    return _said(f"<think>\n{_thoughts(fields)}", finish="length")


def filtered(fields: Fields) -> Message:
    return _said("", finish="content_filter")


READABLE = {
    style.__name__: style
    for style in (
        plain, capitals, shouted, markdown, headings, bullets, numbered, preamble, sentence, scores_of_four,
        fenced, bare_json, fenced_json, json_in_prose, thinking, thinking_unopened, reasoning_beside, parts,
    )
}  # fmt: skip
UNREADABLE = {
    style.__name__: style
    for style in (reasoning_only, refusal, refusal_field, truncated, truncated_thinking, filtered)
}
STYLES = READABLE | UNREADABLE
