"""What all rows of the comparison are made from: teacher, pairs, settings, and trained models on disk.

Trained models stay in the folder, under a hash of everything that they depend on, so a command that is run
again trains only what is missing.
"""

import json
import shutil
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from tqdm import tqdm

from dsd.evaluation.scores import Case
from dsd.files import jsonl
from dsd.files.hub import LoadError
from dsd.files.pairs import Pairs, read_pairs
from dsd.grids.teacher import Teacher, load_teacher
from dsd.model import checkpoint
from dsd.model.checkpoint import best_device
from dsd.model.presets import DEFAULT, PRESETS, SCALES
from dsd.training.cache import text_hash
from dsd.training.data import dataset_name
from dsd.training.loop import Method, train
from dsd.training.options import TrainOptions
from dsd.training.student import find_base
from dsd.vlm.embed import JUDGE, Embedder, open_embedder
from dsd.vlm.open import open_vlm
from train import comparison
from train.baselines import single_frame
from train.baselines.per_subject import Tuning

ENCODED = "image-encoder tokens"


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """What all entries are made from, and where what is made is kept."""

    run: Path
    out: Path
    options: TrainOptions
    tuning: Tuning
    search_steps: int
    cases: list[Case]  # all that will be drawn, those of the search included
    steps: int = 28  # of drawing
    image_guidance: float = SCALES["image_guidance"]
    text_guidance: float = SCALES["text_guidance"]
    teacher_guidance: float | None = None
    image_encoder: str = JUDGE

    @cached_property
    def device(self) -> torch.device:
        return torch.device(best_device())

    @cached_property
    def dtype(self) -> torch.dtype:
        known = checkpoint.torch_dtype(checkpoint.resolve(self.options.model))
        return torch.float32 if self.device.type == "cpu" else known or torch.bfloat16

    @cached_property
    def teacher(self) -> Teacher:
        """Return the model that every entry starts from, as grids are drawn with it."""
        return self._open_teacher()

    @cached_property
    def teacher_hashes(self) -> dict[str, str]:
        """Return what identifies the weights of the teacher, of all its parts."""
        copy = vars(self).get("tuned_teacher")  # open already, and not tuned yet: another takes memory
        return comparison.part_hashes((copy or self.teacher).pipe)

    @cached_property
    def tuned_teacher(self) -> Teacher:
        """Return a copy of the teacher for the entries that tune it; they leave its transformer as it was."""
        return self._open_teacher()

    def _open_teacher(self) -> Teacher:
        is_known = self.options.model in PRESETS or checkpoint.resolve(self.options.model).like
        settings = {"guidance": self.teacher_guidance, "dtype": self.dtype, "device": self.device}
        return load_teacher(self.options.model, like=None if is_known else DEFAULT.name, **settings)

    @cached_property
    def pairs(self) -> Pairs:
        return read_pairs(self.run)

    @cached_property
    def guidance(self) -> dict[str, float]:
        names = ("steps", "image_guidance", "text_guidance")
        return {name: getattr(self, name) for name in names}

    def encoder(self) -> Embedder:
        """Open the image encoder: the eyes of the family's judge, or a folder or hub id."""
        if self.image_encoder != JUDGE:
            return open_embedder(self.image_encoder, device=str(self.device))
        judge = checkpoint.resolve(self.options.model).judge
        if judge is None:
            raise LoadError(
                f"{self.options.model} comes with no judge whose eyes could see the reference: name an "
                "image encoder, such as --image-encoder facebook/dinov2-base"
            )
        return open_embedder(JUDGE, vlm=open_vlm(judge, device=str(self.device)))


def train_once(shop: Workshop, kind: str, method: Method, options: TrainOptions, pairs: Pairs) -> Path:
    """Return the folder of a trained model, training it if it is missing or was stopped."""
    options = replace(options, cache=options.cache or str(shop.out / "cache"))
    folder = shop.out / "models" / f"{kind.replace(' ', '-')}-{_digest(shop, kind, options, pairs)}"
    if not (folder / "made.json").exists():
        with tqdm(total=options.steps, desc=folder.name, unit="step") as bar:
            result = train(
                pairs, options, folder, method=method, on_step=lambda done, values: bar.update(done - bar.n)
            )
        model = method.open(find_base(options), options, torch.float32, torch.device("cpu"))
        count = sum(weight.numel() for weight in single_frame.trained(model).values())
        made = {"kind": kind, "seconds": result.seconds, "parameters": count, "options": asdict(options)}
        jsonl.write_atomic(folder / "made.json", json.dumps(made, indent=1).encode())
        shutil.rmtree(folder / "run", ignore_errors=True)  # states to resume from
    return folder


def _digest(shop: Workshop, kind: str, options: TrainOptions, pairs: Pairs) -> str:
    """Return eight hex digits that identify all that the training depends on."""
    about = [options.binding(), options.steps, options.batch, options.accumulate, shop.teacher_hashes]
    about += [dataset_name(pairs), len(pairs), shop.image_encoder if kind == ENCODED else None]
    return text_hash(json.dumps(about))[:8]
