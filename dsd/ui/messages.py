"""Messages for visitors: progress, notices and errors, most of them as HTML.

Text from visitors and files is escaped here before it enters the page.
"""

import html
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import gradio as gr

from dsd.doctor import doctor
from dsd.model import known_words

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


def warn_program(notices: Sequence[str | None]) -> None:
    """Send notices to the program that calls an endpoint; None is nothing to say."""
    for text in filter(None, notices):
        gr.Warning(html.escape(text, quote=False))  # gradio's page would show it as HTML


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


def show(*boxes: str) -> gr.HTML:
    """Return an HTML component with boxes, hidden if there is nothing in them."""
    text = "".join(boxes)
    return gr.HTML(text, visible=bool(text))


def quiet(text: str) -> str:
    """Return a paragraph of small gray text."""
    return f'<p class="dsd-quiet">{html.escape(text)}</p>'


def notice(text: str) -> str:
    """Return a box with information that does not stop the work."""
    return f'<div class="dsd-notice" role="status">{html.escape(text)}</div>'


def problem(text: str) -> str:
    """Return a box with an error that stops the work."""
    return f'<div class="dsd-notice dsd-problem" role="alert">{html.escape(text)}</div>'


def unknown_words(unknown: dict[str, list[str]], fields: str) -> str:
    """Return a box with the words that a model does not know, and near ones to click instead; "" for none.

    `fields` selects the components in which a click replaces the word.
    """
    if not unknown:
        return ""
    near = [
        f'<button type="button" class="dsd-chip" data-word="{html.escape(word)}">'
        f"{html.escape(known)}</button>"
        for word, words in unknown.items()
        for known in words
    ]
    offer = f'<div class="dsd-chips">Instead: {"".join(near)}</div>' if near else ""
    line = known_words.notice(dict.fromkeys(unknown, []))
    return f'<div class="dsd-notice" role="status" data-fields="{fields}">{html.escape(line)}{offer}</div>'


def chips(groups: Mapping[str, tuple[str, ...]]) -> str:
    """Return groups of phrases as buttons; a click inserts one into the prompt, or takes it out again."""
    return "".join(
        f'<div class="dsd-chips" role="group" aria-label="{html.escape(name)}"><b>{html.escape(name)}</b>'
        + "".join(
            f'<button type="button" class="dsd-chip" aria-pressed="false">{html.escape(phrase)}</button>'
            for phrase in phrases
        )
        + "</div>"
        for name, phrases in groups.items()
    )
