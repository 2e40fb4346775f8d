"""Event settings shared by all tabs: one queue for the models, and buttons that follow the work."""

from typing import Any

import gradio as gr

from dsd.ui import messages

LANE = {"concurrency_id": "model", "concurrency_limit": 1}  # one queue for the models, shared by all tabs
PRIVATE = {"api_visibility": "private"}
QUIET = {"show_progress": "hidden", **PRIVATE}
AT_ONCE = {"queue": False, **QUIET}


def running() -> gr.Button:
    """Return the Cancel button as it is while something runs: enabled.

    The start button is never disabled, because an error before the final update would leave it disabled. A
    second click during a run starts nothing.
    """
    return gr.Button(interactive=True)


def idle() -> gr.Button:
    """Return the Cancel button as it is when nothing runs: disabled."""
    return gr.Button(interactive=False)


def cancels(runs: list[Any], cancel: gr.Button, status: gr.HTML) -> Any:
    """Make a click on `cancel` stop the runs and then say so; return the event that says so.

    If the message came first, progress updates on their way to the browser could overwrite it.
    """
    stopped = cancel.click(idle, None, cancel, cancels=runs, **AT_ONCE)
    return stopped.then(lambda: messages.done("Cancelled."), None, status, **AT_ONCE)


def scroll_to(selector: str) -> str:
    """Return a script that scrolls a part of the page into view.

    On a phone, the images appear off screen, far from the button or example that was tapped.
    """
    return f"""() => {{ document.querySelector("{selector}").scrollIntoView(
  {{behavior: "smooth", block: window.innerWidth < 720 ? "start" : "nearest"}}); }}"""
