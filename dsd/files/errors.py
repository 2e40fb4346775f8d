"""Errors that several packages raise and every entry point tells; nothing is imported for them."""


class LoadError(ValueError):
    """A model that cannot be opened; the message says what to do."""
