"""What the hub refuses, in words that say what to do: accept a licence, set a token, find a network."""

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

# For every `from_pretrained`: opening a pickle, or a model's own code, would run whatever is in it.
SAFE = {"use_safetensors": True, "trust_remote_code": False}
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")  # owner/name
NO_ANSWER = (LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError)


def has_token() -> bool:
    """Whether a token of the hub is at hand; it is never read further."""
    return get_token() is not None


def check_source(source: str | Path, *, weights: bool = True) -> None:
    """LoadError unless this is a file, a folder, or could be a hub id; weights must not be mere pickles."""
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
def explained(name: str, sources: list[str], licence_page: str | None = None) -> Iterator[None]:
    """Turn whatever the hub or the disk refuses inside the block into a LoadError about the model `name`."""
    try:
        yield
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise LoadError(f"{name} brings code of its own, which is never run here: choose another") from error
    except (OSError, ImportError, HfHubHTTPError, OfflineModeIsEnabled, SafetensorError) as error:
        page, chain = licence_page or f"https://huggingface.co/{sources[0]}", list(_chain(error))
        damage = any(isinstance(one, SafetensorError) for one in chain) and _damage(sources)
        raise LoadError(damage or _advice(name, ", ".join(dict.fromkeys(sources)), page, chain)) from error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and those beneath it: diffusers wraps the hub's errors in its own."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _damage(sources: list[str]) -> str | None:
    """The first weight file that cannot be read, and what to do: the error itself names none."""
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
    """Those of a file, of a folder, or of what the cache has of a hub id."""
    path = Path(source)
    if path.is_file():
        return [path]
    if path.is_dir():
        return sorted([*path.glob("*.safetensors"), *path.glob("*/*.safetensors")])
    snapshots = Path(constants.HF_HUB_CACHE, f"models--{source.replace('/', '--')}", "snapshots")
    # A name there points to the file itself, which would be back at once if only the name were deleted.
    return sorted(file.resolve() for file in snapshots.rglob("*.safetensors"))


def _advice(name: str, sources: str, page: str, chain: list[BaseException]) -> str:
    gated = any(isinstance(error, GatedRepoError) for error in chain)
    if not gated and any(
        isinstance(error, RepositoryNotFoundError) for error in chain
    ):  # its status is 401 too
        return f"no such model on the hub: {sources}; if it is private, set the variable HF_TOKEN"
    if gated or any(_status(error) in (401, 403) for error in chain):
        return (
            f"{name} is gated: accept the licence at {page}, then set the variable HF_TOKEN to a token of "
            "that account (https://huggingface.co/settings/tokens)"
        )
    if any(isinstance(error, NO_ANSWER) for error in chain):
        why = "HF_HUB_OFFLINE is set" if os.environ.get("HF_HUB_OFFLINE") else "the hub cannot be reached"
        return f"{name} must be downloaded once ({sources}), and {why}; pocket needs no download"
    return f"cannot open {name} ({sources}): {chain[0]}"


def _status(error: BaseException) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)
