"""Events on all tabs: components by name, one queue for the models, and buttons that follow the work."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any

import gradio as gr
from gradio.blocks import Block

from dsd.ui import messages

LANE = {"concurrency_id": "model", "concurrency_limit": 1}  # one queue for the models, shared by all tabs
PRIVATE = {"api_visibility": "private"}
QUIET = {"show_progress": "hidden", **PRIVATE}
AT_ONCE = {"queue": False, **QUIET}


class Parts(dict[str, Block]):
    """The components of a tab by name, so that event handlers take and return values by name."""

    def call(self, handler: Callable, inputs: Sequence[str], outputs: Sequence[str]) -> dict[str, Any]:
        """Return an event's `fn`, `inputs` and `outputs` for a handler of `dict -> dict`, or of `-> dict`.

        It gets values as the browser sends them, because gradio would open an upload first, and report a
        broken one or a half-typed number only as "Error". A file arrives as its path, which `dsd.ui.gate` has
        checked. Components that are missing in the answer stay as they are.
        """

        def arguments(values: tuple[Any, ...]) -> list[dict[str, Any]]:
            return [dict(zip(inputs, map(_path, values), strict=True))] if inputs else []

        def answer(*values: Any) -> dict[Block, Any]:
            return self.updates(handler(*arguments(values)))

        def answers(*values: Any) -> Iterator[dict[Block, Any]]:
            with closing(handler(*arguments(values))) as steps:
                yield from map(self.updates, steps)

        fn = answers if inspect.isgeneratorfunction(handler) else answer
        fn.__name__ = handler.__name__
        return {"fn": fn, "preprocess": False, **self.named(inputs, outputs)}

    def named(self, inputs: Sequence[str], outputs: Sequence[str]) -> dict[str, list[Block]]:
        """Return an event's `inputs` and `outputs`."""
        return {"inputs": [self[name] for name in inputs], "outputs": [self[name] for name in outputs]}

    def updates(self, values: dict[str, Any]) -> dict[Block, Any]:
        """Return a handler's values by component, as gradio takes them."""
        return {self[name]: value for name, value in values.items()} or gr.skip()


def _path(value: Any) -> Any:
    return value["path"] if isinstance(value, dict) and "path" in value else value


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
    return stopped.then(lambda: messages.done("Canceled."), None, status, **AT_ONCE)


def scroll_to(selector: str) -> str:
    """Return a script that scrolls a part of the page into view: on a phone, images appear off screen."""
    return f"""() => {{ document.querySelector("{selector}").scrollIntoView(
  {{behavior: "smooth", block: window.innerWidth < 720 ? "start" : "nearest"}}); }}"""
