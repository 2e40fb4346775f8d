"""Validation on photographs: DINOv2 scores identity, CLIP scores identity and prompt following.

A folder of photographs has one file per subject, or one subfolder for a subject with several photographs. In
a subfolder the first file by name is the reference; the others show how similar real photographs of one
subject are, which gives the ceiling. The name describes the subject: `02-corgi_dog.jpg` is a "corgi dog". A
file `prompts.txt` in the folder replaces the default prompts.

These scores are not ground truth: the networks treat a background as part of the subject. Compare scores only
if networks, images and prompts are the same.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

from dsd.evaluation.scores import Case, Measure, Numbers, Scores
from dsd.files import hub, intake
from dsd.files.missing import open_complete
from dsd.files.rgb import to_rgb
from dsd.model import canvas
from dsd.model.checkpoint import best_device, weights_hash

DINO, CLIP = "facebook/dinov2-base", "openai/clip-vit-base-patch32"
BATCH = 32  # images per forward pass
THUMBNAIL = 16  # side in pixels; so small that only the layout of an image remains
PROMPTS = (
    "on the beach", "in the snow", "wearing a red hat in a kitchen", "in the jungle",
    "on a city street at night", "on a mountain top at sunset", "under water", "on a purple rug in a forest",
    "in a field of flowers",
)  # fmt: skip


def read_cases(folder: str | Path, prompts: int | None = None, *, size: int = 512) -> list[Case]:
    """Return the cases of a folder: each subject, cropped to `size` pixels, with the first `prompts` prompts.

    `prompts` None means three, or all if there are fewer. Raise ValueError if the folder, its prompts or its
    photographs do not suffice.
    """
    folder = check_folder(folder)
    texts = _read_prompts(folder)
    if prompts is None:
        prompts = min(3, len(texts))
    if not 1 <= prompts <= len(texts):
        raise ValueError(
            f"prompts must be from 1 to {len(texts)}, the number of prompts there are, got {prompts}"
        )
    subjects = _find_subjects(folder)
    if len(subjects) < 2:
        raise ValueError(
            f"at least 2 subjects are needed, got {len(subjects)} in {folder}: add a photograph or a "
            "subfolder for each"
        )
    cases = []
    for index, (name, files) in enumerate(subjects.items()):
        reference, *others = (canvas.fit(intake.open_image(file), size, size) for file in files)
        words = re.sub(r"[\W\d_]+", " ", name).strip() or "thing"
        for turn, prompt in enumerate(texts[:prompts]):
            truth = others[turn % len(others)] if others else None
            about = {"prompt": prompt, "caption": f"a {words} {prompt}", "seed": 1000 * index + turn}
            cases.append(Case(subject=name, reference=reference, truth=truth, **about))
    return cases


def check_folder(folder: str | Path) -> Path:
    """Return the folder; raise ValueError if there is none."""
    if not Path(folder).is_dir():
        raise ValueError(f"there is no folder {folder}: create it and put photographs into it")
    return Path(folder)


def _read_prompts(folder: Path) -> list[str]:
    file = folder / "prompts.txt"
    if not file.exists():
        return list(PROMPTS)
    lines = file.read_text(encoding="utf-8").splitlines()
    return [intake.check_prompt(line) for line in lines if line.strip()]


def _find_subjects(folder: Path) -> dict[str, list[Path]]:
    """Return the photographs of each subject by its file or folder name, the reference first.

    Raise ValueError for two subjects of one name, such as `fox.jpg` and `fox.png`.
    """
    suffixes, subjects = intake.suffixes(), {}
    for path in sorted(folder.iterdir()):
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        images = [it for it in files if it.suffix.lower() in suffixes and not it.name.startswith(".")]
        if not images or path.name.startswith("."):
            continue
        name = path.stem if path.is_file() else path.name
        if name in subjects:
            raise ValueError(
                f"{folder} has two subjects called {name!r}: rename one, or put both in a folder"
            )
        subjects[name] = images
    return subjects


class PhotographScorer:
    """Scorer based on DINOv2 and CLIP (folders or hub ids), about 950 MB; raise LoadError without them."""

    measures = (
        Measure(
            "identity", "identity (DINOv2)", "cosine of the class tokens of image and reference", low=-1,
            is_identity=True,
        ),
        Measure(
            "clip_i", "identity (CLIP-I)", "cosine of CLIP's vectors of image and reference", low=-1,
            is_identity=True,
        ),
        Measure(
            "following", "following (CLIP-T)",
            "cosine of CLIP's vectors of image and caption; 0.3 is good, nothing comes near 1", low=-1,
            truth_is_best=False,  # other photographs of the subject do not show what the prompt asks for
        ),
        Measure(
            "product", "CP x PF", "identity (DINOv2) times following, image by image, then the mean", low=-1,
            truth_is_best=False,  # following is one of its factors
        ),
        Measure(
            "copy", "copy",
            f"correlation of image and reference shrunk to {THUMBNAIL} x {THUMBNAIL} pixels, where little "
            "but place and background is left; less is better; 1 is the reference itself, 0 is an image of "
            "another subject", low=-1, from_chance=True,
        ),
    )  # fmt: skip
    traits = ()

    def __init__(self, identity: str = DINO, clip: str = CLIP, *, device: str | None = None) -> None:
        self.device = device or best_device()
        self.dino, self.dino_pixels = _load(identity, self.device)
        self.clip, self.clip_pixels = _load(clip, self.device)
        with hub.explain_errors(clip, [clip]):
            self.tokenizer = AutoTokenizer.from_pretrained(clip, trust_remote_code=False)
        networks = {identity: self.dino, clip: self.clip}
        self.backbones = {name: weights_hash(network) for name, network in networks.items()}

    def score(self, cases: Sequence[Case], images: Sequence[Image.Image]) -> list[Numbers]:
        """Return the scores of each image."""
        references = [case.reference for case in cases]
        clip_vectors = self._embed(images, self.clip_pixels, self._run_clip)
        clip_i = _cosines(clip_vectors, self._embed(references, self.clip_pixels, self._run_clip))
        following = _cosines(clip_vectors, self._embed_texts([case.caption for case in cases]))
        dino_vectors = self._embed(images, self.dino_pixels, self._run_dino)
        identity = _cosines(dino_vectors, self._embed(references, self.dino_pixels, self._run_dino))
        product = [a * b for a, b in zip(identity, following, strict=True)]
        copy = [layout(*both) for both in zip(images, references, strict=True)]
        names = ("identity", "clip_i", "following", "product", "copy")
        columns = zip(identity, clip_i, following, product, copy, strict=True)
        return [dict(zip(names, row, strict=True)) for row in columns]

    def explain(self, cases: Sequence[Case], scores: Scores) -> list[str]:
        """Return no reasons: a cosine has none."""
        return [""] * len(scores.rows)

    # To be comparable with published numbers, DINOv2 uses its class token and CLIP its projected vectors.
    # `dsd.vlm.embed` uses the mean over all tokens instead, because it looks for near-copies.

    def _run_dino(self, pixels: Tensor) -> Tensor:
        return self.dino(pixel_values=pixels).last_hidden_state[:, 0]

    def _run_clip(self, pixels: Tensor) -> Tensor:
        return self.clip.visual_projection(self.clip.vision_model(pixel_values=pixels).pooler_output)

    @torch.inference_mode()
    def _embed_texts(self, captions: list[str]) -> Tensor:
        limit = self.clip.config.text_config.max_position_embeddings
        settings = {"padding": True, "truncation": True, "max_length": limit, "return_tensors": "pt"}
        tokens = self.tokenizer(captions, **settings)
        pooled = self.clip.text_model(**tokens.to(self.device)).pooler_output
        return functional.normalize(self.clip.text_projection(pooled), dim=1).cpu()

    @torch.inference_mode()
    def _embed(
        self, images: Sequence[Image.Image], processor: Any, network: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Return unit vectors [n, c]; an image object that occurs several times is embedded once."""
        distinct = list({id(image): image for image in images}.values())
        vectors: dict[int, Tensor] = {}
        for start in range(0, len(distinct), BATCH):
            batch = distinct[start : start + BATCH]
            pixels = processor(images=[to_rgb(image) for image in batch], return_tensors="pt")["pixel_values"]
            rows = functional.normalize(network(pixels.to(self.device)), dim=1).cpu()
            vectors |= {id(image): row for image, row in zip(batch, rows, strict=True)}
        return torch.stack([vectors[id(image)] for image in images])


def _load(name: str, device: str) -> tuple[torch.nn.Module, Any]:
    """Return a network and its image processor."""
    hub.check_source(name)
    with hub.explain_errors(name, [name]):
        model = open_complete(AutoModel, name, dtype=torch.float32).eval().to(device)
        return model, AutoImageProcessor.from_pretrained(name, backend="pil", trust_remote_code=False)


def _cosines(a: Tensor, b: Tensor) -> list[float]:
    return (a * b).sum(1).tolist()  # both are unit vectors [n, c]


def layout(image: Image.Image, reference: Image.Image) -> float:
    """Return the correlation of the large shapes and colors of two images, in -1..1; 0 if one is flat."""
    smalls = [to_rgb(one).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX) for one in (image, reference)]
    a, b = (np.asarray(small, dtype=float).ravel() for small in smalls)
    a, b = a - a.mean(), b - b.mean()
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / lengths if lengths > 0 else 0.0
