"""Requests to a served page, as programs send them."""

import json
import time
from pathlib import Path

import httpx

API = "/gradio_api"


def asked(http: httpx.Client, **changes) -> httpx.Response:
    """The last word of `/generate`, of a request for one step."""
    return called(http, "generate", {"prompt": "a hat", "steps": 1, "seed": 7} | changes)


def called(http: httpx.Client, endpoint: str, body: dict) -> httpx.Response:
    """The last word of an endpoint."""
    sent = {"content": json.dumps(body).encode(), "headers": {"Content-Type": "application/json"}}
    joined = http.post(f"{API}/call/v2/{endpoint}", **sent)
    if joined.status_code != 200:
        return joined
    return http.get(f"{API}/call/{endpoint}/{joined.json()['event_id']}")


def file(path: Path | str) -> dict:
    return {"path": str(path), "meta": {"_type": "gradio.FileData"}}


def until(condition) -> None:
    """Wait: the server does some things after its answer."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def is_still(calls: list) -> bool:
    """Return whether no call is added for half a second."""
    before = len(calls)
    time.sleep(0.5)
    return len(calls) == before
