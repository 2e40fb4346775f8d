"""A plain client for the fake server."""

import base64
import io
from typing import Any

import httpx
from PIL import Image


def picture(color: tuple[int, int, int] | str, side: int = 8) -> Image.Image:
    return Image.new("RGB", (side, side), color)


def chat(
    address: str,
    words: str,
    *images: Image.Image,
    model: str = "judge-7b",
    key: str | None = None,
    timeout: float = 10,
    **more: Any,
) -> httpx.Response:
    """Send one chat with these words after these images."""
    shown = [{"type": "image_url", "image_url": {"url": data_url(image)}} for image in images]
    content = [*shown, {"type": "text", "text": words}] if images else words
    body = {"model": model, "messages": [{"role": "user", "content": content}], **more}
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx.post(f"{address}/chat/completions", json=body, headers=headers, timeout=timeout)


def message(answer: httpx.Response) -> dict[str, Any]:
    return answer.json()["choices"][0]["message"]


def data_url(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
