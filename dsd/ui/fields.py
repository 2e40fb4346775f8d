"""Check of the values that a request gives for the fields of an event: their number and their types."""

import inspect
from typing import Any, get_type_hints

from dsd.files import typed

LONGEST = 60  # characters of a value that a message repeats
FILE = 'an uploaded file, {"path": "...", "meta": {"_type": "gradio.FileData"}}'


def check(block_fn: Any, values: list[Any]) -> None:
    """Raise ValueError that names the field whose value is missing or has the wrong type.

    Values of private events come from the page, whose handlers check them; only their number is checked.
    """
    is_public = block_fn.api_visibility == "public"
    parameters = _parameters(block_fn.fn) if is_public else {}
    missing = len(block_fn.inputs) - len(values)
    if missing > 0:
        names = ", ".join(list(parameters)[len(values) :]) or "reload the page"
        raise ValueError(f"{missing} of {len(block_fn.inputs)} values are missing: {names}")
    for (name, hint), value, block in zip(parameters.items(), values, block_fn.inputs, strict=False):
        _check(name, hint, value, takes_file=bool(getattr(block, "data_model", None)))


def _parameters(fn: Any) -> dict[str, Any]:
    """Return the type hint of each parameter; a default other than None also allows a missing value."""
    fn, hints = inspect.unwrap(fn), get_type_hints(fn)
    parameters = inspect.signature(fn).parameters
    return {name: hints.get(name, Any) for name in parameters if name != "self"}


def _check(name: str, hint: Any, value: Any, *, takes_file: bool) -> None:
    if value is None or hint is Any:
        return  # missing; the handler says what it needs
    if takes_file:
        if not isinstance(value, dict):
            raise ValueError(f"{name} must be {FILE}, got {_show(value)}.")
    elif not typed.fits(int(value) if _is_whole(value) else value, hint):
        raise ValueError(f"{name.replace('_', ' ')} must be {typed.name(hint)}, got {_show(value)}.")


def _is_whole(value: Any) -> bool:
    return isinstance(value, float) and value.is_integer()


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
