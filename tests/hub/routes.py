"""Which request gets which answer: the reading half of the hub's API, and its refusals."""

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.hub import uploads
from tests.hub.repository import Repository, blob_id, is_large, sha256

if TYPE_CHECKING:
    from tests.hub.server import Hub

ID = r"[\w.-]+/[\w.-]+"
API = re.compile(rf"/api/(models|datasets)/({ID})(?:/([\w-]+)(?:/([^/]+)(?:/(.*))?)?)?")
FILE = re.compile(rf"/(?:(datasets)/)?({ID})/resolve/([^/]+)/(.+)")
STORED = re.compile(r"/lfs/(\w+)")


@dataclass(frozen=True)
class Answer:
    """A response; a body that is not bytes is sent as JSON, and `cut` ends it early."""

    body: Any = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None


def refused(status: int, code: str, message: str) -> Answer:
    headers = {"X-Error-Code": code, "X-Error-Message": message}
    return Answer({"error": message}, status, headers)


def route(hub: "Hub", method: str, path: str, asked: dict) -> Answer | None:
    """Return the answer to a request, or None to close the connection."""
    if found := STORED.fullmatch(path):
        return _stored(hub, method, found[1], asked)
    if found := FILE.fullmatch(path):
        kind, name, revision, file = found.groups()
        return _of_repository(hub, kind or "models", name, asked) or _file(hub, found.groups(), asked)
    if method in ("POST", "PUT") and (answer := uploads.route(hub, path, asked)):
        return answer
    if found := API.fullmatch(path):
        return _of_repository(hub, found[1], found[2], asked) or _api(hub, found.groups(), asked)
    return _rest(hub, path, asked)


def _rest(hub: "Hub", path: str, asked: dict) -> Answer:
    if path == "/api/whoami-v2":
        known = asked["token"] in hub.writers | hub.readers
        return (
            Answer({"name": "me", "type": "user"})
            if known
            else refused(401, "", "Invalid username or password.")
        )
    if path == "/api/validate-yaml":
        return Answer({"errors": [], "warnings": []})
    return Answer(
        {"error": f"the fake hub has no {path}"}, 200 if path.startswith("/api/telemetry/") else 404
    )


def _of_repository(hub: "Hub", kind: str, name: str, asked: dict) -> Answer | None:
    """Return the refusal of a whole repository, or None if it answers."""
    repository = hub.repositories.get((kind, name))
    known = asked["token"] in hub.writers | hub.readers
    if asked["token"] and not known:
        return Answer({"error": "Invalid credentials in Authorization header"}, 401)
    if repository is None or repository.missing or (repository.private and not known):
        # The real hub says 401 to visitors, because the repository may be private.
        return refused(404 if known else 401, "RepoNotFound", "Repository not found")
    if repository.down:
        return Answer({"error": "Service Unavailable"}, repository.down)
    return None


def _api(hub: "Hub", found: tuple, asked: dict) -> Answer | None:
    kind, name, action, revision, path = found
    repository = hub.repositories[kind, name]
    if repository.hangs_up:
        return None
    if action in (None, "auth-check"):
        return (action and _gate(repository, asked["token"])) or Answer(repository.info())
    if revision is not None and not repository.knows(revision):
        return refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
    if action == "revision":
        return Answer(repository.info())
    if action == "tree":
        return _tree(repository, path or "", asked["query"])
    if action == "paths-info":
        return Answer(_paths_info(repository, asked))
    return refused(404, "", f"there is no {action} in the fake hub")


def _tree(repository: Repository, folder: str, query: dict) -> Answer:
    entries = repository.tree(folder.strip("/"), recursive=query.get("recursive", [""])[0].lower() == "true")
    if entries is None and folder:
        return refused(404, "EntryNotFound", f"{folder} does not exist")
    return Answer(entries or [])


def _paths_info(repository: Repository, asked: dict) -> list[dict]:
    paths = json.loads(asked["body"])["paths"]
    return [repository.entry(path) for path in paths if repository.holds(path)]


def _gate(repository: Repository, token: str) -> Answer | None:
    """Return the refusal of a license that was not accepted: 401 without a token, 403 with one."""
    if not repository.gated or token in repository.granted:
        return None
    return refused(403 if token else 401, "GatedRepo", f"Access to model {repository.name} is restricted.")


def _file(hub: "Hub", found: tuple, asked: dict) -> Answer | None:
    kind, name, revision, path = found
    repository = hub.repositories[kind or "models", name]
    if repository.hangs_up:
        return None
    if not repository.knows(revision):
        return refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
    if gate := _gate(repository, asked["token"]):
        return gate
    headers = {"X-Repo-Commit": repository.commit, "Accept-Ranges": "bytes"}
    if path not in repository.files:
        absent = refused(404, "EntryNotFound", "Entry not found")
        return Answer(absent.body, 404, headers | absent.headers)
    return _content(hub, repository, path, headers)


def _content(hub: "Hub", repository: Repository, path: str, headers: dict[str, str]) -> Answer:
    content = repository.files[path]
    if not is_large(path):
        return Answer(
            content, headers={**headers, "Content-Type": "text/plain", "ETag": f'"{blob_id(content)}"'}
        )
    linked = {"X-Linked-Size": str(len(content)), "X-Linked-Etag": f'"{sha256(content)}"'}
    return Answer(b"", 302, {**headers, **linked, "Location": f"{hub.storage}/lfs/{sha256(content)}"})


def _stored(hub: "Hub", method: str, digest: str, asked: dict) -> Answer:
    """Send a large file, or receive one."""
    if method == "PUT":
        hub.objects[digest] = asked["body"]
        return Answer(headers={"ETag": f'"{digest}"'})
    for repository in hub.repositories.values():
        for path, content in repository.files.items():
            if is_large(path) and sha256(content) == digest:
                headers = {"Content-Type": "binary/octet-stream", "ETag": f'"{digest}"'}
                return Answer(content, headers=headers, cut=_cut(repository))
    return Answer(status=404)


def _cut(repository: Repository) -> int | None:
    if repository.cut is None or not repository.cuts:
        return None
    repository.cuts -= 1
    return repository.cut
