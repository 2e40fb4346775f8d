"""Errors that several packages raise and every entry point reports; this module imports nothing."""


class LoadError(ValueError):
    """Raised when a model cannot be opened; the message states the remedy."""
