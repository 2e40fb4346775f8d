"""Folders in the layouts of the published benchmarks, and a judge that knows a copy from another image."""

import json
from pathlib import Path
from types import SimpleNamespace

import pyarrow as arrow
import pyarrow.parquet as parquet

from dsd.evaluation.photographs import PhotographScorer
from dsd.evaluation.scores import Case
from dsd.files import contact_sheet
from dsd.vlm.base import Request
from tests import tiny

NETWORKS = SimpleNamespace(  # DINOv2 and CLIP, which other tests run
    backbones={"dino": "1", "clip": "2"},
    score=lambda cases, images: [{m.name: 0.5 for m in PhotographScorer.measures} for _ in images],
)
CASES = [
    Case(subject=f"s{i}", reference=tiny.image(i), prompt="p", caption=f"a cat, number {i}", seed=i)
    for i in range(4)
]


def said(request: Request) -> str:
    """A copy scores 4 for its identity, but 0 where copies are punished; other images score 2, and 3."""
    if len(request.images) == 1:
        return json.dumps({"reason": "the cat is there", "scores": {"prompt": 3}})
    is_copy = request.images[0].tobytes() == request.images[1].tobytes()
    score = 0 if is_copy and "is a copy" in request.question else 4 if is_copy else 2
    return json.dumps({"reason": "same fur" if is_copy else "other fur", "scores": {"identity": score}})


def make_dreambench(folder: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        image, text = folder / "images" / f"{name}.jpg", folder / "captions" / f"{name}.txt"
        for file in (image, text):
            file.parent.mkdir(parents=True, exist_ok=True)
        tiny.image(number, (40, 32)).save(image)
        text.write_text("\n".join(["corgi dog", *(f"a corgi dog, prompt {i}" for i in range(9))]) + "\n")
    return folder


def make_omnicontext(folder: Path, *kinds: str) -> Path:
    rows = []
    for number, kind in enumerate(kinds):
        images = [{"bytes": contact_sheet.png(tiny.image(number)), "path": None}]
        images *= 1 if kind.startswith("single") else 2
        text = f"Let the person in image 1 read, {number}."
        rows.append({"key": f"k{number}", "task_type": kind, "instruction": text, "input_images": images})
    parquet.write_table(arrow.Table.from_pylist(rows), folder / "train-00000-of-00001.parquet")
    return folder
