"""Check of all files that a request names: uploads, files made from them, and the examples.

Without this check, gradio would open any file that a request names without marking it as a file, and download
web addresses of any size while other requests wait. All events and endpoints of the page, including MCP, go
through `Page.preprocess_data`; `close_routes` closes the routes of gradio's that do not.
"""

import asyncio
import html
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import gradio as gr
from gradio import processing_utils
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from dsd.ui import fields, sessions, uploads
from dsd.ui.messages import explain
from dsd.ui.waiting import FairQueue

ADDRESS = "web addresses are not fetched here: save the image and upload it"
MAX_INLINE = 40_000_000  # characters of a `data:` address, equal to a file of 30 MB
LONGEST = 4096  # characters of a path: resolving 400,000 takes ten seconds
DEEPEST = 20  # lists and dicts inside each other; the page sends at most four
UNREADABLE = "a value of the request has the wrong type: reload the page, or compare with Use via API"
NOT_HERE = "this address is closed here: the page and its API do not need it"
# They write files, run programs, change code, store sessions or fetch web addresses, without an event.
CLOSED = re.compile(
    r"^[^=]*(/gradio_api/(process_recording|(undo-)?vibe-|dev/|deep_link|component_server|stream/|runs|"
    r"run-history|custom_component/|proxy=|file[=/]\s*[a-z]{2,}:/)|/monitoring)",
    re.IGNORECASE,
)
META = {"_type": "gradio.FileData"}
_OWN_ADDRESS = re.compile(r"^(https?://[^/]+)?/(\S*/)?gradio_api/file=")


class Page(gr.Blocks):
    """A page whose events accept only files that `admit` allows, from the upload and `public` folders."""

    public: tuple[Path, ...] = ()

    async def process_api(self, *args: Any, **options: Any) -> Any:
        """Answer every error with a sentence: gradio's own answer to an unexpected one is null."""
        try:
            return await super().process_api(*args, **options)
        except gr.Error:
            raise
        except Exception as error:
            raise gr.Error(html.escape(explain(error)), print_exception=False) from error

    async def preprocess_data(
        self, block_fn: Any, inputs: list[Any], state: Any, *args: Any, **options: Any
    ) -> Any:
        """Check the raw inputs of an event before gradio opens, copies or downloads anything."""
        try:
            admitted = await asyncio.to_thread(admit, inputs, self.folders())
            fields.check(block_fn, admitted)
        except ValueError as error:
            text = str(error)  # plain for programs; the page would show it as HTML
            if block_fn.api_visibility != "public":
                text = html.escape(text)
            raise gr.Error(text, print_exception=False) from error
        if state is not None:
            sessions.mark(state, block_fn.api_visibility)
        try:
            return await super().preprocess_data(block_fn, admitted, state, *args, **options)
        except (TypeError, ValueError, LookupError, AttributeError) as error:  # no component takes them
            raise gr.Error(UNREADABLE, print_exception=False) from error

    def folders(self) -> tuple[Path, ...]:
        """Return the folders whose files a request may name."""
        return Path(os.environ[uploads.VARIABLE]), *self.public

    def queue(self, *args: Any, **options: Any) -> "Page":
        """Replace gradio's queue by a fair one; requests cannot go around it."""
        super().queue(*args, **options | {"api_open": False})
        made = self._queue
        self._queue = FairQueue(
            made.live_updates, made.max_thread_count, made.update_intervals, made.max_size, self,
            made.default_concurrency_limit,
        )  # fmt: skip
        return self


def admit(value: Any, folders: tuple[Path, ...], depth: int = 0) -> Any:
    """Return `value` with every file in it checked, named by its real path and marked as a file.

    Raise ValueError for a file outside `folders`. The message does not reveal whether the file exists.
    """
    if depth > DEEPEST:
        raise ValueError(UNREADABLE)
    if isinstance(value, list | tuple):
        return [admit(item, folders, depth + 1) for item in value]
    if not isinstance(value, dict):
        return value
    if "path" in value or "url" in value:
        return _file(value, folders)
    return {key: admit(item, folders, depth + 1) for key, item in value.items()}


def _file(data: dict[str, Any], folders: tuple[Path, ...]) -> dict[str, Any]:
    path, url = data.get("path"), data.get("url")
    if path is None and isinstance(url, str) and url.startswith("data:"):
        path = _save(url, folders[0])
    real, name = _resolve(url if path is None else path, folders), data.get("orig_name")
    return {"path": str(real), "orig_name": Path(name).name if isinstance(name, str) else None, "meta": META}


def _save(url: str, folder: Path) -> str:
    if len(url) > MAX_INLINE:
        raise ValueError("the image is too large: upload one of at most 30 MB")
    if not uploads.make_room(len(url)):
        raise ValueError(uploads.FULL)
    try:
        return processing_utils.save_base64_to_cache(url, str(folder))
    except Exception as error:  # gradio can raise any exception for malformed data
        raise ValueError("the image inside the request cannot be read: upload it as a file") from error


def _resolve(path: Any, folders: tuple[Path, ...]) -> Path:
    if not isinstance(path, str) or len(path) > LONGEST:
        raise ValueError(uploads.GONE)
    path = unquote(_OWN_ADDRESS.sub("", path)) if _OWN_ADDRESS.match(path) else path
    if re.match(r"[a-z]+:", path, re.IGNORECASE) and not Path(path).drive:
        raise ValueError(ADDRESS)
    try:
        real = Path(path).resolve()
        if real.is_file() and any(real.is_relative_to(folder.resolve()) for folder in folders):
            uploads.use(real)
            return real
    except (OSError, RuntimeError, ValueError):  # too long, a loop of links, or a zero byte
        pass
    raise ValueError(uploads.GONE)


def close_routes(app: ASGIApp) -> ASGIApp:
    """Return the app without gradio's routes that the page does not need, each of them a way in."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and CLOSED.search(unquote(scope["path"])):
            await JSONResponse({"detail": NOT_HERE}, 404)(scope, receive, send)
        else:
            await app(scope, receive, send)

    return serve
