"""Hub errors turned into messages that say what to do: accept a license, set a token, connect."""

import importlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import util
from pathlib import Path

from huggingface_hub import constants, get_session, get_token
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError
from safetensors import SafetensorError, safe_open

from dsd.files.errors import LoadError

# For every `from_pretrained`: pickles and custom model code could run arbitrary code.
SAFE = {"use_safetensors": True, "trust_remote_code": False}
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
PATIENCE = 5  # seconds in which the hub should answer
ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")  # owner/name
# A lost connection; the hub's library has used both packages, and neither's errors are OSErrors.
NETWORK = tuple(
    importlib.import_module(name).TransportError for name in ("httpx", "httpx2") if util.find_spec(name)
)


def has_token() -> bool:
    return get_token() is not None


def check_source(source: str | Path, *, weights: bool = True) -> None:
    """Raise LoadError if `source` is neither a path nor a possible hub id, or has only pickles as weights.

    The weights are checked only in local paths, and not at all if `weights` is False.
    """
    path = Path(source)
    if not path.exists() and not ID.fullmatch(str(source)):
        raise LoadError(
            f"not found: {source} (no such file or folder, nor a hub id such as owner/name): check the name"
        )
    files = [path] if path.is_file() else [*path.glob("*"), *path.glob("*/*")]
    pickles = sorted(file.name for file in files if file.suffix in PICKLES)
    if weights and pickles and not any(file.suffix == ".safetensors" for file in files):
        raise LoadError(
            f"{path} has its weights in {pickles[0]}, a pickle, which can run code when opened: convert it "
            "to .safetensors, or choose a model with .safetensors files"
        )


@contextmanager
def offline_if_unreachable(source: str) -> Iterator[None]:
    """Use the cache alone inside the block if the hub does not answer; its library would retry each file."""
    before = constants.HF_HUB_OFFLINE
    try:
        if not Path(source).exists() and not before:
            get_session().head(constants.ENDPOINT, timeout=PATIENCE)
    except NETWORK:
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@contextmanager
def explain_errors(
    name: str, sources: list[str], license_page: str | None = None, *, value_errors: bool = False
) -> Iterator[None]:
    """Convert errors of the hub or the disk inside the block to a LoadError about the model `name`.

    If `value_errors` is True, also convert ValueErrors, which transformers raises for unknown models.
    """
    try:
        yield
    except LoadError:
        raise
    except (ValueError, OSError, ImportError, SafetensorError, *NETWORK) as error:  # the hub's are OSErrors
        if "trust_remote_code" in str(error):
            message = f"{name} needs custom model code, which is never run here: choose another model"
        elif isinstance(error, ValueError) and not value_errors:
            raise
        else:
            causes, page = _causes(error), license_page or f"https://huggingface.co/{sources[0]}"
            message = _find_damage(sources, causes) or _advise(name, sources, page, causes)
        raise LoadError(message) from error


def _causes(error: BaseException) -> list[BaseException]:
    """Return the error and its causes: diffusers wraps the hub's errors in its own."""
    cause = error.__cause__ or error.__context__
    return [error, *(_causes(cause) if cause else [])]


def _find_damage(sources: list[str], causes: list[BaseException]) -> str | None:
    """Return a message with the first damaged weight file, which a SafetensorError does not name, or None."""
    if not any(isinstance(cause, SafetensorError) for cause in causes):
        return None
    for source in sources:
        is_local = Path(source).exists()
        remedy = "copy, download or save it again" if is_local else "delete it to download it again"
        for file in _weight_files(source):
            try:
                safe_open(file, framework="pt")
            except SafetensorError as problem:
                return f"{file} is damaged or not a safetensors file ({problem}): {remedy}"
    return None


def _weight_files(source: str) -> list[Path]:
    """Return the weight files of a path, or of a hub id in the local cache."""
    path = Path(source)
    if path.is_file():
        return [path]
    if path.is_dir():
        return sorted([*path.glob("*.safetensors"), *path.glob("*/*.safetensors")])
    snapshots = Path(constants.HF_HUB_CACHE, f"models--{source.replace('/', '--')}", "snapshots")
    # Resolve the links: deleting only the link would restore the damaged file on the next download.
    return sorted(file.resolve() for file in snapshots.rglob("*.safetensors"))


def _advise(name: str, sources: list[str], page: str, causes: list[BaseException]) -> str:
    names = ", ".join(dict.fromkeys(sources))
    statuses = [getattr(getattr(cause, "response", None), "status_code", None) for cause in causes]

    def is_any(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    # The status of a missing repository is 401 too, and a gated one counts as missing.
    if is_any(RepositoryNotFoundError) and not is_any(GatedRepoError):
        return (
            f"no such model on the hub: {names}; check the name, or set the variable HF_TOKEN if the model "
            "is private"
        )
    if is_any(GatedRepoError) or 401 in statuses or 403 in statuses:
        return (
            f"{name} is gated: accept the license at {page}, then set the variable HF_TOKEN to a token of "
            "that account (https://huggingface.co/settings/tokens)"
        )
    if is_any(LocalEntryNotFoundError, ConnectionError, *NETWORK):
        reason = "HF_HUB_OFFLINE is set" if os.environ.get("HF_HUB_OFFLINE") else "the hub cannot be reached"
        fix = "connect once, or use the model pocket, which needs no download"
        return f"{name} must be downloaded once ({names}), but {reason}: {fix}"
    return f"cannot open {name} ({names}): {causes[0]}"
