"""A disk cache of encoder outputs: records are found by key and memory-mapped.

A folder is named by a hash of its encoder's weights and settings, so that no record is ever stale. A file is
written completely or not at all, and holds the keys of its records and a checksum. Several processes may
share a folder.
"""

import hashlib
import json
import logging
import zlib
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypedDict

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from dsd.files import jsonl
from dsd.model import canvas, latents

logger = logging.getLogger(__name__)

FILE_BYTES = 256_000_000  # a file is closed once it holds more
BATCH = 32  # inputs encoded together
PIXELS = 4 * 512 * 1024  # most pixels per batch: about 3 GB of activations in FLUX's VAE
# Config entries that do not affect the records.
IGNORED = ("transformers_version", "dtype", "torch_dtype", "architectures")
FORMAT = 1  # increment when the same inputs give different records

Record = tuple[Tensor, ...]


class Store:
    """The records in one folder: tuples of tensors, with the same shapes within a file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: set[Path] = set()
        self._records: dict[str, tuple[str, list[Tensor], int]] = {}  # key -> file, its tensors [n, ...], row
        self.refresh()

    def refresh(self) -> "Store":
        """Add the files that other processes have written, delete damaged ones, and return the store."""
        for path in sorted({*self.folder.glob("*.safetensors")} - self._files):
            self._open(path)
        return self

    def _open(self, path: Path) -> None:
        try:
            keys, tensors = _read(path)
        except FileNotFoundError:  # another process has just deleted it, because it is damaged
            return
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            logger.warning("%s is damaged (%s): its records are encoded again", path, error)
            path.unlink(missing_ok=True)  # another process may have done so
            return
        self._files.add(path)
        # Of two records with one key, which differ by rounding, every process and every run takes the same.
        for row, key in enumerate(keys):
            if key not in self._records or self._records[key][0] < path.name:
                self._records[key] = path.name, tensors, row

    def has(self, keys: set[str]) -> bool:
        return keys <= self._records.keys()

    def read(self, key: str) -> Record:
        _, tensors, row = self._records[key]
        return tuple(tensor[row] for tensor in tensors)

    def write(self, records: dict[str, Record]) -> None:
        """Add records, in one file per combination of shapes."""
        groups: dict[tuple, list[str]] = defaultdict(list)
        for key, record in records.items():
            groups[tuple(tensor.shape for tensor in record)].append(key)
        for keys in groups.values():
            columns = zip(*(records[key] for key in keys), strict=True)
            tensors = {str(i): torch.stack(column) for i, column in enumerate(columns)}
            path = self.folder / f"{text_hash(*keys)}.safetensors"
            about = {"keys": keys, "crc32": _checksum(keys, tensors.values())}
            jsonl.write_atomic(path, save(tensors, metadata={"records": json.dumps(about)}))
            self._open(path)


class Records(TypedDict):
    """What a file says of its records; those of earlier versions lack a checksum."""

    keys: list[str]


def _read(path: Path) -> tuple[list[str], list[Tensor]]:
    """Return a file's keys and its memory-mapped tensors; raise ValueError if its checksum is another."""
    with safe_open(path, framework="pt") as file:
        about = jsonl.parse_object(file.metadata()["records"], Records, str(path))
        tensors = [file.get_tensor(name) for name in sorted(file.keys())]
    if any(tensor.dim() == 0 or len(tensor) < len(about["keys"]) for tensor in tensors):
        raise ValueError("it names more records than it holds")
    checksum = _checksum(about["keys"], tensors)
    if about.get("crc32", checksum) != checksum:  # those of earlier versions have none
        raise ValueError("its checksum is another")
    return about["keys"], tensors


def _checksum(keys: list[str], tensors: Iterable[Tensor]) -> int:
    """Return the CRC-32 of all that a file says and holds."""
    total = zlib.crc32(json.dumps(keys).encode())
    for tensor in tensors:
        total = zlib.crc32(f"{list(tensor.shape)} {tensor.dtype}".encode(), total)
        total = zlib.crc32(tensor.contiguous().reshape(-1).view(torch.uint8).numpy(), total)
    return total


def text_hash(*texts: str) -> str:
    """Return 32 hex digits that identify the texts and their order."""
    return hashlib.blake2b("\0".join(texts).encode(), digest_size=16).hexdigest()


def image_hash(image: Image.Image) -> str:
    """Return 32 hex digits that identify an RGB image by its size and pixels."""
    size = b"%d %d " % image.size
    return hashlib.blake2b(size + image.tobytes(), digest_size=16).hexdigest()


def fingerprint(*parts: Any) -> str:
    """Return 12 hex digits of networks, tokenizers and settings: a hash of all that affects their outputs."""
    digest = hashlib.blake2b(str(FORMAT).encode(), digest_size=6)
    for part in parts:
        if isinstance(part, nn.Module):
            config = getattr(part, "config", {})
            config = config.to_dict() if hasattr(config, "to_dict") else dict(config)
            # The weights show neither heads nor activation; folder names and versions change no output.
            config = {key: value for key, value in config.items() if key[0] != "_" and key not in IGNORED}
            digest.update(json.dumps(config, sort_keys=True, default=str).encode())
            for name, tensor in sorted(part.state_dict().items()):
                digest.update(f"{name} {list(tensor.shape)} {tensor.dtype}".encode())
                digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
        else:
            is_tokenizer = hasattr(part, "backend_tokenizer")
            digest.update((part.backend_tokenizer.to_str() if is_tokenizer else str(part)).encode())
    return digest.hexdigest()


class ImageEncoder:
    """The VAE as an encoder of RGB images of one size into latents [C, H/8, W/8]."""

    def __init__(self, vae: nn.Module, folder: Path) -> None:
        self.vae = vae
        scale = (vae.config.scaling_factor, vae.config.shift_factor)
        self.store = Store(folder / f"latents-{fingerprint(vae, *scale)}")
        self.encodes_frames = _reads_blocks_alone(vae)  # otherwise whole canvases

    @torch.no_grad()
    def encode(self, images: list[Image.Image]) -> list[Record]:
        pixels = canvas.to_tensor(images).to(self.vae.device)
        return [(one,) for one in _halve(latents.encode(self.vae, pixels))]


@torch.no_grad()
def _reads_blocks_alone(vae: nn.Module) -> bool:
    """Return whether a canvas's latents equal its frames' side by side: each frame is then encoded once."""
    noise = torch.rand(1, 3, 64, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1
    pixels = noise.to(vae.device)
    whole = latents.encode(vae, pixels).float()
    halves = torch.cat([latents.encode(vae, half).float() for half in canvas.split(pixels)], dim=-1)
    return bool((whole - halves).abs().max() < 1e-3 * whole.std())


class TextEncoder:
    """CLIP and T5 as encoders of prompts into embeddings [T, D] and pooled [P], as in the pipeline."""

    def __init__(self, pipe: Any, tokens: int, folder: Path) -> None:
        self.pipe, self.tokens = pipe, tokens
        lengths = pipe.tokenizer_max_length, tokens  # in tokens: CLIP's, which pads to it, and T5's
        parts = (pipe.text_encoder, pipe.text_encoder_2, pipe.tokenizer, pipe.tokenizer_2)
        self.store = Store(folder / f"texts-{fingerprint(*parts, *lengths)}")

    @torch.no_grad()
    def encode(self, prompts: list[str]) -> list[Record]:
        embeds, pooled, _ = self.pipe.encode_prompt(
            prompts, None, device=self.pipe.text_encoder.device, max_sequence_length=self.tokens
        )
        return list(zip(_halve(embeds), _halve(pooled), strict=True))

    def find_overlong(self, prompts: dict[str, str]) -> set[str]:
        """Return the keys of the prompts whose ends are cut, because they have more tokens than are read."""
        if not prompts:
            return set()
        ids = self.pipe.tokenizer_2([*prompts.values()], truncation=False, verbose=False).input_ids
        return {key for key, one in zip(prompts, ids, strict=True) if len(one) > self.tokens}


def _halve(values: Tensor) -> Tensor:
    """Return two bytes per number, on the CPU: bf16 as it is, float32 with a relative error below 1/2000."""
    return values.to("cpu", values.dtype if values.dtype == torch.bfloat16 else torch.float16)


def encode_missing(encoder: ImageEncoder | TextEncoder, inputs: dict[str, Any]) -> None:
    """Encode the images or texts whose keys the store lacks; do not store outputs that are not finite.

    The batches and their order depend only on what is missing: a batch's outputs are not exactly those of
    single inputs, and a run that was killed here must get the same values when it is restarted.
    """
    groups: dict[tuple[int, ...], list[str]] = defaultdict(list)  # images encoded together have one size
    for key, value in inputs.items():
        if not encoder.store.has({key}):
            groups[getattr(value, "size", ())].append(key)
    for size, keys in groups.items():
        batch = max(1, min(BATCH, PIXELS // (size[0] * size[1]))) if size else BATCH
        records: dict[str, Record] = {}
        for start in range(0, len(keys), batch):
            part = keys[start : start + batch]
            for key, record in zip(part, encoder.encode([inputs[key] for key in part]), strict=True):
                if all(tensor.isfinite().all() for tensor in record):
                    records[key] = record
            if sum(tensor.nbytes for one in records.values() for tensor in one) > FILE_BYTES:
                encoder.store.write(records)
                records = {}
        encoder.store.write(records)
