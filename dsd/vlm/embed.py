"""Image embeddings: one vector per image, for a cheap measure of similarity.

The encoder is the vision tower of the judge in use (`judge`), or any image encoder of transformers, given by
folder or hub id, such as facebook/dinov2-base or google/siglip-base-patch16-224. Thresholds are set
elsewhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoImageProcessor, AutoModel

from dsd.files import hub
from dsd.files.hub import LoadError
from dsd.files.missing import open_complete
from dsd.files.rgb import to_rgb
from dsd.model.checkpoint import open_device
from dsd.vlm.base import VLM
from dsd.vlm.local import LocalVLM, short_name

JUDGE = "judge"
UNREAD = "pooler"  # published classifiers lack it, and it comes after the tokens
AT_ONCE = 64  # images per forward pass; affects memory, not the vectors


class ImageEmbedder(Protocol):
    """Anything that returns a unit vector for each image; the dot product of two is their similarity."""

    name: str

    def embed(self, images: Sequence[Image.Image]) -> Tensor:
        """Return unit vectors [n, c]."""


@dataclass(frozen=True)
class Embedder:
    """A vision tower and its image processor."""

    name: str  # stored in the rows of pairs.jsonl
    tower: nn.Module
    processor: object

    @torch.inference_mode()
    def embed(self, images: Sequence[Image.Image]) -> Tensor:
        """Return unit vectors [n, c], float32 on the CPU: the normalized mean of the last layer's tokens."""
        weight, parts = next(self.tower.parameters()), [torch.empty(0, self.tower.config.hidden_size)]
        for start in range(0, len(images), AT_ONCE):
            rgb = [to_rgb(image) for image in images[start : start + AT_ONCE]]
            pixels = self.processor(images=rgb, return_tensors="pt")["pixel_values"]
            tokens = self.tower(pixel_values=pixels.to(weight.device, weight.dtype)).last_hidden_state
            parts.append(
                functional.normalize(tokens.float().mean(1), dim=1).cpu()
            )  # [n, tokens, c] -> [n, c]
        return torch.cat(parts)


def similarity(a: Tensor, b: Tensor) -> Tensor:
    """Return the cosine similarity of unit vectors, [..., c] and [..., c] -> [...]: 1 for the same image."""
    return (a * b).sum(-1)


def open_embedder(name: str, *, vlm: VLM | None = None, device: str | None = None) -> Embedder:
    """Open the vision tower of `vlm` for `judge`, else an encoder by folder or hub id, or raise LoadError."""
    return _open_tower(vlm) if name == JUDGE else _open_encoder(name, open_device(device))


def _open_tower(vlm: VLM | None) -> Embedder:
    model = vlm.model.model if isinstance(vlm, LocalVLM) else None
    tower = getattr(model, "vision_tower", None)
    if tower is None:
        raise LoadError(
            f"the judge {vlm.name if vlm else ''} has no vision tower to use (only a LLaVA model on this "
            "machine has one): choose an image encoder instead, such as facebook/dinov2-base"
        )
    return Embedder(f"{vlm.name} (eyes)", tower, vlm.processor.image_processor)


def _open_encoder(name: str, device: torch.device) -> Embedder:
    hub.check_source(name)
    with hub.explain_errors(name, [name], value_errors=True):
        model = open_complete(AutoModel, name, unread=UNREAD, dtype=torch.float32).eval()
        processor = AutoImageProcessor.from_pretrained(name, backend="pil", trust_remote_code=False)
    tower = getattr(model, "vision_model", model)  # CLIP and the like also have a text encoder
    if getattr(tower, "main_input_name", "") != "pixel_values":
        kind = model.config.model_type
        raise LoadError(f"{name} is a {kind}, which reads no images: choose an image encoder")
    return Embedder(short_name(name), tower.to(device), processor)
