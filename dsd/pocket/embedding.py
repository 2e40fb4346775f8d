"""An embedding of the drawn world, for the similarity that the first stage of curation compares."""

from collections.abc import Sequence
from math import sqrt

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from dsd.model.checkpoint import open_device
from dsd.model.presets import POCKET
from dsd.pocket.scorer import ANGLES, BATCH, CHOICES, IDENTITY, Scorer, load, to_tensor

CONTEXT = ("scene", "accessory", "light", "place")
SHARE = 0.1  # of the similarity that the context decides, so that a ceiling can refuse near-copies
SHARPER = 4  # hues count as unlike from an angle of 90 / SHARPER degrees on


class CritterEmbedder:
    """The traits that a scorer reads in an image, as a unit vector.

    The similarity of two images is 0.9 times the mean agreement of color, shape, pattern, ears, eyes and hue,
    and 0.1 times that of scene, accessory, light and place. Probabilities p and q agree by the sum of
    sqrt(p q), Bhattacharyya's coefficient. Images of one critter are at least 0.9 alike, and images that
    certainly differ in one of its traits at most 0.85.
    """

    name = "pocket (ranker)"  # stored in the rows of pairs.jsonl

    def __init__(self, network: Scorer) -> None:
        self.network = network.eval()

    @torch.inference_mode()
    def embed(self, images: Sequence[Image.Image]) -> Tensor:
        """Return unit vectors [n, c], float32 on the CPU; the images may have any size."""
        parts = [torch.empty(0, _width())]
        for start in range(0, len(images), BATCH):
            pixels = to_tensor(list(images[start : start + BATCH]), self.network.size)
            logits, numbers, *_ = self.network(pixels.to(self.network.strange.device))
            parts.append(_join(logits, numbers).float().cpu())
        return torch.cat(parts)


def open_ranker(device: str | None = None) -> CritterEmbedder:
    """Open pocket's ranker, not the scorer, which only measures."""
    return CritterEmbedder(load(POCKET.ranker).to(open_device(device)))


def _join(logits: dict[str, Tensor], numbers: Tensor) -> Tensor:  # [B, NUMBERS] -> [B, c]
    critter = [logits[name].softmax(1).sqrt() for name in IDENTITY] + [_hue(numbers)]
    context = [logits[name].softmax(1).sqrt() for name in CONTEXT]
    weighted = [part * sqrt((1 - SHARE) / len(critter)) for part in critter]
    return torch.cat(weighted + [part * sqrt(SHARE / len(context)) for part in context], 1)


def _hue(numbers: Tensor) -> Tensor:
    """Return (cos, sin) of the hue's angle times `SHARPER`, [B, 2]."""
    start = 2 * list(ANGLES).index("hue")
    x, y = functional.normalize(numbers[:, start : start + 2], dim=1).unbind(1)
    angle = SHARPER * torch.atan2(y, x)
    return torch.stack((angle.cos(), angle.sin()), 1)


def _width() -> int:
    return sum(len(CHOICES[name]) for name in (*IDENTITY, *CONTEXT)) + 2
