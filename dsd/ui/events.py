"""Events of all tabs: components by name, one queue for the models, and the state of the Cancel button."""

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
LATEST = {"trigger_mode": "always_last"}
TO_PROBLEM = """() => [...document.querySelectorAll(".dsd-problem")].find((box) => box.checkVisibility())
  ?.scrollIntoView({block: "nearest"})"""

Update = dict[str, Any]  # name of a component -> its new value; the others stay as they are


class Parts(dict[str, Block]):
    """The components of a tab by name, so that event handlers take and return values by name."""

    def call(self, handler: Callable, inputs: Sequence[str], outputs: Sequence[str]) -> dict[str, Any]:
        """Return an event's `fn`, `inputs` and `outputs` for a handler that takes a dict, or nothing.

        The handler returns or yields dicts. It gets values as the browser sends them, because gradio would
        open an upload first, and would report a damaged upload or a half-typed number only as "Error". A file
        arrives as its path, which `dsd.ui.gate` has checked. Components that are missing in a returned dict
        keep their values.
        """

        def to_arguments(values: tuple[Any, ...]) -> list[dict[str, Any]]:
            return [dict(zip(inputs, map(_path, values), strict=True))] if inputs else []

        def run_once(*values: Any) -> dict[Block, Any]:
            return self.updates(handler(*to_arguments(values)))

        def run_steps(*values: Any) -> Iterator[dict[Block, Any]]:
            with closing(handler(*to_arguments(values))) as steps:
                yield from map(self.updates, steps)

        fn = run_steps if inspect.isgeneratorfunction(handler) else run_once
        fn.__name__ = handler.__name__
        return {"fn": fn, "preprocess": False, **self.named(inputs, outputs)}

    def named(self, inputs: Sequence[str], outputs: Sequence[str]) -> dict[str, list[Block]]:
        return {"inputs": [self[name] for name in inputs], "outputs": [self[name] for name in outputs]}

    def updates(self, values: dict[str, Any]) -> dict[Block, Any]:
        """Return a handler's values by component, as gradio takes them."""
        return {self[name]: value for name, value in values.items()} or gr.skip()


def _path(value: Any) -> Any:
    return value["path"] if isinstance(value, dict) and "path" in value else value


def connect_run(
    parts: Parts,
    starts: list[Callable],
    call: dict[str, Any],
    *others: tuple[list[Callable], dict[str, Any]],
    view: str | None = None,
) -> list[Any]:
    """Make the events `starts` run a call, with Cancel enabled meanwhile; return the events at the end.

    `others` are further events with calls of their own, which share Cancel. `view` selects what is scrolled
    into view, the status by default. The start button is never disabled, because an error before the final
    update would leave it disabled. A second click during a run starts nothing.
    """
    cancel, status, calls = parts["cancel"], parts["status"], [(starts, call), *others]

    def enable_cancel() -> gr.Button:
        return gr.Button(interactive=True)

    def disable_cancel() -> gr.Button:
        return gr.Button(interactive=False)

    every, js = [start for group, _ in calls for start in group], scroll_to(view or f"#{status.elem_id}")
    gr.on(every, enable_cancel, None, cancel, js=js, **AT_ONCE)
    # "once" applies to this event alone; an event chained to another would run twice.
    wait = {"trigger_mode": "once", "show_progress": "minimal", "show_progress_on": status}
    runs = [gr.on(group, **call, **wait, **LANE, **PRIVATE) for group, call in calls]
    stop = cancel.click(disable_cancel, None, cancel, cancels=runs, **AT_ONCE)
    # If the message came before the stop, progress updates on their way to the browser could overwrite it.
    canceled = stop.then(lambda: messages.status("Canceled."), None, status, **AT_ONCE)
    for run in runs:  # a full queue refuses it; gradio runs no `then` after an error
        run.failure(disable_cancel, None, cancel, **AT_ONCE)
    return [*(run.then(disable_cancel, None, cancel, **AT_ONCE) for run in runs), canceled]


def scroll_to(selector: str) -> str:
    """Return a script that scrolls a part of the page into view: on a phone, images appear off screen."""
    return f"""() => {{ document.querySelector("{selector}").scrollIntoView(
  {{behavior: "smooth", block: window.innerWidth < 720 ? "start" : "nearest"}}); }}"""
