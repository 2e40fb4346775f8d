"""What other sites show of a shared link: the project's title, sentence and image, in place of gradio's."""

import html
import re
from collections.abc import Callable
from pathlib import Path

from gradio.route_utils import get_root_url
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dsd.ui.server import route_path

IMAGE = Path(__file__).parents[2] / "assets" / "teaser.png"
ADDRESS = "/preview.png"
OF_GRADIO = re.compile(rb'<meta\s+(?:property="og:|name="twitter:)[^>]*>\s*')


def serve(app: ASGIApp, title: str, about: str) -> ASGIApp:
    """Return the app with meta tags of its own on every HTML page, and their image at `ADDRESS`."""

    async def respond(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
        elif route_path(scope) == ADDRESS:
            await FileResponse(IMAGE)(scope, receive, send)
        else:
            await app(scope, receive, _rewriter(send, lambda: tags(scope, title, about)))

    return respond


def tags(scope: Scope, title: str, about: str) -> bytes:
    """Return the meta tags as HTML; addresses in them must be absolute."""
    here = get_root_url(Request(scope), scope["path"], scope["root_path"])
    facts = {"title": title, "description": about, "image": f"{here}{ADDRESS}"}
    lines = [f'<meta property="og:{name}" content="{html.escape(text)}">' for name, text in facts.items()]
    lines += [f'<meta name="twitter:{name}" content="{html.escape(text)}">' for name, text in facts.items()]
    lines += [f'<meta name="description" content="{html.escape(about)}">']
    lines += ['<meta property="og:type" content="website">']
    lines += ['<meta name="twitter:card" content="summary_large_image">']
    return "\n".join(lines).encode()


def _rewriter(send: Send, make_tags: Callable[[], bytes]) -> Send:
    """Return a `send` that replaces the tags in the body of an HTML response and passes on all others."""
    start: Message | None = None
    body = b""

    async def rewrite(message: Message) -> None:
        nonlocal start, body
        if message["type"] == "http.response.start" and _is_html(message):
            start = message
        elif start is None:
            await send(message)
        else:
            body += message.get("body", b"")
            if not message.get("more_body"):
                new = OF_GRADIO.sub(b"", body).replace(b"</head>", make_tags() + b"</head>", 1)
                MutableHeaders(scope=start)["content-length"] = str(len(new))
                await send(start)
                await send({"type": "http.response.body", "body": new})

    return rewrite


def _is_html(message: Message) -> bool:
    kinds = [value for name, value in message["headers"] if name.lower() == b"content-type"]
    encoded = any(name.lower() == b"content-encoding" for name, _ in message["headers"])
    return bool(kinds) and kinds[0].startswith(b"text/html") and not encoded
