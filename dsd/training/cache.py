"""What frozen encoders make, kept on disk: records found by key, read by memory map, checked when read.

A folder belongs to one encoder: its name is a hash of all of the encoder's numbers, so that a changed encoder
never meets a stale record. A file is written whole or not at all; it names its records and their checksums.
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

TOLERATED = 0.01  # the share of damage above which something must be wrong with more than a few rows
FILE_BYTES = 256_000_000  # a file is closed when it holds more
PIXELS = 4 * 512 * 1024  # encoded together: about 3 GB of activations in FLUX's VAE
# Of a config; nothing of these shows in a record.
UNTOLD = ("transformers_version", "dtype", "torch_dtype", "architectures")
FORMAT = 1  # raise it when the same inputs give other records

Record = tuple[Tensor, ...]


class DamagedRecord(ValueError):
    """A record that is not what was written; the message names it."""


class Store:
    """The records in one folder. Each is a tuple of tensors; all of one file have the same shapes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._places: dict[str, tuple[int, int]] = {}  # key -> file, row
        self._files: list[_File] = []
        self._names: list[str] = []
        self.damaged: list[str] = []
        self.refresh()

    def refresh(self) -> "Store":
        """Take in what other processes have written. A damaged file is named and set aside.

        What it held is missing then, and is encoded again. TrainingError for more than one in a hundred.
        """
        for path in sorted(self.folder.glob("*.safetensors")):
            if path.name not in self._names:
                try:
                    self._open(path)
                except FileNotFoundError:  # another process was quicker to set it aside
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
        with suppress(FileNotFoundError):  # another process may have been quicker
            path.replace(path.with_suffix(".damaged"))

    def _open(self, path: Path) -> None:
        with safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()["records"])
            names = sorted(file.keys())
            tensors = [file.get_tensor(name) for name in names]  # mapped, not read
        self._names.append(path.name)
        self._files.append(_File(tensors, [_bytes(tensor) for tensor in tensors], about["sums"]))
        place = len(self._files) - 1
        self._places |= {key: (place, row) for row, key in enumerate(about["keys"])}

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def place(self, key: str) -> tuple[int, int]:
        """Where a record is, for `read`."""
        return self._places[key]

    def read(self, place: Sequence[int]) -> Record:
        """The record at a place. DamagedRecord names one whose checksum is not what it was."""
        number, row = place
        file = self._files[number]
        if _checksum(part[row] for part in file.views) != file.sums[row]:
            raise DamagedRecord(f"record {row} of {self.folder / self._names[number]} is damaged")
        return tuple(tensor[row] for tensor in file.tensors)

    def write(self, records: dict[str, Record]) -> None:
        """Add records; those of different shapes go into files of their own."""
        shapes: dict[tuple, list[str]] = {}
        for key, record in records.items():
            shapes.setdefault(tuple(tensor.shape for tensor in record), []).append(key)
        for keys in shapes.values():
            path = self.folder / f"{text_hash(*keys)}.safetensors"
            jsonl.write(path, _file([records[key] for key in keys], keys))
            self._open(path)


@dataclass(frozen=True)
class _File:
    """What is mapped of a file of n records."""

    tensors: list[Tensor]  # [n, ...] each
    views: list[np.ndarray]  # [n, size] each: the same as bytes
    sums: list[int]  # n checksums


def _file(records: list[Record], keys: list[str]) -> bytes:
    """What a file of these records holds."""
    tensors = [torch.stack(column) for column in zip(*records, strict=True)]
    views = [_bytes(tensor) for tensor in tensors]
    sums = [_checksum(view[row] for view in views) for row in range(len(keys))]
    named = {str(i): tensor for i, tensor in enumerate(tensors)}
    return save(named, metadata={"records": json.dumps({"keys": keys, "sums": sums})})


def _bytes(tensor: Tensor) -> np.ndarray:
    """A view [n, size] of a tensor [n, ...]."""
    return tensor.view(len(tensor), -1).view(torch.uint8).numpy()


def _checksum(parts: Iterable[np.ndarray]) -> int:
    total = 0
    for part in parts:
        total = zlib.crc32(part, total)
    return total


# ---------------------------------------------------------------- names


def text_hash(*texts: str) -> str:
    """32 hex digits that name some texts, in their order."""
    return hashlib.blake2b("\0".join(texts).encode(), digest_size=16).hexdigest()


def picture_hash(picture: Image.Image) -> str:
    """32 hex digits that name an RGB picture by its size and pixels."""
    size = b"%d %d " % picture.size
    return hashlib.blake2b(size + picture.tobytes(), digest_size=16).hexdigest()


def encoder_hash(*parts: Any) -> str:
    """Twelve hex digits that name networks, tokenizers and settings by all that their outputs depend on.

    Of a network that is its numbers and its config: a number of heads or an activation is not in the weights.
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
    """Without names of folders, versions and the type of the numbers, which the numbers themselves tell."""
    config = getattr(part, "config", {})
    config = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    kept = {name: value for name, value in config.items() if name[0] != "_" and name not in UNTOLD}
    return json.dumps(kept, sort_keys=True, default=str)


# ---------------------------------------------------------------- encoders


class PictureEncoder:
    """The VAE: RGB pictures of one size to latents [C, H/8, W/8]."""

    def __init__(self, vae: nn.Module, folder: Path) -> None:
        self.vae = vae
        scale = (vae.config.scaling_factor, vae.config.shift_factor)
        self.store = Store(folder / f"latents-{encoder_hash(vae, *scale)}")
        self.apart = _reads_blocks_alone(vae)

    def kind(self, picture: Image.Image) -> tuple[int, int]:
        """Only pictures of one kind can be encoded together."""
        return picture.size

    def batch(self, size: tuple[int, int]) -> int:
        return max(1, min(32, PIXELS // (size[0] * size[1])))

    @torch.no_grad()
    def encode(self, pictures: list[Image.Image]) -> list[Record]:
        pixels = diptych.to_tensor(pictures).to(self.vae.device)
        return [(one,) for one in _small(latents.encode(self.vae, pixels))]


@torch.no_grad()
def _reads_blocks_alone(vae: nn.Module) -> bool:
    """Whether a canvas's latents are its frames' side by side, as they are where nothing looks across blocks.

    Then frames are encoded once each, however many pairs they are in; else canvases are, as when drawing.
    """
    side = 64
    noise = torch.rand(1, 3, side, 2 * side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    canvas = noise.to(vae.device)
    whole = latents.encode(vae, canvas).float()
    halves = torch.cat([latents.encode(vae, half).float() for half in diptych.split(canvas)], dim=-1)
    return bool((whole - halves).abs().max() < 1e-3 * whole.std())


class TextEncoder:
    """CLIP and T5: prompts to embeddings [T, D] and pooled [P], as the pipeline makes them."""

    def __init__(self, pipe: Any, tokens: int, folder: Path) -> None:
        self.pipe, self.tokens = pipe, tokens
        lengths = pipe.tokenizer_max_length, tokens  # of CLIP's texts, which are padded to it, and of T5's
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
    """Two bytes a number: as they are in bf16; float32 loses at most a two-thousandth of each."""
    return values.to("cpu", values.dtype if values.dtype == torch.bfloat16 else torch.float16)


def encode_missing(encoder: Any, inputs: dict[str, Any]) -> None:
    """Encode those inputs, by key, that the store has not. What gives no finite numbers is not stored.

    What is encoded together, and in which order, depends on what is missing alone: numbers of a batch are not
    exactly those of a single input, and a run that was killed here shall find the same ones again.
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
