"""Point the installed libraries of this process, or the environment of another one, at a fake hub."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock
from urllib.parse import urlsplit

import huggingface_hub
from huggingface_hub import constants, hf_api
from transformers.utils import hub as transformers_hub


def environment(address: str, cache: Path, token: str | None = None) -> dict[str, str]:
    """Return the environment of a process that uses the hub at this address."""
    named = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    told = {
        "HF_ENDPOINT": address,
        "HF_HOME": str(cache),
        "HF_HUB_CACHE": str(cache),
        "HF_HUB_DISABLE_XET": "1",
    }
    return named | told | ({"HF_TOKEN": token} if token else {})


@contextmanager
def connected(address: str, cache: Path, token: str | None = None) -> Iterator[None]:
    """Use the hub at this address, with its own cache, inside the block.

    The libraries read HF_ENDPOINT and the other variables when they are imported, which happened long ago.
    """
    values = {
        "ENDPOINT": address,
        "HUGGINGFACE_CO_URL_TEMPLATE": address + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_URL_HOSTS": constants.HF_URL_HOSTS | {urlsplit(address).hostname},
        "HF_HUB_CACHE": str(cache),
        "HF_TOKEN_PATH": str(cache / "token"),
        "AGENT_HARNESSES_PATH": str(cache / "agents.json"),
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_OFFLINE": False,
    }
    variables = {"HF_ENDPOINT": address, "HF_HUB_CACHE": str(cache), "HF_HUB_DISABLE_XET": "1"}
    variables |= {"HF_TOKEN": token} if token else {}
    with mock.patch.multiple(constants, **values), mock.patch.dict(os.environ, variables):
        os.environ.pop("HF_HUB_OFFLINE", None)
        if not token:
            os.environ.pop("HF_TOKEN", None)
        with (
            mock.patch.object(hf_api.api, "endpoint", address),
            mock.patch.object(transformers_hub, "_hf_api", None),
        ):
            yield


def forget_listings() -> None:
    """Forget what `HfFileSystem` knows about the hub, such as files that were changed since."""
    huggingface_hub.HfFileSystem.clear_instance_cache()
