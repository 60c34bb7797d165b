"""Contestants: the floor, ours, and what an experienced engineer would write or use instead, a module each.

A contestant keeps, per patient, a session token and where the refresh stands. It has four verbs. `login` returns when
everything that this login starts is recorded, or handed to the contestant's own workers where clients come at once.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from ..place import Place
from ..works import Work

EVERYTHING = frozenset(Work)


class Contestant(Protocol):
    """What does the work."""

    def login(self, user: str) -> None:
        """Log `user` in: open a session and start the refresh, unless that was done."""

    def status(self, user: str) -> str:
        """Where the refresh of `user` stands: "refreshing" and "complete" among others."""

    def finish(self, user: str) -> None:
        """Ask the upstream once how the refresh stands, and record that it has ended."""

    def logout(self, user: str) -> None:
        """Drop the session of `user`."""

    def close(self) -> None:
        """Let go of everything."""


class AsyncContestant(Protocol):
    """The same for asyncio."""

    def login(self, user: str) -> Awaitable[None]:
        """See `Contestant.login`."""

    def status(self, user: str) -> Awaitable[str]:
        """See `Contestant.status`."""

    def finish(self, user: str) -> Awaitable[None]:
        """See `Contestant.finish`."""

    def logout(self, user: str) -> Awaitable[None]:
        """See `Contestant.logout`."""

    def close(self) -> Awaitable[None]:
        """See `Contestant.close`."""


@runtime_checkable
class Drains(Protocol):
    """A contestant, of threads or of asyncio, that goes on behind its caller's back."""

    def drain(self) -> Awaitable[None] | None:
        """Wait until nothing of what was begun is still to be done: it would take its time from the next one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A contestant on the list. `floor` is what its times are divided by, the floor's own is its own.

    `open` raises ImportError where a package is missing. `share` is what part of a run it is given, where a whole one
    takes too long: its time is per operation all the same. `settles_in`: untimed seconds between a login and `finish`,
    for who does not ask the upstream before its poll is due. `remark` tells what the figures do not.
    """

    name: str
    text: str
    open: Callable[[Place], Contestant | AsyncContestant]
    floor: str = "floor"
    is_async: bool = False
    works: frozenset[Work] = EVERYTHING
    share: float = 1.0
    settles_in: float = 0.0
    remark: str = ""
