"""The writing half of the hub's API: create a repository, store large files, commit."""

import base64
import json
import re
from typing import TYPE_CHECKING

from tests.hub.repository import Repository, is_large

if TYPE_CHECKING:
    from tests.hub.routes import Answer
    from tests.hub.server import Hub

ID = r"[\w.-]+/[\w.-]+"
BATCH = re.compile(rf"/(?:(datasets)/)?({ID})\.git/info/lfs/objects/batch")
WRITE = re.compile(rf"/api/(models|datasets)/({ID})/(preupload|commit)/[^/]+")


def route(hub: "Hub", path: str, asked: dict) -> "Answer | None":
    """Return the answer to a request that writes, or None if it is none."""
    found = WRITE.fullmatch(path) or BATCH.fullmatch(path)
    if not found and path != "/api/repos/create":
        return None
    if refusal := _check_writer(hub, asked["token"]):
        return refusal
    if not found:
        return _create(hub, json.loads(asked["body"]))
    repository = hub.repositories.get((found[1] or "models", found[2]))
    if repository is None:
        return _answer({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
    return _write(hub, repository, found[3] if found.re is WRITE else "batch", asked["body"])


def _answer(*given: object) -> "Answer":
    from tests.hub.routes import Answer  # which imports this module

    return Answer(*given)


def _check_writer(hub: "Hub", token: str) -> "Answer | None":
    if token in hub.writers:
        return None
    known = token in hub.readers
    message = "You don't have the rights to create here" if known else "Invalid username or password."
    return _answer({"error": message}, 403 if known else 401)


def _create(hub: "Hub", asked: dict) -> "Answer":
    kind = f"{asked.get('type', 'model')}s"
    name = f"{asked.get('organization') or 'me'}/{asked['name']}"
    private = asked.get("private", asked.get("visibility") == "private")
    repository = Repository(name=name, kind=kind, private=bool(private))
    address = hub.address_of(repository)
    if (kind, name) in hub.repositories:
        return _answer({"error": "You already created this repo", "url": address}, 409)
    hub.repositories[kind, name] = repository
    return _answer({"url": address, "name": name, "id": "0" * 24})


def _write(hub: "Hub", repository: Repository, action: str, body: bytes) -> "Answer":
    if action == "preupload":
        return _answer({"files": [_mode(file["path"]) for file in json.loads(body)["files"]]})
    if action == "batch":
        return _answer({"objects": [_upload(hub, one) for one in json.loads(body)["objects"]]})
    for line in body.splitlines():
        _apply(hub, repository, **json.loads(line))
    commit, address = repository.commit, hub.address_of(repository)
    return _answer({"commitUrl": f"{address}/commit/{commit}", "commitOid": commit})


def _mode(path: str) -> dict:
    return {"path": path, "uploadMode": "lfs" if is_large(path) else "regular", "shouldIgnore": False}


def _upload(hub: "Hub", wanted: dict) -> dict:
    if wanted["oid"] in hub.objects:
        return wanted
    return wanted | {"actions": {"upload": {"href": f"{hub.address}/lfs/{wanted['oid']}"}}}


def _apply(hub: "Hub", repository: Repository, key: str, value: dict) -> None:
    """Carry out one line of a commit."""
    if key == "file":
        repository.files[value["path"]] = base64.b64decode(value["content"])
    elif key == "lfsFile":
        repository.files[value["path"]] = hub.objects[value["oid"]]
    elif key == "deletedFile":
        repository.files.pop(value["path"], None)
    elif key == "deletedFolder":
        inside = [path for path in repository.files if path.startswith(f"{value['path'].strip('/')}/")]
        for path in inside:
            del repository.files[path]
