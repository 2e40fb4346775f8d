"""What the tests of training share: a tiny teacher on disk, a few made-up pairs, and settings for seconds."""

import json
from pathlib import Path

import torch
from diffusers import FluxPipeline

from dsd.model.pipeline import DSDPipeline
from dsd.training import order as orders
from dsd.training.loop import TrainResult, Validate, train
from dsd.training.options import TrainOptions
from tests import tiny

QUICK = {"steps": 4, "batch": 2, "accumulate": 1, "rank": 2, "warmup": 1, "lr": 1e-2, "log_every": 2}


def teacher(folder: Path, *, seed: int = 0) -> Path:
    """A text-to-image model: not widened."""
    parts = tiny.components(seed=seed) | {"transformer": tiny.plain_transformer()}
    FluxPipeline(**parts).save_pretrained(folder)
    return folder


def pair(number: int, *, size: tuple[int, int] = (tiny.FRAME, tiny.FRAME), **changed: object) -> dict:
    images = {
        "conditioning": tiny.image(number, size),
        "target": tiny.image(1000 + number, size),
    }
    words = {"caption": f"a hat {number % 3}", "instruction": f"put on {number % 4}"}
    return {"id": f"pair-{number}", **images, **words, **changed}


def pairs(count: int = 10) -> list[dict]:
    return [pair(number) for number in range(count)]


class Rows(list):
    """Rows that claim to come from a file, so that their table is kept; it counts what is read."""

    filesystem, columns = None, None

    def __init__(self, rows: list, file) -> None:
        super().__init__(rows)
        self.files, self.reads = [str(file)], 0

    def __getitem__(self, index: int) -> dict:
        self.reads += 1
        row = super().__getitem__(index)
        if isinstance(row, Exception):
            raise row
        return row


def small_blocks(change) -> None:
    """Stream blocks of two rows, mixed in windows of four rows."""
    change(orders, "BLOCK", 2)
    change(orders, "WINDOW", 2)
    orders._mix.cache_clear()


def options(model: Path, **changed: object) -> TrainOptions:
    return TrainOptions(**{"model": str(model), **QUICK, **changed})


def run(
    model: Path,
    out: Path,
    *,
    rows: list[dict] | None = None,
    validate: Validate | None = None,
    tasks: tuple[str, ...] = ("identity",),
    **changed: object,
) -> TrainResult:
    """Train quickly; what the loop says is kept in `out/said.jsonl`."""
    torch.set_num_threads(1)

    def say(step: int, values: dict[str, float]) -> None:
        out.mkdir(parents=True, exist_ok=True)
        with (out / "said.jsonl").open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")

    asked = options(model, **changed)
    return train(rows or pairs(), asked, out, validate=validate, on_step=say, tasks=tasks)


def validate(pipe: DSDPipeline, step: int) -> dict[str, float]:
    """A number that every weight has a part in."""
    return {"drawn": float(tiny.draw(pipe).square().mean())}


def said(out: Path) -> list[dict]:
    """The lines that are whole: a training that still runs may be in the midst of one."""
    return [json.loads(line) for line in (out / "said.jsonl").read_text().split("\n")[:-1]]


def checksums(out: Path) -> dict[str, dict[str, int]]:
    """Of all numbers in every state: weights, optimizer, average."""
    states = sorted((out / "run" / "states").glob("step-*"))
    files = {state.name: json.loads((state / "state.json").read_text())["files"] for state in states}
    return {step: {k: v for k, v in sums.items() if k.endswith(".distcp")} for step, sums in files.items()}
