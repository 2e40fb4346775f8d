"""Whether JSON fits a type hint: plain types, `list`, `dict`, `None` unions, dataclasses and `TypedDict`."""

import sys
import types
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import lru_cache
from typing import Any, get_args, get_origin, get_type_hints, is_typeddict

WORDS = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}


@lru_cache
def hints(cls: type) -> dict[str, Any]:
    """Return the type hint of each field of a dataclass."""
    own = get_type_hints(cls)
    return {field.name: own[field.name] for field in fields(cls)}


def fits(value: Any, hint: Any) -> bool:
    return _check(hint)(value)


def check(value: Any, hint: Any, where: str) -> None:
    """Raise ValueError, naming the place inside `value`, unless it fits; `where` names the value itself."""
    parts, kind = get_args(hint), get_origin(hint)
    if is_typeddict(hint) and type(value) is dict:
        if missing := hint.__required_keys__ - value.keys():
            raise ValueError(f"{where} lacks {', '.join(sorted(missing))}")
        for field, own in get_type_hints(hint).items():
            if field in value:
                check(value[field], own, f"{where}, {field}")
    elif kind in (list, dict) and type(value) is kind:
        for place, part in value.items() if kind is dict else enumerate(value):
            check(part, parts[-1], f"{where}, {place}")
    elif not fits(value, hint):
        raise ValueError(f"{where} is {value!r:.60}, not {name(hint)}")


@lru_cache
def _check(hint: Any) -> Callable[[Any], bool]:
    """Return the check of a hint; built once, because a run can have a million rows."""
    parts = [_check(part) for part in get_args(hint)]
    if hint is Any:
        return lambda value: True
    if isinstance(hint, types.UnionType):
        return lambda value: any(part(value) for part in parts)
    if get_origin(hint) is list:
        return lambda value: type(value) is list and all(map(parts[0], value))
    if get_origin(hint) is dict:
        return lambda value: type(value) is dict and all(map(parts[1], value.values()))
    if hint is float:  # JSON also has NaN and Infinity in Python
        return lambda value: type(value) in (int, float) and abs(value) <= sys.float_info.max
    kind = dict if is_dataclass(hint) or is_typeddict(hint) else hint
    return lambda value: type(value) is kind


def name(hint: Any) -> str:
    """Return a type hint in words for an error message."""
    if isinstance(hint, types.UnionType):
        return " or ".join(map(name, get_args(hint)))
    return WORDS.get(hint) or ("a list" if get_origin(hint) is list else "an object")
