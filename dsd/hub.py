"""What the hub refuses, in words that say what to do: accept a licence, set a token, find a network."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import get_token
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

# For every `from_pretrained`: opening a pickle, or a model's own code, would run whatever is in it.
SAFE = {"use_safetensors": True, "trust_remote_code": False}
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")  # owner/name
NO_ANSWER = (LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError)


class LoadError(ValueError):
    """A model that cannot be opened; the message says what to do."""


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
    except (OSError, ImportError, HfHubHTTPError, OfflineModeIsEnabled) as error:
        page = licence_page or f"https://huggingface.co/{sources[0]}"
        raise LoadError(
            _advice(name, ", ".join(dict.fromkeys(sources)), page, list(_chain(error)))
        ) from error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and those beneath it: diffusers wraps the hub's errors in its own."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


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
