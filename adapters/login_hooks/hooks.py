"""The login and logout hooks of every host: they never raise and never wait long (rule R5)."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Literal, Protocol

from ...statemachine.effects import Fact
from ...statemachine.errors import PhrRefreshError
from ...statemachine.outcomes import Receipt, ReceiptKind
from ...statemachine.patient import Patient
from ..driver import tell
from ..ports import Observer
from ..redaction import error_types, safe_error
from ..workers.time_limit import TimeLimit, TimeLimitExceeded


class LogsInAndOut(Protocol):
    """The verbs of `PhrRefresh` that hooks drive."""

    observer: Observer

    def login(self, patient: Patient) -> Receipt:
        """See `PhrRefresh.login`."""

    def logout(self, who: Patient | str) -> None:
        """See `PhrRefresh.logout`."""


class AsyncLogsInAndOut(Protocol):
    """The same of `AsyncPhrRefresh`."""

    observer: Observer

    def login(self, patient: Patient) -> Awaitable[Receipt]:
        """See `AsyncPhrRefresh.login`."""

    def logout(self, who: Patient | str) -> Awaitable[None]:
        """See `AsyncPhrRefresh.logout`."""


Hook = Literal["login", "logout"]
#: Gives the patient that a host's user is, None for a user who is none. What it raises stays in the hook.
FindPatient = Callable[[], Patient | None]


class Hooks:
    """The hooks for hosts with threads. `seconds` bounds the logout, as the policy bounds the login."""

    def __init__(self, refresher: LogsInAndOut, *, seconds: float) -> None:
        self._refresher = refresher
        self._seconds = seconds
        self._gate = TimeLimit(threads=2)

    def logged_in(self, find: FindPatient) -> Receipt | None:
        """Have the patient's records refreshed. None for a user who is no patient, and where `find` raises."""
        try:
            patient = find()
            return None if patient is None else self._refresher.login(patient)
        except Exception as error:
            tell_failure(self._refresher.observer, "login", error)
            return None

    def logged_out(self, find: FindPatient) -> None:
        """End the patient's session. What takes too long goes on behind."""
        try:
            patient = find()
            if patient is not None:
                self._gate.call(lambda: self._log_out(patient), seconds=self._seconds)
        except TimeLimitExceeded:
            deferred("logout", "over_budget", self._refresher.observer)
        except Exception as error:
            tell_failure(self._refresher.observer, "logout", error)

    def _log_out(self, patient: Patient) -> None:
        try:
            self._refresher.logout(patient)
        except Exception as error:
            # Here, not in `logged_out`, which may have stopped to wait.
            tell_failure(self._refresher.observer, "logout", error)

    def close(self) -> None:
        """Wait a few seconds for logouts that still go on."""
        self._gate.close()


class AsyncHooks:
    """The hooks for hosts on asyncio."""

    def __init__(self, refresher: AsyncLogsInAndOut, *, seconds: float) -> None:
        self._refresher = refresher
        self._seconds = seconds
        self._going_on: set[asyncio.Task[None]] = set()

    async def logged_in(self, find: FindPatient) -> Receipt | None:
        """See `Hooks.logged_in`."""
        try:
            patient = find()
            return None if patient is None else await self._refresher.login(patient)
        except Exception as error:
            tell_failure(self._refresher.observer, "login", error)
            return None

    async def logged_out(self, find: FindPatient) -> None:
        """See `Hooks.logged_out`."""
        try:
            patient = find()
        except Exception as error:
            tell_failure(self._refresher.observer, "logout", error)
            return
        if patient is None:
            return
        task = asyncio.create_task(self._log_out(patient))
        self._going_on.add(task)
        task.add_done_callback(self._going_on.discard)
        await asyncio.wait({task}, timeout=self._seconds)
        if not task.done():
            deferred("logout", "over_budget", self._refresher.observer)

    async def _log_out(self, patient: Patient) -> None:
        try:
            await self._refresher.logout(patient)
        except Exception as error:
            tell_failure(self._refresher.observer, "logout", error)

    async def close(self) -> None:
        """Wait a few seconds for logouts that still go on."""
        if self._going_on:
            await asyncio.wait(self._going_on, timeout=5)


def deferred(hook: Hook, reason: str, observer: Observer) -> Receipt:
    """Tell that a hook did not do its work, and why; the receipt of such a login."""
    tell(observer, Fact(f"{hook}_deferred", details={"reason": reason}, is_warning=True))
    return Receipt(kind=ReceiptKind.DEFERRED, reason=reason)


def tell_failure(observer: Observer, hook: Hook, error: Exception) -> None:
    """Tell that a hook of the host's own code, or of ours, has raised `error`."""
    details = {"hook": hook, "error": told_of(error)}
    tell(observer, Fact("hook_failed", details=details, is_warning=True))


def told_of(error: Exception) -> str:
    """What may be logged of an error in a hook: of the host's own its types alone, its text may name the patient."""
    return safe_error(error) if isinstance(error, PhrRefreshError) else error_types(error)
