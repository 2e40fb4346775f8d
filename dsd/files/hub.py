"""Hub errors turned into messages that say what to do: accept a license, set a token, connect."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import constants, get_token
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from safetensors import SafetensorError, safe_open

from dsd.files.errors import LoadError

# For every `from_pretrained`: pickles and custom model code could run arbitrary code.
SAFE = {"use_safetensors": True, "trust_remote_code": False}
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")  # owner/name
NO_ANSWER = (LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError)


def has_token() -> bool:
    """Return whether a hub token is set; its value is not used."""
    return get_token() is not None


def check_source(source: str | Path, *, weights: bool = True) -> None:
    """Raise LoadError unless `source` is a path or a possible hub id, and has weights other than pickles.

    The second check is for local paths, and is skipped if `weights` is False.
    """
    path = Path(source)
    if not path.exists() and not ID.fullmatch(str(source)):
        raise LoadError(f"not found: {source} (no such file or folder, and not a hub id owner/name)")
    if weights:
        _check_safe(path)


def _check_safe(path: Path) -> None:
    found = [path] if path.is_file() else [*path.glob("*"), *path.glob("*/*")]
    pickles = sorted(file for file in found if file.suffix in PICKLES)
    if pickles and not any(file.suffix == ".safetensors" for file in found):
        raise LoadError(
            f"{path} holds its weights in {pickles[0].name}, a pickle, which can run code when opened: "
            "only .safetensors files are loaded, so convert it, or take a model that comes with them"
        )


@contextmanager
def explained(name: str, sources: list[str], license_page: str | None = None) -> Iterator[None]:
    """Convert errors of the hub or the disk inside the block to a LoadError about the model `name`."""
    try:
        yield
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise LoadError(f"{name} brings code of its own, which is never run here: choose another") from error
    except (OSError, ImportError, HfHubHTTPError, OfflineModeIsEnabled, SafetensorError) as error:
        page, chain = license_page or f"https://huggingface.co/{sources[0]}", list(_chain(error))
        damage = any(isinstance(one, SafetensorError) for one in chain) and _damage(sources)
        raise LoadError(damage or _advice(name, ", ".join(dict.fromkeys(sources)), page, chain)) from error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the error and its causes: diffusers wraps the hub's errors in its own."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _damage(sources: list[str]) -> str | None:
    """Name the first unreadable weight file and the remedy, because the error itself names no file."""
    for source in sources:
        local = Path(source).exists()
        remedy = "copy, download or save it again" if local else "delete it, and it is downloaded again"
        for file in _weight_files(source):
            try:
                safe_open(file, framework="pt")
            except SafetensorError as error:
                return f"{file} is damaged, or no safetensors file ({error}): {remedy}"
    return None


def _weight_files(source: str) -> list[Path]:
    """Return the weight files of a file, a folder, or a hub id in the cache."""
    path = Path(source)
    if path.is_file():
        return [path]
    if path.is_dir():
        return sorted([*path.glob("*.safetensors"), *path.glob("*/*.safetensors")])
    snapshots = Path(constants.HF_HUB_CACHE, f"models--{source.replace('/', '--')}", "snapshots")
    # Resolve the links: deleting only the link would restore the damaged file on the next download.
    return sorted(file.resolve() for file in snapshots.rglob("*.safetensors"))


def _advice(name: str, sources: str, page: str, chain: list[BaseException]) -> str:
    gated = any(isinstance(error, GatedRepoError) for error in chain)
    if not gated and any(
        isinstance(error, RepositoryNotFoundError) for error in chain
    ):  # its status is also 401
        return f"no such model on the hub: {sources}; if it is private, set the variable HF_TOKEN"
    if gated or any(_status(error) in (401, 403) for error in chain):
        return (
            f"{name} is gated: accept the license at {page}, then set the variable HF_TOKEN to a token of "
            "that account (https://huggingface.co/settings/tokens)"
        )
    if any(isinstance(error, NO_ANSWER) for error in chain):
        why = "HF_HUB_OFFLINE is set" if os.environ.get("HF_HUB_OFFLINE") else "the hub cannot be reached"
        return f"{name} must be downloaded once ({sources}), and {why}; pocket needs no download"
    return f"cannot open {name} ({sources}): {chain[0]}"


def _status(error: BaseException) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)
