"""The fake hub: the parts of the Hugging Face API that downloads, listings and uploads use.

Large files are redirected to `/lfs/...`, as the real hub redirects them to its storage. Every request is
recorded in `Hub.seen`, so that a test can say what was downloaded.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from urllib.parse import parse_qs, unquote, urlsplit

from tests import local_server
from tests.hub.repository import Repository, is_large, sha256
from tests.hub.routes import Answer, route
from tests.local_server import QuietHandler


class Hub:
    """The repositories, the uploaded objects, and the requests so far, as (method, path)."""

    def __init__(self, repositories: Iterable[Repository] = ()):
        self.repositories = {(one.kind, one.name): one.copy() for one in repositories}
        self.objects: dict[str, bytes] = {}  # uploaded LFS objects by their SHA-256
        self.writers = {"hf_writer"}  # tokens that may create and change repositories
        self.readers = {"hf_reader"}  # other valid tokens
        self.seen: list[tuple[str, str]] = []
        self.address = ""

    @property
    def storage(self) -> str:
        """Return the address of the large files: another host than the hub's, to which no token is sent."""
        return self.address.replace("127.0.0.1", "localhost")

    def __getitem__(self, name: str) -> Repository:
        found = [one for (_, known), one in self.repositories.items() if known == name]
        if not found:
            raise KeyError(f"the fake hub has no {name}, but {', '.join(n for _, n in self.repositories)}")
        return found[0]

    def address_of(self, repository: Repository) -> str:
        """Return the address of a repository's page."""
        prefix = "" if repository.kind == "models" else f"{repository.kind}/"
        return f"{self.address}/{prefix}{repository.name}"

    def fetched(self, name: str) -> set[str]:
        """Return the files of a repository whose content was requested."""
        repository, gets = self[name], {path for method, path in self.seen if method == "GET"}
        start = f"/{name}/resolve/"
        small = {path.split(start)[1].split("/", 1)[1] for path in gets if start in path}
        large = {path for path, content in repository.files.items() if f"/lfs/{sha256(content)}" in gets}
        return {path for path in small if not is_large(path)} | large


def _handler(hub: Hub) -> type[QuietHandler]:
    class Handler(QuietHandler):
        def answer(self) -> None:
            length = int(self.headers["Content-Length"] or 0)
            body, parts = self.rfile.read(length), urlsplit(self.path)
            hub.seen.append((self.command, unquote(parts.path)))
            token = (self.headers["Authorization"] or "").removeprefix("Bearer ")
            asked = {"query": parse_qs(parts.query), "body": body, "token": token}
            self.send(route(hub, self.command, unquote(parts.path), asked))

        do_GET = do_HEAD = do_POST = do_PUT = answer

        def send(self, answer: Answer | None) -> None:
            if answer is None:
                self.close_connection = True
                return
            whole = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
            status, content, told = self.part(answer.status, whole)
            self.send_response(status)
            headers = {"Content-Type": "application/json", **answer.headers, **told}
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content[: answer.cut])
                self.close_connection = answer.cut is not None and answer.cut < len(content)

        def part(self, status: int, content: bytes) -> tuple[int, bytes, dict[str, str]]:
            """Return the part of a file that a Range header asks for."""
            wanted = self.headers["Range"]
            if status != 200 or not wanted:
                return status, content, {}
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start = int(first) if first else len(content) - int(last)
            end = int(last) + 1 if first and last else len(content)
            if start >= len(content):
                return 416, b"", {"Content-Range": f"bytes */{len(content)}"}
            end = min(end, len(content))
            return 206, content[start:end], {"Content-Range": f"bytes {start}-{end - 1}/{len(content)}"}

    return Handler


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Serve the hub at `hub.address`, the value for HF_ENDPOINT."""
    with local_server.serving(_handler(hub)) as hub.address:
        yield hub
