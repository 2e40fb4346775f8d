"""JSON schemas of answers, for servers that can hold a model to one.

The order of the fields is the order in which the model writes them, so that it describes before it decides.
"""

from collections.abc import Sequence

from dsd.vlm.base import Schema

TEXT: Schema = {"type": "string"}


def fields(**properties: Schema) -> Schema:
    """Return the schema of an object that has exactly these fields."""
    closed = {"required": list(properties), "additionalProperties": False}
    return {"type": "object", "properties": properties, **closed}


def choice(*values: str | int) -> Schema:
    return {"type": "string" if isinstance(values[0], str) else "integer", "enum": list(values)}


def judgment(parts: Sequence[str], top_score: int) -> Schema:
    """Return the schema of a judge's answer, with a score from 0 to `top_score` for each part."""
    score = choice(*range(top_score + 1))
    scores = fields(**dict.fromkeys(parts, score))
    texts = dict.fromkeys(("subject", "first", "second", "differences"), TEXT)
    return fields(**texts, scores=scores, verdict=choice("same", "different"))


def places(count: int) -> Schema:
    """Return the schema of a subject and `count` numbered places."""
    return fields(subject=TEXT, **{str(number): TEXT for number in range(1, count + 1)})


YES_OR_NO = fields(answer=choice("yes", "no"))
