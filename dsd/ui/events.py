"""How events are run, the same on every tab: one lane for the models, buttons that follow the work."""

import gradio as gr

from dsd.ui import messages

LANE = {"concurrency_id": "model", "concurrency_limit": 1}  # one queue for the model, whatever tab asks
PRIVATE = {"api_visibility": "private"}
QUIET = {"show_progress": "hidden", **PRIVATE}
AT_ONCE = {"queue": False, **QUIET}


def running() -> tuple[gr.Button, gr.Button]:
    """The buttons that start and cancel, while something runs."""
    return gr.Button(interactive=False), gr.Button(interactive=True)


def idle() -> tuple[gr.Button, gr.Button]:
    """The same two when nothing does."""
    return gr.Button(interactive=True), gr.Button(interactive=False)


def cancelled() -> tuple[gr.Button, gr.Button, str]:
    """The same two and the status line after a cancel."""
    return *idle(), messages.done("Cancelled.")


def scroll_to(selector: str) -> str:
    """Script that brings a part of the page into view.

    On a phone the pictures are drawn out of sight, far from the button or the example that was touched.
    """
    return f"""() => {{ document.querySelector("{selector}").scrollIntoView(
  {{behavior: "smooth", block: window.innerWidth < 720 ? "start" : "nearest"}}); }}"""
