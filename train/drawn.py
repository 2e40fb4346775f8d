"""Save the images of an evaluation as they are drawn, so that a stopped command can continue."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from dsd.evaluation.scores import Draw
from dsd.files import contact_sheet, jsonl


def kept(draw: Draw, folder: Path, way: str, *, batch: int, on_done: Callable[[int], object]) -> Draw:
    """Wrap `draw` so that it draws only the images missing in `folder`, `batch` at a time.

    `way` names the weights and settings. `on_done(n)` reports the n images that already exist; `draw` reports
    the others.
    """

    def resumed(prompts: list[str], references: list[Image.Image], seeds: list[int]) -> list[Image.Image]:
        asked = list(zip(prompts, references, seeds, strict=True))
        files = [folder / f"{_name(way, *one)}.png" for one in asked]
        missing = [i for i, file in enumerate(files) if not file.exists()]
        on_done(len(files) - len(missing))
        for start in range(0, len(missing), batch):
            part = missing[start : start + batch]
            images = draw(*map(list, zip(*(asked[i] for i in part), strict=True)))
            for i, image in zip(part, images, strict=True):
                jsonl.write(files[i], contact_sheet.png(image))
        return [Image.open(file).convert("RGB") for file in files]

    return resumed


def _name(way: str, prompt: str, reference: Image.Image, seed: int) -> str:
    """Return a hash of everything that an image depends on."""
    digest = hashlib.sha256(repr((way, prompt, seed, reference.mode, reference.size)).encode())
    digest.update(reference.tobytes())
    return digest.hexdigest()[:24]
