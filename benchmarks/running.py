"""Running: one contestant does one run of one work, and is timed; what has to be so before it is prepared untimed.

`Sequence` runs contestants of threads, `Loop` those of asyncio; both look at what came of a run, since a contestant
that did nothing would be the fastest.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar, cast

from .contestants import AsyncContestant, Contestant, Drains, Entry
from .place import Place
from .works import Load, Work

R = TypeVar("R", covariant=True)

#: What counts as under way, or as done.
_STARTED = ("refreshing", "complete")
#: Works whose patients have been through it all before.
_SETTLED_FIRST = (Work.REPEAT_LOGIN, Work.STATUS_READ, Work.CHANGE_OF_STATE)
_GIVE_UP_SECONDS = 60.0
_PAUSE_SECONDS = 0.001


class Undone(Exception):
    """A contestant did not do the work: its time would mean nothing."""

    def __init__(self, name: str, work: Work, state: str) -> None:
        super().__init__(f"{name} left {work.value} undone: the patient is {state}")


class Runs(Protocol):
    """A contestant, opened."""

    def prepare(self, load: Load, users: Sequence[str]) -> None:
        """Bring `users` to where the work begins."""

    def perform(self, load: Load, users: Sequence[str]) -> float:
        """Do the work; seconds."""

    def check(self, load: Load, users: Sequence[str]) -> None:
        """Raise `Undone` unless the work was done."""

    def close(self) -> None:
        """Let go of the contestant."""


def opened(entry: Entry, place: Place) -> Runs:
    """`entry`, opened at `place`. Raises ImportError where a package of it is missing."""
    return Loop(entry, place) if entry.is_async else Straight(entry, place)


def _expected(load: Load) -> tuple[str, ...]:
    if load.work is Work.CHANGE_OF_STATE:
        return ("no_session",)
    return ("complete",) if load.work is Work.LIFECYCLE else _STARTED


def _judge(entry: Entry, load: Load, state: str) -> None:
    # The portal and the floor keep no state: of them it is known only whether anything is there.
    lax = entry.name.startswith("floor") and load.work is Work.CHANGE_OF_STATE
    if not lax and state not in _expected(load):
        raise Undone(entry.name, load.work, state)


def _is_judged(entry: Entry) -> bool:
    return Work.STATUS_READ in entry.works


class Straight:
    """A contestant of threads."""

    def __init__(self, entry: Entry, place: Place) -> None:
        self._entry = entry
        self._contestant = cast(Contestant, entry.open(place))

    def prepare(self, load: Load, users: Sequence[str]) -> None:
        """See `Runs`."""
        one = self._contestant
        if load.work in _SETTLED_FIRST:
            for user in users:
                one.login(user)
            time.sleep(self._entry.settles_in)
            for user in users if Work.LIFECYCLE in self._entry.works else ():
                one.finish(user)

    def perform(self, load: Load, users: Sequence[str]) -> float:
        """See `Runs`."""
        if load.is_concurrent:
            return self._at_once(load, users)
        one = self._contestant
        seconds = 0.0
        for verb in _verbs(load, one.login, one.status, one.logout, one.finish):
            if verb == one.finish:
                time.sleep(self._entry.settles_in)
            begins = time.perf_counter()
            for user in users:
                verb(user)
            seconds += time.perf_counter() - begins
        return seconds

    def _at_once(self, load: Load, users: Sequence[str]) -> float:
        one = self._contestant
        begin = threading.Barrier(load.clients + 1)

        def client(mine: Sequence[str]) -> None:
            begin.wait()
            for user in mine:
                one.login(user)
            for user in mine:
                self._wait(user)

        with ThreadPoolExecutor(load.clients) as threads:
            clients = [threads.submit(client, mine) for mine in _shares(load, users)]
            begin.wait()
            begins = time.perf_counter()
            for future in clients:
                future.result()
            seconds = time.perf_counter() - begins
        if isinstance(one, Drains):
            one.drain()
        return seconds

    def _wait(self, user: str) -> None:
        ends_at = time.monotonic() + _GIVE_UP_SECONDS
        while self._contestant.status(user) not in _STARTED and time.monotonic() < ends_at:
            time.sleep(_PAUSE_SECONDS)

    def check(self, load: Load, users: Sequence[str]) -> None:
        """See `Runs`."""
        for user in users if _is_judged(self._entry) else ():
            _judge(self._entry, load, self._contestant.status(user))

    def close(self) -> None:
        """See `Runs`."""
        self._contestant.close()


class Loop:
    """A contestant of asyncio, in an event loop of its own."""

    def __init__(self, entry: Entry, place: Place) -> None:
        self._entry = entry
        self._runner = asyncio.Runner()
        self._contestant = self._runner.run(self._open(entry, place))

    async def _open(self, entry: Entry, place: Place) -> AsyncContestant:
        return cast(AsyncContestant, entry.open(place))

    def prepare(self, load: Load, users: Sequence[str]) -> None:
        """See `Runs`."""
        if load.work in _SETTLED_FIRST:
            self._runner.run(self._prepare(users))

    async def _prepare(self, users: Sequence[str]) -> None:
        for user in users:
            await self._contestant.login(user)
        await asyncio.sleep(self._entry.settles_in)
        for user in users:
            await self._contestant.finish(user)

    def perform(self, load: Load, users: Sequence[str]) -> float:
        """See `Runs`."""
        return self._runner.run(self._at_once(load, users) if load.is_concurrent else self._perform(load, users))

    async def _perform(self, load: Load, users: Sequence[str]) -> float:
        one = self._contestant
        seconds = 0.0
        for verb in _verbs(load, one.login, one.status, one.logout, one.finish):
            if verb == one.finish:
                await asyncio.sleep(self._entry.settles_in)
            begins = time.perf_counter()
            for user in users:
                await verb(user)
            seconds += time.perf_counter() - begins
        return seconds

    async def _at_once(self, load: Load, users: Sequence[str]) -> float:
        one = self._contestant

        async def client(mine: Sequence[str]) -> None:
            for user in mine:
                await one.login(user)
            for user in mine:
                await self._wait(user)

        begins = time.perf_counter()
        await asyncio.gather(*(client(mine) for mine in _shares(load, users)))
        seconds = time.perf_counter() - begins
        if isinstance(one, Drains) and (draining := one.drain()) is not None:
            await draining
        return seconds

    async def _wait(self, user: str) -> None:
        async with asyncio.timeout(_GIVE_UP_SECONDS):
            while await self._contestant.status(user) not in _STARTED:
                await asyncio.sleep(_PAUSE_SECONDS)

    def check(self, load: Load, users: Sequence[str]) -> None:
        """See `Runs`."""
        for user in users:
            _judge(self._entry, load, self._runner.run(self._status(user)))

    async def _status(self, user: str) -> str:
        return await self._contestant.status(user)

    def close(self) -> None:
        """See `Runs`."""
        self._runner.run(self._close())
        self._runner.close()

    async def _close(self) -> None:
        await self._contestant.close()


def _shares(load: Load, users: Sequence[str]) -> list[Sequence[str]]:
    """Whom each client logs in: all the same one, or each some of its own."""
    if load.work is Work.CROWD:
        return [users] * load.clients
    return [users[number :: load.clients] for number in range(load.clients)]


def _verbs(
    load: Load,
    login: Callable[[str], R],
    status: Callable[[str], R],
    logout: Callable[[str], R],
    finish: Callable[[str], R],
) -> list[Callable[[str], R]]:
    """What a sequential run does, for all patients in turn."""
    match load.work:
        case Work.STATUS_READ:
            return [status] * load.repeats
        case Work.CHANGE_OF_STATE:
            return [logout]
        case Work.LIFECYCLE:
            return [login, finish]
        case _:
            return [login] * load.repeats
