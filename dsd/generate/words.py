"""Words for a prompt, suggested on the command line: those of a task, in the model's family.

The model sees the prompt alone, so that any words work with any task.
"""

import argparse
from typing import Any

from dsd.model.presets import DEFAULT, PRESETS, Task, family_with_words

TASKS = tuple(dict.fromkeys(task.name for preset in PRESETS.values() for task in preset.tasks))


def find_task(args: argparse.Namespace) -> Task | None:
    """Return the task of --task in the words of the model's family; raise ValueError for an unknown one."""
    from dsd.model.checkpoint import resolve

    if args.task is None:
        return None
    family = family_with_words(resolve(args.model or DEFAULT.name))
    tasks = {task.name: task for task in family.tasks}
    if args.task not in tasks:
        raise ValueError(f"--task must be one of {', '.join(tasks)} for {family.name}, got {args.task!r}")
    return tasks[args.task]


def suggest(task: Task) -> str:
    """Return the phrases of a task in one line."""
    phrases = [phrase for group in task.phrases.values() for phrase in group]
    return f"words for {task.name} are {', '.join(phrases)}"


def check_trained(task: Task, pipe: Any) -> None:
    """Raise ValueError if the weights were not trained for a task."""
    if task.name not in pipe.trained_tasks:
        raise ValueError(
            f"these weights were trained for {', '.join(pipe.trained_tasks)}, got --task {task.name}: drop "
            "--task, or name weights that were trained for it"
        )
