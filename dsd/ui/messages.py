"""Messages for visitors: progress, notices and errors, most of them as HTML.

Text from visitors and files is escaped here before it enters the page.
"""

import html
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

import gradio as gr

from dsd.doctor import doctor

logger = logging.getLogger(__name__)
LINK = re.compile(r"\[([^\]]+)\]\((https://[^)\s]+)\)")  # a Markdown link


def explain(error: Exception) -> str:
    """Return an error as a sentence for visitors; log unexpected errors with their traceback."""
    if isinstance(error, gr.Error):
        # str(), because some ZeroGPU messages are HTML objects whose str() is the same text as Markdown.
        return LINK.sub(r"\1 (\2)", html.unescape(str(error.message))).strip()
    if "out of memory" in str(error).lower():
        return "There is not enough memory for this: choose a smaller size or fewer images."
    if not isinstance(error, ValueError):
        logger.error("unforeseen", exc_info=error)
        return "Something went wrong here. Try again, or try another image."
    return sentence(doctor.remedy(error))


@contextmanager
def convert_errors() -> Iterator[None]:
    """Raise errors as gr.Error, explained: from ZeroGPU's process, other types arrive without a message."""
    try:
        yield
    except (ValueError, RuntimeError) as error:
        raise gr.Error(html.escape(explain(error)), print_exception=False) from error


def sentence(text: str) -> str:
    """Return the text with a capital first letter and a period at the end."""
    text = text.strip()
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith(('.', '!', '?')) else '.'}"


def roughly(seconds: float) -> str:
    """Return an estimated time in words, in seconds or minutes."""
    if seconds < 1.5:
        return "a second"
    return f"{round(seconds)} seconds" if seconds < 90 else f"{round(seconds / 60)} minutes"


def status(line: str, share: float | None = None) -> str:
    """Return the status line, with a progress bar while images are drawn."""
    bar = "" if share is None else f'<div class="dsd-bar"><span style="width:{share:.0%}"></span></div>'
    return f'<div class="dsd-status" role="status">{html.escape(line)}{bar}</div>'


def step_status(step: int, total: int, seconds_left: float) -> str:
    """Return the status line of a step, with the remaining time in words."""
    return status(f"Step {step} of {total} · about {roughly(seconds_left)} left", step / total)


def idle(line: str) -> str:
    return f'<div class="dsd-status dsd-idle">{html.escape(line)}</div>'


def show_error(text: str) -> dict[str, str]:
    """Show a toast with an error, and return the status that keeps it on the page."""
    gr.Warning(html.escape(text), title="That did not work")
    return {"status": problem(text)}


def quiet(text: str) -> str:
    """Return a paragraph of small gray text."""
    return f'<p class="dsd-quiet">{html.escape(text)}</p>'


def notice(text: str) -> str:
    """Return a box with information that does not stop the work."""
    return f'<div class="dsd-notice" role="status">{html.escape(text)}</div>'


def problem(text: str) -> str:
    """Return a box with an error that stops the work."""
    return f'<div class="dsd-notice dsd-problem" role="alert">{html.escape(text)}</div>'
