"""Models that are opened when somebody first needs them, so that the page itself is there at once."""

from collections.abc import Callable
from threading import Lock
from typing import Generic, TypeVar

from dsd.files.hub import LoadError

T = TypeVar("T")


class Late(Generic[T]):
    """Calling it opens the thing the first time, and hands out the same one ever after."""

    def __init__(self, name: str, opener: Callable[[], T], *, missing: str | None = None) -> None:
        """`missing` says, in a sentence for visitors, why there is nothing to open."""
        self.name, self.missing = name, missing
        self._opener, self._lock, self._opened = opener, Lock(), None

    @property
    def is_open(self) -> bool:
        return self._opened is not None

    def __call__(self) -> T:
        """LoadError if it is missing; what the opener raises, and then the next call tries again."""
        if self.missing:
            raise LoadError(self.missing)
        with self._lock:  # two visitors at a time must not load it twice
            if self._opened is None:
                self._opened = self._opener()
            return self._opened
