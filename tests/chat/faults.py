"""Responses that are no answer: refusals, outages, resets, slow and broken bodies."""

import json
from dataclasses import dataclass, field
from email.utils import formatdate
from time import time


@dataclass(frozen=True)
class Fault:
    """A response in place of an answer; the fields from `reset` on say how it is sent."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    reset: bool = False  # break the connection off, without a response
    closed: bool = False  # close it in an orderly way, without a response
    wait: float = 0.0  # seconds before the response
    crawl: float = 0.0  # seconds between two bytes of headers that do not end
    drip: float = 0.0  # seconds between two pieces of the body
    cut: int | None = None  # bytes of the body after which the connection is closed


def error(status: int, message: str = "something is wrong", **headers: str) -> Fault:
    """Return an error in OpenAI's form, with this status."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Fault(_error(message, status), status, named)


def _error(message: str, code: int | str, **more: str) -> bytes:
    return json.dumps({"error": {"message": message, "type": "error", "code": code, **more}}).encode()


def rate_limited(seconds: int) -> Fault:
    return error(429, "Rate limit reached", Retry_After=str(seconds))


def rate_limited_until(seconds: float) -> Fault:
    """Return a rate limit with the time as an HTTP date."""
    now = time()
    dates = {"Retry_After": formatdate(now + seconds, usegmt=True), "Date": formatdate(now, usegmt=True)}
    return error(429, "Rate limit reached", **dates)


def unsupported(parameter: str, instead: str | None = None) -> Fault:
    """Return the refusal of a parameter, in the words of hosted reasoning models."""
    remedy = f" Use '{instead}' instead." if instead else " Only the default (1) value is supported."
    message = f"Unsupported parameter: '{parameter}' is not supported with this model.{remedy}"
    return Fault(_error(message, "unsupported_parameter", param=parameter), 400)


def error_in_200(message: str = "Internal server error", code: int = 500) -> Fault:
    """Return an error as gateways send it after the headers: its status is 200."""
    return Fault(_error(message, code))


def no_choices() -> Fault:
    return Fault(json.dumps({"id": "chat", "object": "chat.completion", "choices": []}).encode())


def filtered_prompt() -> Fault:
    """Return the refusal of an image by a content filter, as Azure sends it."""
    message = "The response was filtered due to the prompt triggering the content management policy."
    return Fault(_error(message, "content_filter"), 400)


def garbage() -> Fault:
    return Fault(b"\x00\xff not JSON {", headers={"Content-Type": "application/json"})


def web_page() -> Fault:
    """Return what a proxy or an address without `/v1` answers."""
    return Fault(b"<!doctype html><title>It works!</title>", headers={"Content-Type": "text/html"})


def oversized(megabytes: int) -> Fault:
    text = "very " * (megabytes * 200_000)
    return Fault(json.dumps({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}).encode())
