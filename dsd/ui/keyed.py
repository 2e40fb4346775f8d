"""Event handlers that take and return values by name instead of by position."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import gradio as gr
from gradio.components import Component

Update = dict[str, Any]  # name of a component -> its new value; the others stay as they are


def keyed(work: Callable, inputs: dict[str, Component], outputs: dict[str, Component]) -> dict[str, Any]:
    """Return the arguments `fn`, `inputs` and `outputs` of a gradio event.

    `work` gets the values of the inputs as keyword arguments and returns an Update, or yields several.
    """

    def named(values: dict[Component, Any]) -> dict[str, Any]:
        return {name: values[component] for name, component in inputs.items()}

    def placed(update: Update) -> dict[Component, Any]:
        placed = {outputs[name]: value for name, value in update.items()}
        return placed or {next(iter(outputs.values())): gr.skip()}  # gradio cannot take an empty dict

    def call(values: dict[Component, Any]) -> dict[Component, Any]:
        return placed(work(**named(values)))

    def stream(values: dict[Component, Any]) -> Iterator[dict[Component, Any]]:
        with closing(work(**named(values))) as updates:
            for update in updates:
                yield placed(update)

    fn = stream if inspect.isgeneratorfunction(work) else call
    return {"fn": fn, "inputs": set(inputs.values()), "outputs": list(outputs.values())}
