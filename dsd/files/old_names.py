"""Names in files written by version 0, with their current names.

Readers translate them, so that runs, trainings and datasets begun before a renaming still open and continue.
"""

from typing import Any

KEYS = {
    "licence": "license",
    "generator_licence": "generator_license",
    "quantise": "quantize",
    "columns_start": "condition_init_scale",
    "image_dropout": "condition_dropout",
    "instruction_share": "instruction_prob",
}
VALUES = {("writer", "sheet"): "grid", ("caption_writer", "sheet"): "grid"}  # words of the grid's own prompt


def translate(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of JSON with the current names of its keys and of values that were renamed."""
    row = {KEYS.get(key, key): value for key, value in row.items()}
    for (key, old), new in VALUES.items():
        if row.get(key) == old:
            row[key] = new
    return row


def find_column(name: str, names: list[str]) -> str:
    """Return the name that a table has for a column: its old one if only that is there."""
    old = next((old for old, new in KEYS.items() if new == name), name)
    return old if name not in names and old in names else name
