"""A log of requests, off by default: a JSON line each, without prompts, images, file names and addresses."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

log = logging.getLogger("dsd.requests")


def start() -> None:
    """Write the lines to stderr from now on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.INFO)


def write(**row: Any) -> None:
    """Write one line, with the time, if the log was started."""
    if log.handlers:
        log.info(json.dumps({"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **row}))
