"""An embedding of the drawn world, for the similarity that the first stage of curation compares."""

from collections.abc import Sequence
from math import sqrt

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from dsd.model.checkpoint import open_device, weights_hash
from dsd.model.presets import POCKET
from dsd.pocket.scorer import ANGLES, BATCH, CHOICES, IDENTITY, Scorer, load, to_tensor

CONTEXT = ("scene", "light", "place")  # beside what is worn
SHARE = 0.1  # of the similarity that the context decides, so that a ceiling can refuse near-copies
TURNS = 4  # of the hue's angle: it repeats every 90 degrees, where the colors differ


class CritterEmbedder:
    """The traits that a scorer reads in an image, as a unit vector.

    The similarity of two images is 0.9 times the mean agreement of color, shape, pattern, ears, eyes and hue,
    and 0.1 times that of scene, light, place and the accessory with its color. Probabilities p and q agree by
    the sum of sqrt(p q), Bhattacharyya's coefficient; hues agree by the cosine of four times their angle.
    If the scorer is sure, images of one critter are at least 0.9 alike, and images that differ in color,
    shape, pattern, ears or eyes at most 0.85. Hues lose similarity gradually; other traits are not read.
    """

    def __init__(self, network: Scorer, name: str) -> None:
        self.network = network
        self.name = f"{name} {weights_hash(network)}"  # stored in the rows of pairs.jsonl

    @torch.inference_mode()
    def embed(self, images: Sequence[Image.Image]) -> Tensor:
        """Return unit vectors [n, c], float32 on the CPU; the images may have any size."""
        parts = [torch.empty(0, _width())]
        for start in range(0, len(images), BATCH):
            pixels = to_tensor(list(images[start : start + BATCH]), self.network.size)
            logits, numbers, *_ = self.network(pixels.to(self.network.strange.device))
            parts.append(_join(logits, numbers).float().cpu())
        return torch.cat(parts)


def open_critter_embedder(device: str | None = None) -> CritterEmbedder:
    """Open the embedder of pocket's ranker, not of the scorer, which only measures."""
    return CritterEmbedder(load(POCKET.ranker).to(open_device(device)), "pocket's ranker")


def _join(logits: dict[str, Tensor], numbers: Tensor) -> Tensor:  # [B, NUMBERS] -> [B, c]
    critter = [logits[name].softmax(1).sqrt() for name in IDENTITY] + [_hue(numbers)]
    context = [logits[name].softmax(1).sqrt() for name in CONTEXT] + [_worn(logits)]
    weighted = [part * sqrt((1 - SHARE) / len(critter)) for part in critter]
    return torch.cat(weighted + [part * sqrt(SHARE / len(context)) for part in context], 1)


def _worn(logits: dict[str, Tensor]) -> Tensor:
    """Return the roots of the probabilities of no accessory and of each one in each color, [B, c]."""
    accessory, color = (logits[name].softmax(1) for name in ("accessory", "accessory_color"))
    worn = (accessory[:, 1:, None] * color[:, None]).flatten(1)  # the first one is "none"
    return torch.cat([accessory[:, :1], worn], 1).sqrt()


def _hue(numbers: Tensor) -> Tensor:
    """Return (cos, sin) of the hue's angle times `TURNS`, [B, 2]."""
    start = 2 * list(ANGLES).index("hue")
    x, y = functional.normalize(numbers[:, start : start + 2], dim=1).unbind(1)
    angle = TURNS * torch.atan2(y, x)
    return torch.stack((angle.cos(), angle.sin()), 1)


def _width() -> int:
    worn = 1 + (len(CHOICES["accessory"]) - 1) * len(CHOICES["accessory_color"])
    return sum(len(CHOICES[name]) for name in (*IDENTITY, *CONTEXT)) + worn + 2
