"""Distributed checkpoints, torch's and DeepSpeed's, read without running anything that a file in them names.

torch pickles a checkpoint's index, `.metadata`. Reading a pickle runs whatever it names, so only the classes
of an index are allowed here. The tensors themselves are read by torch with `weights_only`. DeepSpeed pickles
all of its files and reads them without that protection, so its reader is replaced.
"""

import pickle
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta

from dsd.training.options import TrainingError

INDEX = ".metadata"
REMEDY = "resume only from states that this command wrote, or delete that folder"
ALLOWED = {
    "torch": {"Size"},
    "torch.serialization": {"_get_layout"},
    "torch.distributed.checkpoint.metadata": {
        "_MEM_FORMAT_ENCODING", "BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex",
        "StorageMeta", "TensorProperties", "TensorStorageMetadata",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "pathlib": {"PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"},
    "pathlib._local": {"PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"},  # Python 3.13
}  # fmt: skip
# What DeepSpeed 0.19 saves in its stages 1 to 3, besides tensors and plain values.
DEEPSPEED = {
    "deepspeed.runtime.fp16.loss_scaler": ("LossScaler", "DynamicLossScaler"),
    "deepspeed.runtime.zero.config": ("ZeroStageEnum",),
    "deepspeed.utils.tensor_fragment": ("fragment_address",),
}


class _Index(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name in ALLOWED.get(module, ()):
            return super().find_class(module, name)
        if module == "torch" and isinstance(found := getattr(torch, name, None), torch.dtype):
            return found
        raise pickle.UnpicklingError(f"it names {module}.{name}, which no index needs")


class SafeReader(FileSystemReader):
    """A reader of a checkpoint folder that uses `read_index`."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        path = Path(self._get_metadata_path(kwargs.get("rank")))
        metadata = read_index(path)
        metadata.storage_meta = getattr(metadata, "storage_meta", None) or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


def read_index(path: Path) -> Metadata:
    """Return an index; raise TrainingError if it names code, or files outside its folder."""
    try:
        with path.open("rb") as file:
            metadata = _Index(file).load()
        names = {info.relative_path for info in metadata.storage_data.values()}
        foreign = [name for name in names if Path(name).name != name]
    except OSError:
        raise
    except Exception as error:  # a damaged or forged pickle can raise anything
        raise TrainingError(f"{path} cannot be read safely ({error}): {REMEDY}") from error
    if foreign:
        raise TrainingError(f"{path} names the file {foreign[0]!r} outside its folder: {REMEDY}")
    return metadata


def protect_deepspeed(engine: Any) -> None:
    """Let a DeepSpeed engine read its checkpoints by `read_deepspeed`."""
    engine.checkpoint_engine.load = read_deepspeed


def read_deepspeed(path: str, map_location: Any = None) -> Any:
    """Return the content of one of DeepSpeed's files; raise TrainingError if it names code."""
    try:
        with torch.serialization.safe_globals([*_deepspeed_classes()]):
            return torch.load(path, map_location=map_location, weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a damaged or forged pickle can raise anything
        named = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it names {named[1]}, which no state needs" if named else "it is damaged"
        raise TrainingError(f"{path} cannot be read safely ({reason}): {REMEDY}") from error


def _deepspeed_classes() -> Iterator[type]:
    for module, names in DEEPSPEED.items():
        for name in names:
            yield getattr(import_module(module), name)
