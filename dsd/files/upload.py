"""Upload a folder to the hub, with errors that say what to do."""

from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from dsd.files import hub
from dsd.files.errors import LoadError

REMEDY = "set the variable HF_TOKEN to a token that may write there (https://huggingface.co/settings/tokens)"


def check_upload(name: str) -> None:
    """Raise LoadError if the hub does not allow the name or there is no token to upload with."""
    _check_name(name)
    if get_token() is None:
        raise LoadError(f"uploading {name} needs a token: {REMEDY}")


def _check_name(name: str) -> None:
    if not hub.ID.fullmatch(name):
        raise LoadError(f"a repository on the hub is called owner/name, got {name!r}")


def upload(
    folder: Path, name: str, *, kind: str, private: bool = True, api: HfApi | None = None, **patterns: Any
) -> str:
    """Upload a folder as the model or dataset (`kind`) `name` (owner/name) and return its address.

    A new repository is private by default; an existing one keeps its visibility. `patterns` choose files, as
    in `HfApi.upload_folder`. Raise LoadError if the hub refuses or cannot be reached.
    """
    _check_name(name)
    api, path = api or HfApi(), name if kind == "model" else f"{kind}s/{name}"
    options = {"repo_type": kind, "commit_message": f"Upload the {kind}", **patterns}
    with hub.explain_errors(name, [path]):
        try:
            api.create_repo(name, repo_type=kind, private=private, exist_ok=True)
            api.upload_folder(repo_id=name, folder_path=folder, **options)
        except (OfflineModeIsEnabled, *hub.NETWORK) as error:
            raise LoadError(
                f"the hub cannot be reached, so {name} was not uploaded; {folder} is complete: run the same "
                "command again when there is a network"
            ) from error
        except HfHubHTTPError as error:
            if error.response.status_code not in (401, 403, 404):
                raise
            raise LoadError(f"the hub does not let you write {name}: {REMEDY}") from error
    return f"https://huggingface.co/{path}"
