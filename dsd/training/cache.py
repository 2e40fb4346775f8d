"""A disk cache of encoder outputs: records are found by key, memory-mapped, and verified when read.

A folder belongs to one encoder: its name contains a hash of the encoder's weights and settings, so that a
changed encoder never reads stale records. A file is written completely or not at all; it holds the keys and
checksums of its records.
"""

import hashlib
import json
import logging
import zlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from dsd.files import jsonl
from dsd.model import canvas as diptych
from dsd.model import latents
from dsd.training.options import TrainingError

logger = logging.getLogger(__name__)

TOLERATED = 0.01  # a larger share of damaged files or unusable rows is an error
FILE_BYTES = 256_000_000  # a file is closed once it holds more
PIXELS = 4 * 512 * 1024  # pixels per batch: about 3 GB of activations in FLUX's VAE
# Config entries that do not affect the records.
UNTOLD = ("transformers_version", "dtype", "torch_dtype", "architectures")
FORMAT = 1  # increment when the same inputs give different records

Record = tuple[Tensor, ...]


class DamagedRecord(ValueError):
    """A record whose checksum does not match; the message names it."""


class Store:
    """The records in one folder: tuples of tensors, with the same shapes within a file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._places: dict[str, tuple[int, int]] = {}  # key -> (file, row)
        self._files: list[_File] = []
        self._names: list[str] = []
        self.damaged: list[str] = []
        self.refresh()

    def refresh(self) -> "Store":
        """Add the files that other processes have written, and return the store.

        Rename damaged files with a warning; their records are encoded again. Raise TrainingError if several
        files, and over 1 % of all, are damaged.
        """
        for path in sorted(self.folder.glob("*.safetensors")):
            if path.name not in self._names:
                try:
                    self._open(path)
                except FileNotFoundError:  # another process has set it aside
                    self.damaged.append(path.name)
                except (SafetensorError, KeyError, TypeError, ValueError) as error:
                    self._set_aside(path, error)
        files = len(self._names) + len(self.damaged)
        if len(self.damaged) > max(1, TOLERATED * files):
            raise TrainingError(
                f"{len(self.damaged)} of {files} files in {self.folder} are damaged, among them "
                f"{self.damaged[0]}: the disk may be failing. Run the same command again to encode anew what "
                "they held"
            )
        return self

    def _set_aside(self, path: Path, error: Exception) -> None:
        self.damaged.append(path.name)
        logger.warning("%s is damaged (%s): what it held is encoded again", path, error)
        with suppress(FileNotFoundError):  # another process may have set it aside
            path.replace(path.with_suffix(".damaged"))

    def _open(self, path: Path) -> None:
        with safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()["records"])
            names = sorted(file.keys())
            tensors = [file.get_tensor(name) for name in names]  # memory-mapped, not read
        self._names.append(path.name)
        self._files.append(_File(tensors, [_bytes(tensor) for tensor in tensors], about["sums"]))
        place = len(self._files) - 1
        self._places |= {key: (place, row) for row, key in enumerate(about["keys"])}

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def place(self, key: str) -> tuple[int, int]:
        """Return a record's (file, row) for `read`."""
        return self._places[key]

    def read(self, place: Sequence[int]) -> Record:
        """Return the record at (file, row); raise DamagedRecord if its checksum does not match."""
        number, row = place
        file = self._files[number]
        if _checksum(part[row] for part in file.views) != file.sums[row]:
            raise DamagedRecord(f"record {row} of {self.folder / self._names[number]} is damaged")
        return tuple(tensor[row] for tensor in file.tensors)

    def write(self, records: dict[str, Record]) -> None:
        """Add records, in one file per combination of shapes."""
        shapes: dict[tuple, list[str]] = {}
        for key, record in records.items():
            shapes.setdefault(tuple(tensor.shape for tensor in record), []).append(key)
        for keys in shapes.values():
            path = self.folder / f"{text_hash(*keys)}.safetensors"
            jsonl.write(path, _file([records[key] for key in keys], keys))
            self._open(path)


@dataclass(frozen=True)
class _File:
    """The memory-mapped contents of a file of n records."""

    tensors: list[Tensor]  # [n, ...] each
    views: list[np.ndarray]  # [n, size] each: the tensors as bytes
    sums: list[int]  # n checksums


def _file(records: list[Record], keys: list[str]) -> bytes:
    """Return the contents of a file with these records."""
    tensors = [torch.stack(column) for column in zip(*records, strict=True)]
    views = [_bytes(tensor) for tensor in tensors]
    sums = [_checksum(view[row] for view in views) for row in range(len(keys))]
    named = {str(i): tensor for i, tensor in enumerate(tensors)}
    return save(named, metadata={"records": json.dumps({"keys": keys, "sums": sums})})


def _bytes(tensor: Tensor) -> np.ndarray:
    """Return a view as bytes [n, size] of a tensor [n, ...]."""
    return tensor.view(len(tensor), -1).view(torch.uint8).numpy()


def _checksum(parts: Iterable[np.ndarray]) -> int:
    total = 0
    for part in parts:
        total = zlib.crc32(part, total)
    return total


# ---------------------------------------------------------------- names


def text_hash(*texts: str) -> str:
    """Return 32 hex digits that identify the texts and their order."""
    return hashlib.blake2b("\0".join(texts).encode(), digest_size=16).hexdigest()


def image_hash(image: Image.Image) -> str:
    """Return 32 hex digits that identify an RGB image by its size and pixels."""
    size = b"%d %d " % image.size
    return hashlib.blake2b(size + image.tobytes(), digest_size=16).hexdigest()


def encoder_hash(*parts: Any) -> str:
    """Return 12 hex digits that identify networks, tokenizers and settings by all that affects their outputs.

    The hash of a network covers its weights and its config: the weights alone show neither the number of
    heads nor the activation.
    """
    digest = hashlib.blake2b(str(FORMAT).encode(), digest_size=6)
    for part in parts:
        if isinstance(part, nn.Module):
            digest.update(_config(part).encode())
            for name, tensor in sorted(part.state_dict().items()):
                digest.update(f"{name} {list(tensor.shape)} {tensor.dtype}".encode())
                digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
        else:
            tokenizer = getattr(part, "backend_tokenizer", None)
            digest.update(str(part if tokenizer is None else tokenizer.to_str()).encode())
    return digest.hexdigest()


def _config(part: nn.Module) -> str:
    """Return the config as JSON without folder names, versions and dtypes; the weights show their dtypes."""
    config = getattr(part, "config", {})
    config = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    kept = {name: value for name, value in config.items() if name[0] != "_" and name not in UNTOLD}
    return json.dumps(kept, sort_keys=True, default=str)


# ---------------------------------------------------------------- encoders


class ImageEncoder:
    """The VAE as an encoder of RGB images of one size into latents [C, H/8, W/8]."""

    def __init__(self, vae: nn.Module, folder: Path) -> None:
        self.vae = vae
        scale = (vae.config.scaling_factor, vae.config.shift_factor)
        self.store = Store(folder / f"latents-{encoder_hash(vae, *scale)}")
        self.apart = _reads_blocks_alone(vae)

    def kind(self, image: Image.Image) -> tuple[int, int]:
        """Return the image's size: only images of one size can be encoded together."""
        return image.size

    def batch(self, size: tuple[int, int]) -> int:
        return max(1, min(32, PIXELS // (size[0] * size[1])))

    @torch.no_grad()
    def encode(self, images: list[Image.Image]) -> list[Record]:
        pixels = diptych.to_tensor(images).to(self.vae.device)
        return [(one,) for one in _small(latents.encode(self.vae, pixels))]


@torch.no_grad()
def _reads_blocks_alone(vae: nn.Module) -> bool:
    """Return whether a canvas's latents equal its frames' latents side by side.

    This holds if no layer looks across blocks. Each frame is then encoded once, however many pairs contain
    it; otherwise whole canvases are encoded, as in drawing.
    """
    side = 64
    noise = torch.rand(1, 3, side, 2 * side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    canvas = noise.to(vae.device)
    whole = latents.encode(vae, canvas).float()
    halves = torch.cat([latents.encode(vae, half).float() for half in diptych.split(canvas)], dim=-1)
    return bool((whole - halves).abs().max() < 1e-3 * whole.std())


class TextEncoder:
    """CLIP and T5 as encoders of prompts into embeddings [T, D] and pooled [P], as in the pipeline."""

    def __init__(self, pipe: Any, tokens: int, folder: Path) -> None:
        self.pipe, self.tokens = pipe, tokens
        lengths = pipe.tokenizer_max_length, tokens  # in tokens: CLIP's, which pads to it, and T5's
        parts = (pipe.text_encoder, pipe.text_encoder_2, pipe.tokenizer, pipe.tokenizer_2, *lengths)
        self.store = Store(folder / f"texts-{encoder_hash(*parts)}")

    def kind(self, prompt: str) -> None:
        return None

    def batch(self, kind: None) -> int:
        return 32

    @torch.no_grad()
    def encode(self, prompts: list[str]) -> list[Record]:
        embeds, pooled, _ = self.pipe.encode_prompt(
            prompts, None, device=self.pipe.text_encoder.device, max_sequence_length=self.tokens
        )
        return list(zip(_small(embeds), _small(pooled), strict=True))


def _small(values: Tensor) -> Tensor:
    """Return two bytes per number, on the CPU: bf16 as it is, float32 with a relative error below 1/2000."""
    return values.to("cpu", values.dtype if values.dtype == torch.bfloat16 else torch.float16)


def encode_missing(encoder: Any, inputs: dict[str, Any]) -> None:
    """Encode the inputs whose keys the store lacks; do not store outputs that are not finite.

    The batches and their order depend only on what is missing: a batch's outputs are not exactly those of
    single inputs, and a run that was killed here must get the same values when it is restarted.
    """
    kinds: dict[Any, list[str]] = {}
    for key in inputs:
        if key not in encoder.store:
            kinds.setdefault(encoder.kind(inputs[key]), []).append(key)
    for kind, keys in kinds.items():
        _encode_kind(encoder, keys, [inputs[key] for key in keys], encoder.batch(kind))


def _encode_kind(encoder: Any, keys: list[str], inputs: list[Any], batch: int) -> None:
    records: dict[str, Record] = {}
    for start in range(0, len(keys), batch):
        part = slice(start, start + batch)
        encoded = zip(keys[part], encoder.encode(inputs[part]), strict=True)
        records |= {key: record for key, record in encoded if all(one.isfinite().all() for one in record)}
        if records and (start + batch >= len(keys) or _size(records) > FILE_BYTES):
            encoder.store.write(records)
            records = {}


def _size(records: dict[str, Record]) -> int:
    return sum(tensor.nbytes for record in records.values() for tensor in record)
