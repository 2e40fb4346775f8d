"""What other sites show of a shared link: the project's own title, sentence and image."""

import re
from html import unescape

import httpx
import pytest

from dsd.ui import page, preview
from tests.calling import API


@pytest.fixture(scope="module")
def address(serve) -> str:
    return serve(allow_host=["draw.example.org"])


def test_the_page_names_itself_once_and_its_image_is_there(address):
    headers = {"x-forwarded-proto": "https", "host": "draw.example.org"}
    text = httpx.get(f"{address}/?prompt=%22%3E%3Cscript%3E", headers=headers, trust_env=False).text
    found = re.findall(r'<meta (?:property|name)="((?:og|twitter):\w+)" content="([^"]*)">', text)
    tags = {name: unescape(content) for name, content in found}
    assert len(tags) == len(found) and "gradio" not in str(found).lower()
    assert tags["og:title"] == tags["twitter:title"] == page.TITLE and tags["og:description"] == page.ABOUT
    assert tags["og:image"] == "https://draw.example.org/preview.png"
    image = httpx.get(f"{address}/preview.png", trust_env=False)
    assert image.headers["content-type"] == "image/png" and image.content == preview.IMAGE.read_bytes()


def test_an_upload_of_that_name_is_served_as_it_is(address):
    with httpx.Client(base_url=address, trust_env=False) as http:
        (path,) = http.post(f"{API}/upload", files={"files": ("preview.png", b"mine")}).json()
        assert http.get(f"{API}/file={path}").content == b"mine"


def test_other_answers_pass_unchanged(address):
    assert "components" in httpx.get(f"{address}/config", trust_env=False).json()
