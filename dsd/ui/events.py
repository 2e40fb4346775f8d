"""How events are run, the same on every tab: one lane for the models, buttons that follow the work."""

from typing import Any

import gradio as gr

from dsd.ui import messages

LANE = {"concurrency_id": "model", "concurrency_limit": 1}  # one queue for the model, whatever tab asks
PRIVATE = {"api_visibility": "private"}
QUIET = {"show_progress": "hidden", **PRIVATE}
AT_ONCE = {"queue": False, **QUIET}


def running() -> gr.Button:
    """Return the button that cancels, while something runs.

    The button that starts is never locked: an error anywhere on the way back would leave it so, and a second
    click while an event runs starts nothing.
    """
    return gr.Button(interactive=True)


def idle() -> gr.Button:
    """Return the same button when nothing runs."""
    return gr.Button(interactive=False)


def cancels(runs: list[Any], cancel: gr.Button, status: gr.HTML) -> Any:
    """A click on `cancel` stops the runs, and only then it is said; returns the event that says it.

    Said at once, it could be overwritten by the news of a step that were on their way to the browser.
    """
    stopped = cancel.click(idle, None, cancel, cancels=runs, **AT_ONCE)
    return stopped.then(lambda: messages.done("Cancelled."), None, status, **AT_ONCE)


def scroll_to(selector: str) -> str:
    """Script that brings a part of the page into view.

    On a phone the pictures are drawn out of sight, far from the button or the example that was touched.
    """
    return f"""() => {{ document.querySelector("{selector}").scrollIntoView(
  {{behavior: "smooth", block: window.innerWidth < 720 ? "start" : "nearest"}}); }}"""
