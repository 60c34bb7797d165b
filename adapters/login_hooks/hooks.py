"""The login and logout hooks of every host: they never raise and never wait long (rule R5)."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from inspect import isawaitable
from typing import Any, Final, Literal, TypeVar

from ...statemachine.effects import Fact
from ...statemachine.errors import PhrRefreshError
from ...statemachine.outcomes import Receipt, ReceiptKind
from ...statemachine.patient import Patient
from ..browser import AsyncRefresher, Refresher
from ..driver import tell
from ..ports import Observer
from ..redaction import error_types, safe_error
from ..workers.time_limit import TimeLimit, TimeLimitExceeded

T = TypeVar("T")

Hook = Literal["login", "logout"]
#: Gives the patient that a host's user is, None for a user who is none. What it raises stays in the hook.
FindPatient = Callable[[], Patient | None]
#: What `AsyncFindPatient` gives: a patient, None, or either to be awaited.
Found = Patient | Awaitable[Patient | None] | None
AsyncFindPatient = Callable[[], Found]

#: Seconds after which a search for the patient that is awaited is given up.
_LONGEST_SEARCH: Final = 5.0


@contextmanager
def _telling(observer: Observer, hook: Hook) -> Iterator[None]:
    """Whatever is raised inside is told, and goes no further."""
    try:
        yield
    except TimeLimitExceeded:
        deferred(hook, reason="over_budget", observer=observer)
    except Exception as error:
        tell_failure(observer, hook, error)


def deferred(hook: Hook, reason: str, observer: Observer) -> Receipt:
    """Tell that a hook did not do its work, and why; the receipt of such a login."""
    tell(observer, Fact(f"{hook}_deferred", details={"reason": reason}, is_warning=True))
    return Receipt(kind=ReceiptKind.DEFERRED, reason=reason)


def tell_failure(observer: Observer, hook: Hook, error: Exception) -> None:
    """Tell that a hook of the host's own code, or of ours, has raised `error`."""
    tell(observer, Fact("hook_failed", details={"hook": hook, "error": told_of(error)}, is_warning=True))


class Hooks:
    """The hooks for hosts with threads. `seconds` bounds the logout, as the policy bounds the login."""

    def __init__(self, refresher: Refresher, *, seconds: float) -> None:
        self._refresher = refresher
        self._seconds = seconds
        self._time_limit = TimeLimit(threads=2)

    def logged_in(self, find: FindPatient) -> Receipt | None:
        """Have the patient's records refreshed. None for a user who is no patient, and where `find` raises."""
        with _telling(self._refresher.observer, "login"):
            patient = find()
            return None if patient is None else self._refresher.login(patient)
        return None

    def logged_out(self, find: FindPatient) -> None:
        """End the patient's session. What takes too long goes on behind."""
        with _telling(self._refresher.observer, "logout"):
            patient = find()
            if patient is not None:
                self._time_limit.call(lambda: self._log_out(patient), seconds=self._seconds)

    def _log_out(self, patient: Patient) -> None:
        # What fails is told here, too: nobody may wait for it any more.
        with _telling(self._refresher.observer, "logout"):
            self._refresher.logout(patient)

    def close(self) -> None:
        """Wait a few seconds for logouts that still go on."""
        self._time_limit.close()


class AsyncHooks:
    """The hooks for hosts on asyncio. `seconds` bounds the search for the patient, too, where that is awaited."""

    def __init__(self, refresher: AsyncRefresher, *, seconds: float) -> None:
        self._refresher = refresher
        self._seconds = seconds
        self._going_on: set[asyncio.Task[Any]] = set()

    async def logged_in(self, find: AsyncFindPatient) -> Receipt | None:
        """See `Hooks.logged_in`. Where the search takes too long it is a deferred login, which goes on behind."""
        with _telling(self._refresher.observer, "login"):
            found = find()
            work = self._with_patient("login", found, self._refresher.login)
            if not isawaitable(found):
                return await work
            try:
                return await self._in_time(work)
            except TimeLimitExceeded:
                return deferred("login", reason="over_budget", observer=self._refresher.observer)
        return None

    async def logged_out(self, find: AsyncFindPatient) -> None:
        """See `Hooks.logged_out`."""
        with _telling(self._refresher.observer, "logout"):
            found = find()
            if found is not None:
                await self._in_time(self._with_patient("logout", found, self._refresher.logout))

    async def _with_patient(self, hook: Hook, found: Found, call: Callable[[Patient], Awaitable[T]]) -> T | None:
        # What fails is told here, too: nobody may wait for it any more.
        with _telling(self._refresher.observer, hook):
            if isawaitable(found):
                async with asyncio.timeout(_LONGEST_SEARCH):
                    found = await found
            return None if found is None else await call(found)
        return None

    async def _in_time(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`. Raises `TimeLimitExceeded` if it takes too long; it goes on then."""
        task = asyncio.create_task(work)
        self._going_on.add(task)
        task.add_done_callback(self._going_on.discard)
        await asyncio.wait({task}, timeout=self._seconds)
        if not task.done():
            raise TimeLimitExceeded
        return task.result()

    async def close(self) -> None:
        """Wait a few seconds for what still goes on."""
        if self._going_on:
            await asyncio.wait(self._going_on, timeout=_LONGEST_SEARCH)


def told_of(error: Exception) -> str:
    """What may be logged of an error in a hook: of the host's own its types alone, its text may name the patient."""
    return safe_error(error) if isinstance(error, PhrRefreshError) else error_types(error)
