"""Judges and eyes for tests: they answer as they are told, and remember what they were asked."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dsd.curation.verdict import Thresholds
from dsd.files import jsonl
from dsd.grids.grids import Grid
from dsd.grids.recipes import CRITTERS
from dsd.vlm.open import VLM, Request

RED, DARK_RED, ORANGE, BLUE = "#ff0000", "#800000", "#ff7000", "#0000ff"
USUAL = Thresholds(floor=0.5, ceiling=0.98)


class FakeJudge(VLM):
    """Answers a request by a function of it, or by the next of some texts."""

    name, batch = "a tiny judge", 4

    def __init__(self, said: Callable[[Request], str] | Iterable[str]):
        texts = None if callable(said) else iter(said)
        self.said = (lambda request: next(texts)) if texts else said
        self.requests: list[Request] = []
        self.streams = 0

    def ask_many(self, requests: Iterable[Request]) -> Iterator[str]:
        self.streams += 1
        for request in requests:
            self.requests.append(request)
            yield self.said(request)


class FakeEyes:
    """Sees mean colors only."""

    name = "tiny eyes"

    def __init__(self):
        self.looks: list[int] = []  # images, call by call

    def embed(self, images: Sequence[Image.Image]) -> Tensor:
        self.looks.append(len(images))
        colors = torch.tensor(np.stack([np.asarray(image.convert("RGB")).mean((0, 1)) for image in images]))
        return torch.nn.functional.normalize(colors.float(), dim=1)


def answer(verdict: str = "same", *, separator: str = " ", comma: str = " ", **scores: int) -> str:
    """A whole answer to `CRITTERS.compare`; every part not named scores 4."""
    given = comma.join(f"{part} {scores.get(part, 4)}" for part in CRITTERS.parts)
    fields = ["subject: a critter", "first: red 0° round", "second: red 12° round", "differences: none"]
    return separator.join([*fields, f"scores: {given}", f"verdict: {verdict}"])


def grid(index: int, *colors: str, recipe: str = "critters", **changed: object) -> tuple[Image.Image, Grid]:
    """A grid of plain panels, two in a row, and its row."""
    rows, columns, side = len(colors) // 2, 2, 16
    image = Image.new("RGB", (columns * side, rows * side))
    for place, color in enumerate(colors):
        image.paste(
            color, (place % 2 * side, place // 2 * side, (place % 2 + 1) * side, (place // 2 + 1) * side)
        )
    row = Grid(
        id=f"{index:06}", file=f"{index:06}.png", prompt=f"grid {index}", seed=10 + index, rows=rows,
        columns=columns, margin=0, recipe=recipe, subject="red critter", generator="nobody", rejected=None,
        places=[f"place {place}" for place in range(len(colors))], generator_hash="0", license="none",
        steps=1, guidance=1.0,
    )  # fmt: skip
    return image, replace(row, **changed)


def by_colors(request) -> str:
    """Calls two panels the same if both have red in them, and says which it saw."""
    first, second = (image.getpixel((8, 8)) for image in request.images)
    return answer("same" if first[0] and second[0] else "different").replace("red 0°", f"{first}")


def make_run(folder: Path, *panels: tuple[str, ...], **changed: object) -> Path:
    (folder / "grids").mkdir(parents=True)
    with jsonl.writing(folder / "grids" / "grids.jsonl") as append:
        for index, colors in enumerate(panels):
            image, row = grid(index, *colors, **changed)
            image.save(folder / "grids" / row.file)
            append([row.to_json()])
    return folder
