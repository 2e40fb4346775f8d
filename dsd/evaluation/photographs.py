"""Photographs to validate on, and scores for them: DINOv2 for identity, CLIP for identity and for the prompt.

A folder of photographs, one subject a file, or a subfolder for a subject with several photographs: the
first by name is the reference, the others say how alike real pictures of one subject are, which is the
ceiling. A name says what it is: `02-corgi_dog.jpg` is a "corgi dog". `prompts.txt` in the folder replaces
the prompts.

These networks have opinions, not knowledge: they take a background for a part of the subject, and their
scores compare only with scores of the same networks, pictures and prompts.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

from dsd.evaluation.scores import Case, Measure, Row
from dsd.files import hub, intake
from dsd.model import canvas
from dsd.model.checkpoint import best_device

DINO, CLIP = "facebook/dinov2-base", "openai/clip-vit-base-patch32"
AT_ONCE = 32  # pictures a pass
THUMBNAIL = 16  # pixels a side: what is left of a picture when only its layout counts
PROMPTS = (
    "on the beach",
    "in the snow",
    "wearing a red hat in a kitchen",
    "in the jungle",
    "on a city street at night",
    "on a mountain top at sunset",
    "under water",
    "on a purple rug in a forest",
    "in a field of flowers",
)


def read_cases(folder: str | Path, prompts: int = 3, *, size: int = 512) -> list[Case]:
    """The cases of a folder: each subject asked for with `prompts` prompts, the same ones for all.

    Photographs are cut to `size` x `size` pixels, so that every model and every score sees the same.
    ValueError says what a folder lacks.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}: make it and put photographs into it")
    words = _prompts(folder)
    if not 1 <= prompts <= len(words):
        raise ValueError(f"prompts must be from 1 to {len(words)}, as many as there are, got {prompts}")
    subjects = _subjects(folder)
    if len(subjects) < 2:
        raise ValueError(
            f"at least 2 subjects are needed, got {len(subjects)} in {folder}: a photograph or subfolder each"
        )
    return [
        case
        for index, (name, files) in enumerate(subjects.items())
        for case in _cases(name, [_open(file, size) for file in files], words[:prompts], 1000 * index)
    ]


def _prompts(folder: Path) -> list[str]:
    file = folder / "prompts.txt"
    if not file.exists():
        return list(PROMPTS)
    return [
        intake.check_prompt(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()
    ]


def _subjects(folder: Path) -> dict[str, list[Path]]:
    """Name of each file or subfolder that is a subject -> its photographs, the reference first."""
    found = {}
    for path in sorted(folder.iterdir()):
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        pictures = [file for file in files if file.suffix.lower() in _suffixes()]
        if pictures and not path.name.startswith("."):
            found[path.stem if path.is_file() else path.name] = pictures
    return found


def _suffixes() -> set[str]:
    Image.init()
    return {suffix for suffix, name in Image.EXTENSION.items() if name in intake.FORMATS}


def _open(file: Path, size: int) -> Image.Image:
    return canvas.fit(intake.open_image(file), size, size)


def _cases(name: str, photographs: list[Image.Image], prompts: list[str], seed: int) -> list[Case]:
    words = re.sub(r"[\W\d_]+", " ", name).strip() or "thing"
    others = photographs[1:]
    return [
        Case(
            subject=name,
            reference=photographs[0],
            prompt=prompt,
            caption=f"a {words} {prompt}",
            seed=seed + turn,
            truth=others[turn % len(others)] if others else None,
        )
        for turn, prompt in enumerate(prompts)
    ]


class PhotographScorer:
    """Scores by networks that have seen photographs; downloads them once, about 950 MB in all.

    `identity` and `clip` are folders or hub ids of a DINOv2 and of a CLIP. LoadError says what to do
    where one cannot be had.
    """

    measures = (
        Measure(
            "identity", "identity (DINOv2)", "cosine of the class tokens of picture and reference", low=-1
        ),
        Measure("clip_i", "identity (CLIP-I)", "cosine of CLIP's vectors of picture and reference", low=-1),
        Measure(
            "following",
            "following (CLIP-T)",
            "cosine of CLIP's vectors of picture and caption; 0.3 is good, nothing comes near 1",
            low=-1,
            truth_is_best=False,  # other photographs of the subject do not show what the prompt asks for
        ),
        Measure(
            "product",
            "CP x PF",
            "identity (DINOv2) times following, picture by picture, then the mean",
            low=-1,
            truth_is_best=False,  # it is made of following
        ),
        Measure(
            "copy",
            "copy",
            f"correlation of picture and reference shrunk to {THUMBNAIL} x {THUMBNAIL} pixels, where little "
            "but place and background is left; less is better; 1 is the reference itself, 0 somebody else's",
            low=-1,
            from_chance=True,
        ),
    )

    def __init__(self, identity: str = DINO, clip: str = CLIP, *, device: str | None = None) -> None:
        self.device = device or best_device()
        self.dino, self.dino_pixels = _network(identity, self.device)
        self.clip, self.clip_pixels = _network(clip, self.device)
        with hub.explained(clip, [clip]):
            self.words = AutoTokenizer.from_pretrained(clip, trust_remote_code=False)

    def score(self, cases: Sequence[Case], pictures: Sequence[Image.Image]) -> list[Row]:
        """One row for each picture."""
        references = [case.reference for case in cases]
        captions = self._texts([case.caption for case in cases])
        seen = self._clip(pictures)
        identity = _cosines(self._dino(pictures), self._dino(references))
        following = _cosines(seen, captions)
        columns = {
            "identity": identity,
            "clip_i": _cosines(seen, self._clip(references)),
            "following": following,
            "product": [kept * followed for kept, followed in zip(identity, following, strict=True)],
            "copy": [layout(*pair) for pair in zip(pictures, references, strict=True)],
        }
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

    # DINOv2 is customarily compared by its class token and CLIP by its projected vectors, unlike the mean
    # over all tokens of `dsd.vlm.embed`: that one looks for near-copies, these are to stand beside
    # published numbers.

    def _dino(self, pictures: Sequence[Image.Image]) -> Tensor:
        return self._embedded(
            pictures, self.dino_pixels, lambda pixels: self.dino(pixel_values=pixels).last_hidden_state[:, 0]
        )

    def _clip(self, pictures: Sequence[Image.Image]) -> Tensor:
        clip = self.clip
        return self._embedded(
            pictures,
            self.clip_pixels,
            lambda pixels: clip.visual_projection(clip.vision_model(pixel_values=pixels).pooler_output),
        )

    @torch.inference_mode()
    def _texts(self, captions: list[str]) -> Tensor:
        limit = self.clip.config.text_config.max_position_embeddings
        tokens = self.words(captions, padding=True, truncation=True, max_length=limit, return_tensors="pt")
        pooled = self.clip.text_model(**tokens.to(self.device)).pooler_output
        return functional.normalize(self.clip.text_projection(pooled), dim=1).cpu()

    @torch.inference_mode()
    def _embedded(self, pictures: Sequence[Image.Image], processor: Any, network: Any) -> Tensor:
        """Unit vectors [n, c]; a picture that comes several times is looked at once."""
        once = list({id(picture): picture for picture in pictures}.values())
        vectors = []
        for start in range(0, len(once), AT_ONCE):
            part = [picture.convert("RGB") for picture in once[start : start + AT_ONCE]]
            pixels = processor(images=part, return_tensors="pt")["pixel_values"].to(self.device)
            vectors.append(functional.normalize(network(pixels), dim=1).cpu())
        place = {id(picture): index for index, picture in enumerate(once)}
        return torch.cat(vectors)[[place[id(picture)] for picture in pictures]]


def _network(name: str, device: str) -> tuple[torch.nn.Module, Any]:
    hub.check_source(name)
    with hub.explained(name, [name]):
        model = AutoModel.from_pretrained(name, dtype=torch.float32, **hub.SAFE).eval().to(device)
        return model, AutoImageProcessor.from_pretrained(name, backend="pil", trust_remote_code=False)


def _cosines(a: Tensor, b: Tensor) -> list[float]:
    return (a * b).sum(1).tolist()  # of unit vectors [n, c]


def layout(picture: Image.Image, reference: Image.Image) -> float:
    """Correlation of what large shapes and colours two pictures have; -1..1, 0 if one is flat."""
    a, b = (_thumbnail(image) for image in (picture, reference))
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / lengths if lengths > 0 else 0.0


def _thumbnail(image: Image.Image) -> np.ndarray:
    small = image.convert("RGB").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    values = np.asarray(small, dtype=float).ravel()
    return values - values.mean()
