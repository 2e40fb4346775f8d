"""The choice of a task: which words and examples are suggested. The model sees the prompt alone."""

import json
from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from typing import Any

import gradio as gr

from dsd.generate import provenance
from dsd.model.presets import IDENTITY, Task
from dsd.ui import messages
from dsd.ui.models import Loaded


class Choice:
    """The tasks that the page offers, in order, each with its example rows.

    `model_hash` names the model: what it drew itself is shown beside the references, and no other's images.
    """

    def __init__(self, loaded: Loaded, folder: Path, model_hash: str | None = None) -> None:
        self.tasks = {task.name: task for task in loaded.tasks}
        self.first, self.folder = loaded.tasks[0], folder
        self.rows = {name: _find_rows(folder, task) for name, task in self.tasks.items()}
        self.has_examples = any(self.rows.values())
        self.finished = [
            row for rows in self.rows.values() for row in rows if _is_finished(folder, row, model_hash)
        ]

    @property
    def opening(self) -> dict[str, Any] | None:
        """Return the finished example of the first task that the page opens with, or None."""
        rows = [row for row in self.rows[self.first.name] if row in self.finished]
        return next((row for row in rows if row.get("first")), rows[0] if rows else None)

    def choose(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return the suggestions for a task; the prompt keeps what was typed."""
        task = self.pick(values["task"])
        shown = {
            "prompt": gr.Textbox(label=task.question, placeholder=task.placeholder),
            "chips": gr.HTML(messages.chips(task.phrases), visible=bool(task.phrases)),
        }
        if self.has_examples:
            pictures = self.pictures(task)
            shown["heading"] = gr.HTML(visible=bool(pictures))
            # None is marked as picked, because others stand in their places now.
            shown["examples"] = gr.Gallery(pictures, visible=bool(pictures), selected_index=None)
        return shown

    def pick(self, name: str | None) -> Task:
        """Return a task by name, the first one for a name that the page does not offer."""
        return self.tasks.get(name, self.first)

    def find(self, shown: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the row of a clicked example by its file and caption, or None.

        Not by its place: after a change of the task, the page may still show the examples of the task before.
        """
        for task in self.tasks.values():
            for picture, row in zip(self.pictures(task), self.rows[task.name], strict=True):
                if picture == (shown["image"]["path"], shown["caption"]):
                    return row
        return None

    def pictures(self, task: Task) -> list[tuple[str, str]]:
        """Return the examples of a task as a gallery takes them: files and captions."""
        return [(str(self.folder / self._picture(row)), row["prompt"]) for row in self.rows[task.name]]

    def _picture(self, row: Mapping[str, Any]) -> str:
        """Return the reference's file, or the one that shows it beside the finished image."""
        return row.get("tile", row["image"]) if row in self.finished else row["image"]


def read_rows(folder: Path, task: str = IDENTITY) -> list[dict[str, Any]]:
    """Return a task's rows of `examples.json`, if it is there; rows that name no task are of identity."""
    listing = folder / "examples.json"
    rows = json.loads(listing.read_text(encoding="utf-8")) if listing.exists() else []
    return [row for row in rows if row.get("task", IDENTITY) == task]


def _is_finished(folder: Path, row: Mapping[str, Any], model_hash: str | None) -> bool:
    """Return whether an example has an image that this model drew."""
    if model_hash is None or "result" not in row or not (folder / row["result"]).is_file():
        return False
    return provenance.read_settings(folder / row["result"]).get("model_hash") == model_hash


def _find_rows(folder: Path, task: Task) -> list[dict[str, Any]]:
    """Return the examples of a task: those of the folder, or else its images with the task's own prompts."""
    if rows := read_rows(folder, task.name):
        return rows
    pairs = zip(read_rows(folder), cycle(task.examples), strict=False)
    return [{"image": row["image"], "prompt": prompt} for row, prompt in pairs]
