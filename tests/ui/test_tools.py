"""The tool for language models, with a stand-in for the package `mcp`, which hands calls on unchecked.

tests/ui/test_api.py asks a real MCP server, where the package is installed.
"""

import asyncio
import base64
import sys
from types import ModuleType, SimpleNamespace

import pytest

from dsd.ui import tools, uploads
from tests.project import ROOT


class Server:
    """Keeps gradio's handlers by name, as the package's server would call them."""

    def __init__(self, _: str) -> None:
        self.handlers: dict = {}
        request = SimpleNamespace(headers={}, query_params={}, url="http://127.0.0.1/gradio_api/mcp")
        self.request_context = SimpleNamespace(request=request, meta=None)

    def __getattr__(self, name: str):
        return lambda *_: lambda handler: self.handlers.setdefault(name, handler)


class Types:
    """The package's types, each of them a dict."""

    def __getattr__(self, name: str) -> type:
        return dict


@pytest.fixture
def call(server, blocks, monkeypatch):
    """Calls `/generate` as a language model would."""
    monkeypatch.setitem(sys.modules, "mcp", ModuleType("mcp"))
    stand_ins = {"Server": Server, "types": Types(), "ReadResourceContents": dict}
    for name, stand_in in (
        stand_ins | {"StreamableHTTPSessionManager": staticmethod(lambda **_: None)}
    ).items():
        monkeypatch.setattr(tools.Tools, name, stand_in, raising=False)
    made = tools.Tools(blocks)
    made._local_url = server
    monkeypatch.setattr(made, "postprocess_output_data", lambda data, _: data)

    def call(image: object, **more: object):
        given = {"image": image, "prompt": "a hat", "steps": 1, "seed": 7} | more
        return asyncio.run(made.mcp_server.handlers["call_tool"]("generate", given))["content"]

    return call


FOREIGN = str(ROOT / "assets" / "teaser.png")


@pytest.mark.parametrize(
    "image",
    [
        {"path": FOREIGN, "meta": {"_type": "gradio.FileData"}},
        [{"path": FOREIGN, "meta": {"_type": "gradio.FileData"}}],
        {"path": FOREIGN},
        FOREIGN,
        f"file://{FOREIGN}",
        "http://127.0.0.1:9/image.png",
    ],
)
def test_a_call_uploads_no_file_of_the_server_s(call, folder, image):
    before = set(folder.rglob("*.png"))
    with pytest.raises(Exception, match="image is gone|upload it|Invalid file data"):
        call(image)
    assert set(folder.rglob("*.png")) == before


def test_no_other_argument_does(call, folder):
    before = set(folder.rglob("*.png"))
    with pytest.raises(Exception, match="image is gone"):
        call("data:image/png;base64,AAAA", prompt={"path": FOREIGN, "meta": {"_type": "gradio.FileData"}})
    assert set(folder.rglob("*.png")) == before


def test_an_image_inside_a_call_needs_space(call, monkeypatch):
    monkeypatch.setattr(uploads, "MAX_TOTAL", 10)
    with pytest.raises(ValueError, match="no space"):
        call("data:image/png;base64,AAAA")


def test_an_image_inside_a_call_is_drawn_from(call, uploaded):
    inline = "data:image/png;base64," + base64.b64encode(uploaded.read_bytes()).decode()
    files, seed = call(inline)[0]
    assert seed == [7] and len(files) == 1
