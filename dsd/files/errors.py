"""Errors that several packages raise and every entry point reports; this module imports nothing."""


class LoadError(ValueError):
    """A model cannot be opened; the message says what to do."""
