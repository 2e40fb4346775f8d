"""Every command that writes, small enough to run many times: a wheel of two grids, and what follows it."""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

from dsd.model.pipeline import DSDPipeline
from dsd.pocket import scorer
from tests import student, tiny, wheel
from tests.faults import injury

QUICK = "--steps 3 --batch 2 --accumulate 1 --log-every 1 --save-every 1 --warmup 1 --ema 0.9".split()
TOY = "--subjects 2 --prompts 2 --steps 1 --image-guidance 1 --device cpu --batch 4".split()
# Of a training: they hold seconds, or the name of a folder and a random id.
TIMED = ("state.json", "README.md", "curves.png", "curves.jsonl", ".metadata")
COMPARED = (
    "--steps 2 --batch 2 --accumulate 1 --warmup 0 --ema 0 --full --precision fp32 --save-every 1 "
    "--critters 2 --prompts 1 --seeds 1 --draw-steps 1 --draw-batch 4 --image-guidance 1 "
    "--search-critters 2 --search-steps 1 --tuning-steps 1"
).split()
# One of each kind: two frames, one frame, no training, training for each subject, a dataset of its own.
ROWS = ("ours", "reference tokens", "SDEdit", "textual inversion", "no curation")
# Of a comparison with others: seconds, and the hash of results that hold them.
SECONDS = re.compile(rb'"seconds(_per_subject)?": ?[\d.]+|"id": ?"[0-9a-f]{16}"|\nCosts:.*', re.S)


@dataclass(frozen=True)
class Command:
    """A command and the folder that it begins with."""

    module: str
    arguments: tuple[str, ...]  # RUN stands for its folder
    start: Path | None = None
    processes: int = 1

    def prepare(self, folder: Path) -> Path:
        return Path(shutil.copytree(self.start, folder)) if self.start else folder

    def run(self, folder: Path, **injury_: object) -> injury.Ended:
        return injury.run(self.module, self._fill(folder), folder, self.processes, **injury_)

    def launch(self, folder: Path) -> subprocess.Popen[str]:
        return injury.launch(self.module, self._fill(folder), self.processes)

    def _fill(self, folder: Path) -> list[str]:
        return [part.replace("RUN", str(folder)) for part in self.arguments]


def make(folder: Path) -> dict[str, Command]:
    """Return every command by name; `folder` gets what they begin with."""
    run, models = folder / "start", folder / "models"
    drawn = wheel.make_run(folder / "drawn", grids=2)
    judged = Path(shutil.copytree(drawn, folder / "judged"))
    for name in ("pairs.jsonl", "captions.jsonl"):
        (drawn / name).unlink()
    run.mkdir()
    student.teacher(models / "teacher")
    for seed, name in enumerate(("early", "late")):
        DSDPipeline(**tiny.components(seed=seed)).save_pretrained(models / name)
    tiny.image().save(run / "photo.png")
    prompts = Command("prompts", ("RUN", "--count", "450", "--seed", "1"))
    prompted = folder / "prompted"
    assert Command("prompts", ("RUN", "--count", "6")).run(prompted).code == 0
    packed = Path(shutil.copytree(judged, folder / "packed"))
    pack = ("RUN", "--only", "all", "--shard-rows", "8")
    assert Command("dataset", pack).run(packed).code == 0
    shutil.copytree(packed / "dataset-all", folder / "data")
    shutil.move(packed / "dataset-all", packed / "dataset")
    torch.manual_seed(0)
    scorer.Scorer(width=4, features=8, size=64).save_pretrained(models / "ranker")
    data, teacher = str(folder / "data"), str(models / "teacher")
    train = (data, "--out", "RUN", "--model", teacher, *QUICK)
    return {
        "prompts": prompts,
        "grids": Command("grids", ("RUN", *"--steps 1 --batch 2 --refine 0".split()), prompted),
        "curate": Command("curate", ("RUN", "--judge", "pocket", "--batch", "1", "--floor", "-1"), drawn),
        "dataset": Command("dataset", pack, judged),
        "train": Command("train", (*train, "--rank", "2")),
        "train in full": Command("train", (*train, "--full")),
        "train in two": Command("train", (*train, "--rank", "2"), processes=2),
        "train with torchrun": Command("train", (*train, "--rank", "2", "--steps", "30"), processes=2),
        "teacher": Command(
            "teacher",
            (str(judged), "--out", "RUN", "--model", teacher, "--share", "0.3", "--rank", "2",
             "--text-tokens", "16", *QUICK),
        ),
        "baselines": Command(
            "baselines.__main__",
            (str(packed), "--out", "RUN", "--model", teacher, "--ranker", str(models / "ranker"), *COMPARED,
             "--only", *ROWS),
        ),
        "evaluate": Command(
            "evaluate", (str(models / "early"), "--teacher", teacher, *TOY, "--out", "RUN"), None
        ),
        "generate": Command(
            "generate",
            ("RUN/photo.png", "a hat", "-o", "RUN/out.png", "--seed", "1", "--steps", "1", "--model",
             str(models / "early")),
            run,
        ),
    }  # fmt: skip


def contents(folder: Path) -> dict[str, object]:
    """Return all that a command left, but for locks, caches and what holds times."""
    files = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}
    has_seconds = "tuning.jsonl" in files
    skipped = (
        ".lock",
        *(TIMED if "curves.jsonl" in files else ()),
        *(["tuning.jsonl"] if has_seconds else ()),
    )
    places = ("cache/", "tensorboard/")
    return {
        name: _content(file, has_seconds)
        for name, file in files.items()
        if not name.endswith(skipped) and not any(place in name for place in places)
    }


def _content(file: Path, has_seconds: bool) -> object:
    """Return a file's bytes, or its tensors and metadata: safetensors writes those in a random order."""
    if file.suffix != ".safetensors":
        is_text = has_seconds and file.suffix in (".json", ".md", ".html")
        return SECONDS.sub(b"", file.read_bytes()) if is_text else file.read_bytes()
    with safe_open(file, framework="pt") as tensors:
        names = sorted(tensors.keys())
        return [tensors.metadata(), [(name, _bytes(tensors.get_tensor(name))) for name in names]]


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
