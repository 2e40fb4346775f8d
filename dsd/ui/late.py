"""Objects that are opened on first use, so that the page appears without delay."""

from collections.abc import Callable
from threading import Lock
from typing import Generic, TypeVar

from dsd.files.hub import LoadError

T = TypeVar("T")


class Late(Generic[T]):
    """A callable that opens an object on the first call and returns the same object on later calls."""

    def __init__(self, name: str, opener: Callable[[], T], *, missing: str | None = None) -> None:
        """Store the opener; `missing` tells visitors, in a sentence, why there is nothing to open."""
        self.name, self.missing = name, missing
        self._opener, self._lock, self._opened = opener, Lock(), None

    @property
    def is_open(self) -> bool:
        return self._opened is not None

    def __call__(self) -> T:
        """Return the object, opened if needed; raise LoadError if it is missing.

        If the opener raises an error, the next call tries again.
        """
        if self.missing:
            raise LoadError(self.missing)
        with self._lock:  # two visitors at the same time must not load it twice
            if self._opened is None:
                self._opened = self._opener()
            return self._opened
