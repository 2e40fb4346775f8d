"""A run of grids by a teacher that draws at once."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from dsd.files import jsonl, whole
from dsd.grids import grids
from dsd.grids.prompts import Prompt
from dsd.grids.teacher import Settings, Teacher
from train import grids as command

STAMP = {
    "generator": "fake", "generator_hash": "0" * 12, "license": "Apache-2.0",
    "steps": 4, "guidance": 2.0, "margin": 1,
}  # fmt: skip


class Fake:
    """A teacher whose grids are noise in four colors, each a function of its seed alone."""

    settings, stamp = Settings(batch=3), STAMP
    find_panels, refine = Teacher.find_panels, Teacher.refine

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def refuse(self, prompt: Prompt) -> str | None:
        return "prompt too long: 9 tokens, the model reads 8" if "long" in prompt.prompt else None

    def draw(self, prompts: list[Prompt]) -> list[Image.Image]:
        self.asked.append([prompt.prompt for prompt in prompts])
        time.sleep(0.002)
        return [paint(prompt.seed) for prompt in prompts]


def paint(seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    colors = rng.permutation([(200, 30, 30), (30, 160, 30), (30, 30, 200), (230, 230, 60)])
    colors = np.zeros_like(colors) if seed % 5 == 0 else colors  # no panels to be seen
    pixels = np.kron(colors.reshape(2, 2, 3), np.ones((32, 32, 1), int)) + rng.integers(0, 8, (64, 64, 3))
    for x, y in ((8, 12), (40, 12), (8, 44), (40, 44)):  # an object in each panel
        pixels[y : y + 8, x : x + 8] += 50 * colors.any()
    return Image.fromarray(pixels.astype(np.uint8))


def make_run(run: Path, count: int = 20, **other) -> Path:
    prompts = [
        {
            "id": f"{i:06}", "prompt": f"{'long ' * (i % 7 == 3)}prompt {i}", "subject": f"fox {i}",
            "places": ["a", "b", "c", "d"], "rows": 2, "columns": 2, "recipe": "critters", "phrasing": 0,
            "caption": "a fox", "writer": "grammar", "seed": 100 + i, **other,
        }
        for i in range(count)
    ]  # fmt: skip
    with jsonl.writing(run / "prompts.jsonl") as append:
        append(prompts)
    return run


def work(run: Path, fake: Fake | None = None, batch: int | None = None) -> list[dict]:
    """What the command does, with a fake teacher; returns the rows."""
    fake, prompts = fake or Fake(), grids.read_prompts(run)
    fake.settings = replace(fake.settings, batch=batch or fake.settings.batch)
    grids.check_run(run, prompts, fake.stamp)
    command.draw_run(run, prompts, fake)
    whole.sweep(run)
    return jsonl.read(grids.table(run))


def files(run: Path) -> dict[str, bytes]:
    """All that a run left, but for the locks."""
    return {path.name: path.read_bytes() for path in (run / "grids").iterdir() if path.suffix != ".lock"}
