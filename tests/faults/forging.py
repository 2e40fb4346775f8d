"""Files that are damaged as by disks, or forged by hand, and what reading them may end in."""

import json
import random
from collections.abc import Callable
from typing import Any

from dsd.files import jsonl

TIMES = 40  # damaged files of each kind and seed
VALUES = (
    None, True, 0, -1, 1.5, 1e308, 10**30, 10**400, "", "x", "\x1b[31m", [], ["x"], {}, {"x": 1}, [[1, 2]],
)  # fmt: skip


def damage(content: bytes, dice: random.Random) -> bytes:
    """Flip a bit, or zero, cut, drop or repeat a part, as disks and copies do."""
    place = dice.randrange(len(content))
    size = dice.choice((1, 16, 512))
    how = dice.randrange(5)
    if how == 0:
        return content[:place] + bytes([content[place] ^ 1 << dice.randrange(8)]) + content[place + 1 :]
    if how == 1:
        return content[:place] + bytes(len(content[place:]))
    if how == 2:
        return content[:place]
    if how == 3:
        return content[:place] + content[place + size :]
    return content[: place + size] + content[place:]


def forge(content: bytes, dice: random.Random) -> bytes:
    """Replace a value of a row, or drop or add one, and leave valid JSON without a checksum."""
    rows = [json.loads(line) for line in content.splitlines()]
    row = dice.choice(rows)
    row.pop(jsonl.CHECKSUM, None)
    name = dice.choice([*row])
    if dice.random() < 0.2:
        del row[name]
    else:
        row[name] = dice.choice(VALUES)
    rows.insert(dice.randrange(len(rows)), dice.choice(({}, row)))
    lines = [json.dumps(one) for one in rows]
    if dice.random() < 0.2:
        lines[dice.randrange(len(lines))] = dice.choice(("[]", "3", "null", '"x"', "[" * 5000))
    return "\n".join([*lines, ""]).encode()


def forge_inside(value: Any, dice: random.Random) -> Any:
    """Return a JSON value with one part of it, at any depth, replaced or left out."""
    if not value or not isinstance(value, dict | list) or dice.random() < 0.15:
        return dice.choice(VALUES)
    places = list(value) if isinstance(value, dict) else range(len(value))
    place = dice.choice(places)
    other = value.copy()
    if dice.random() < 0.2:
        del other[place]
    else:
        other[place] = forge_inside(value[place], dice)
    return other


def outcome(read: Callable[[], object]) -> object:
    """Return what is read, or None for an error in a sentence."""
    try:
        return read()
    except ValueError as error:  # also LoadError, RunError and PairsError
        assert str(error) and "Traceback" not in str(error)
        return None
