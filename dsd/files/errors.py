"""Errors that several packages raise, and how entry points print them; this module imports nothing."""


class LoadError(ValueError):
    """Raised when a model cannot be opened; the message states the remedy."""


def printable(text: str) -> str:
    """Return text with its control characters escaped: text from a file must not steer the terminal."""
    return "".join(
        letter if letter.isprintable() or letter == "\n" else letter.encode("unicode_escape").decode()
        for letter in text
    )
