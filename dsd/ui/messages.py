"""Sentences for visitors, as HTML: what goes on, what is worth knowing, what went wrong.

Whatever a visitor or a file says is escaped here, before it goes back into a page.
"""

import html
import logging

import gradio as gr

logger = logging.getLogger(__name__)


def explained(error: Exception) -> str:
    """An error as a sentence for a visitor. What nobody foresaw goes to the log, with its trace."""
    if isinstance(error, gr.Error):
        return html.unescape(error.message)
    if "out of memory" in str(error).lower():
        return "There is not enough memory for this: choose a smaller size or fewer pictures."
    if not isinstance(error, ValueError):
        logger.error("unforeseen", exc_info=error)
        return "Something went wrong here. Try again, or try another picture."
    return sentence(str(error))


def sentence(text: str) -> str:
    """With a capital letter and a full stop."""
    text = text.strip()
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith(('.', '!', '?')) else '.'}"


def time_left(seconds: float) -> str:
    """Rounded as far as the estimate deserves."""
    if seconds < 1.5:
        return "about a second left"
    return (
        f"about {round(seconds)} seconds left"
        if seconds < 90
        else f"about {round(seconds / 60)} minutes left"
    )


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
