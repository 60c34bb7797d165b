"""What a process opens at its first use, and never shares with a child that it forks."""

import os
import threading
import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class PerProcess(Generic[T]):
    """What `make` gives, made once in each process. Thread-safe.

    After a fork the child makes its own. What the parent had stays the parent's: the child keeps it, so that nothing
    closes it, and does not use it.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: T | None = None
        self._inherited: list[T] = []
        self._making = threading.Lock()
        leave_parent = weakref.WeakMethod(self._leave_parent)
        os.register_at_fork(after_in_child=lambda: (leave := leave_parent()) and leave())

    def _leave_parent(self) -> None:
        if self._made is not None:
            self._inherited.append(self._made)
        self._made, self._making = None, threading.Lock()

    @property
    def made(self) -> T | None:
        """What there is, None before the first use."""
        return self._made

    def get(self) -> T:
        """What there is, made now if there is nothing. Raises what `make` raises, and then makes it anew next time."""
        found = self._made
        if found is None:
            with self._making:
                found = self._made
                if found is None:
                    found = self._made = self._make()
        return found

    def take(self) -> T | None:
        """What there is, for the caller to close. The next use makes it anew."""
        with self._making:
            found, self._made = self._made, None
        return found
