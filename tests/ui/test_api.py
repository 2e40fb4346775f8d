"""Other programs ask a running app: the README's own snippets, and the tool for language models."""

import base64
import re
import subprocess
import sys
import tempfile
from io import BytesIO
from pathlib import Path

import httpx
import pytest

import app
from dsd.generate import command, provenance
from dsd.ui import page
from tests import tiny
from tests.project import ROOT, read

ADDRESS = "http://127.0.0.1:7860"  # what the README writes for the running app
SUBJECT, PROMPT = "assets/examples/01-pink-tall-striped.png", "wearing a red hat on the beach"


@pytest.fixture(scope="module")
def serve(loaded, tmp_path_factory):
    """Starts the page around a tiny pipeline, with MCP or without; returns its address."""
    blocks = []

    def serve(**options: object) -> str:
        blocks.append(page.build(loaded, tmp_path_factory.mktemp("no-examples")))
        return page.launch(blocks[-1], prevent_thread_lock=True, quiet=True, **options)[1].rstrip("/")

    yield serve
    for each in blocks:
        each.close()


@pytest.fixture(scope="module")
def server(serve) -> str:
    return serve()


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A folder to work in that has the README's example images."""
    (tmp_path / "assets").symlink_to(ROOT / "assets", target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def snippet(language: str, word: str) -> str:
    """The README's one snippet in this language that has this word."""
    (found,) = [code for code in re.findall(rf"```{language}\n(.+?)```", read(), re.DOTALL) if word in code]
    return found


def test_the_readme_s_python_snippet_draws(server, here):
    known: dict = {}
    code = snippet("python", "gradio_client")
    assert ADDRESS in code
    exec(compile(code.replace(ADDRESS, server), "README.md", "exec"), known)
    (file,), (seed,) = known["files"], known["seeds"]
    settings = provenance.read_settings(file)
    assert (settings["seed"], settings["prompt"]) == (seed, PROMPT)


@pytest.mark.skipif(sys.platform == "win32", reason="written for a POSIX shell")
def test_the_readme_s_curl_lines_draw(server, here):
    code = snippet("bash", "curl -sS")
    assert ADDRESS in code
    shell = ["bash", "-euo", "pipefail", "-c", code.replace(ADDRESS, server)]
    ran = subprocess.run(shell, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0 and "event: complete" in ran.stdout, ran
    settings = provenance.read_settings(here / "made.png")
    assert (settings["prompt"], settings["quality"]["name"]) == (PROMPT, "draft")


# ------------------------------------------------------------ MCP


def test_mcp_is_an_extra_that_is_asked_for_in_one_line_before_any_model_is_opened(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "mcp", None)  # as if it were not installed
    monkeypatch.setattr(command, "quiet", lambda: None)
    monkeypatch.setattr(command, "open_model", lambda *_, **__: pytest.fail("opened"))
    assert app.main(["--mcp"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and 'pip install "gradio[mcp]"' in said
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert '`pip install "gradio[mcp]"` and `python app.py --mcp`' in readme


@pytest.mark.parametrize("flags", [["--auth", "ada:love"], []])
def test_mcp_opens_no_way_past_a_password(monkeypatch, flags):
    monkeypatch.setattr(page, "check_mcp", lambda: None)
    if not flags:
        monkeypatch.setenv(app.AUTH, "ada:love")
    with pytest.raises(ValueError, match="password"):
        app.check(app.parse(["--mcp", *flags]))


def test_without_the_flag_a_variable_of_gradio_s_opens_no_mcp(serve, monkeypatch):
    monkeypatch.setenv("GRADIO_MCP_SERVER", "True")
    assert httpx.get(f"{serve()}/gradio_api/mcp/schema", trust_env=False, timeout=60).status_code == 404


def session(address: str, ask):
    """What `ask` gets from an MCP session."""
    anyio = pytest.importorskip("anyio")
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    async def run():
        async with streamablehttp_client(f"{address}/gradio_api/mcp/") as (reads, writes, _):
            async with ClientSession(reads, writes) as opened:
                await opened.initialize()
                return await ask(opened)

    return anyio.run(run)


@pytest.fixture(scope="module")
def tool_server(serve) -> str:
    pytest.importorskip("mcp", reason='pip install "gradio[mcp]"')
    page.check_mcp()
    return serve(mcp=True)


def test_mcp_offers_all_calls_and_says_what_its_values_mean(tool_server):
    tool, other, story = session(tool_server, lambda opened: opened.list_tools()).tools
    assert tool.name == "generate" and "somewhere new" in tool.description
    assert (other.name, story.name) == ("unknown_words", "story")
    asked = tool.inputSchema
    assert asked["required"] == ["image", "prompt"]
    assert all(known.get("description") for known in asked["properties"].values()), asked


def call(address: str, image: object):
    given = {"image": image, "prompt": PROMPT, "steps": 1, "seed": 7}
    return session(address, lambda opened: opened.call_tool("generate", given))


def inline(image: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(image).decode()


def test_a_language_model_gets_the_address_of_its_image(tool_server, tmp_path):
    answer = call(tool_server, inline((ROOT / SUBJECT).read_bytes()))
    (address,) = re.findall(r"http[^'\"]+dsd-7\.png", " ".join(part.text for part in answer.content))[-1:]
    (tmp_path / "made.png").write_bytes(httpx.get(address, trust_env=False, timeout=60).content)
    assert not answer.isError and provenance.read_settings(tmp_path / "made.png")["seed"] == 7


@pytest.mark.parametrize(
    "image",
    [
        str(ROOT / SUBJECT),
        f"file://{ROOT / SUBJECT}",
        {"path": str(ROOT / SUBJECT), "meta": {"_type": "gradio.FileData"}},
        "http://127.0.0.1:9/image.png",
    ],
)
def test_mcp_reads_no_file_and_no_neighbour_of_the_server_s(tool_server, image):
    assert call(tool_server, image).isError


def test_what_comes_by_mcp_is_not_kept_where_nobody_sweeps(tool_server):
    sent = BytesIO()
    tiny.image(seed=5).save(sent, "PNG")

    def kept() -> list[Path]:
        files = Path(tempfile.gettempdir(), "gradio").rglob("*.png")
        return [path for path in files if path.read_bytes() == sent.getvalue()]

    [path.unlink() for path in kept()]
    assert not call(tool_server, inline(sent.getvalue())).isError
    assert kept() == []
