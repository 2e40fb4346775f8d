"""Sentences for visitors, as HTML: what goes on, what is worth knowing, what went wrong.

Whatever a visitor or a file says is escaped here, before it goes back into a page.
"""

import html
import logging
import re

import gradio as gr

from dsd.doctor import doctor

logger = logging.getLogger(__name__)
LINK = re.compile(r"\[([^\]]+)\]\((https://[^)\s]+)\)")  # of Markdown


def explained(error: Exception) -> str:
    """An error as a sentence for a visitor. What nobody foresaw goes to the log, with its trace."""
    if isinstance(error, gr.Error):
        # str(): some of ZeroGPU's refusals are HTML, and answer str() with the same as Markdown.
        return LINK.sub(r"\1 (\2)", html.unescape(str(error.message))).strip()
    if "out of memory" in str(error).lower():
        return "There is not enough memory for this: choose a smaller size or fewer pictures."
    if not isinstance(error, ValueError):
        logger.error("unforeseen", exc_info=error)
        return "Something went wrong here. Try again, or try another picture."
    return sentence(doctor.remedy(error))


def sentence(text: str) -> str:
    """With a capital letter and a full stop."""
    text = text.strip()
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith(('.', '!', '?')) else '.'}"


def time_left(seconds: float) -> str:
    """Rounded as far as the estimate deserves."""
    return f"about {roughly(seconds)} left"


def roughly(seconds: float) -> str:
    """A time that is only estimated."""
    if seconds < 1.5:
        return "a second"
    return f"{round(seconds)} seconds" if seconds < 90 else f"{round(seconds / 60)} minutes"


def status(line: str, share: float) -> str:
    """The line above the pictures while they are drawn."""
    return (
        f'<div class="dsd-status" role="status">{html.escape(line)}'
        f'<div class="dsd-bar"><span style="width:{share:.0%}"></span></div></div>'
    )


def done(line: str) -> str:
    """The line above finished pictures."""
    return f'<div class="dsd-status" role="status">{html.escape(line)}</div>'


def idle(line: str) -> str:
    """The same line before anything has happened."""
    return f'<div class="dsd-status dsd-idle">{html.escape(line)}</div>'


def notice(text: str) -> str:
    """Something worth knowing."""
    return f'<div class="dsd-notice" role="status">{html.escape(text)}</div>'


def problem(text: str) -> str:
    """Something that stops the work."""
    return f'<div class="dsd-notice dsd-problem" role="alert">{html.escape(text)}</div>'
