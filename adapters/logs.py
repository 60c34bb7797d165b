"""Logs: one structlog event per fact, with a keyed hash in place of the patient.

As a library should, this configures nothing. Where the host has configured structlog, its processors apply; where it
has not, events go to the standard library's logger "phr_refresh", whose handlers and levels are the host's.
"""

import logging
import secrets
from hashlib import blake2b
from typing import Any, Final

import structlog

from ..statemachine.effects import Fact
from ..statemachine.patient import UserKey
from .ports import Observer
from .redaction import redact

# Telling observers: one, or several as one. Their failures stay theirs.


def tell(observer: Observer, fact: Fact) -> None:
    """Tell `observer`, whose failures must not become those of a login or of a refresh."""
    try:
        observer(fact)
    except Exception as error:
        _STANDARD.error("phr_refresh.observer_failed (%s)", type(error).__name__)


class Observers:
    """Tells each of `observers` every fact, in this order. One that raises does not keep the others from hearing."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def __call__(self, fact: Fact) -> None:
        """Tell all of them."""
        for observer in self._observers:
            tell(observer, fact)


PREFIX = "phr_refresh."


class LogObserver:
    """Logs each fact as `phr_refresh.<name>`: warnings at WARNING, everything else at INFO, measurements not at all.

    `pseudonym_key` makes the pseudonyms of one patient the same in all processes that share it. Without one each
    process draws its own, so that events of different processes cannot be joined.
    """

    def __init__(self, pseudonym_key: bytes | None = None) -> None:
        self._key = blake2b(pseudonym_key or secrets.token_bytes(32)).digest()

    def pseudonym(self, key: UserKey) -> str:
        """What logs call the patient: 12 hex digits."""
        return blake2b(key.encode(), digest_size=6, key=self._key).hexdigest()

    def __call__(self, fact: Fact) -> None:
        """Log `fact`. The patient's store key itself is never logged."""
        is_configured = structlog.is_configured()
        if fact.is_measurement or not (is_configured or _is_heard(fact)):
            return
        values: dict[str, Any] = {}
        if fact.key is not None:
            values["patient"] = self.pseudonym(fact.key)
        if fact.source is not None:
            values |= {"from_state": fact.source, "to_state": fact.target}
        for name, value in fact.details.items():
            values[name] = redact(value) if isinstance(value, str) else value
        logger = structlog.get_logger("phr_refresh") if is_configured else _PLAIN
        # Not `log(level, ...)`: not every logger that a host may configure has it.
        (logger.warning if fact.is_warning else logger.info)(PREFIX + fact.name, **values)


def _is_heard(fact: Fact) -> bool:
    """Whether the standard library's logger does anything with it: asked first, for in most services nobody listens."""
    return _STANDARD.isEnabledFor(logging.WARNING if fact.is_warning else logging.INFO)


def _as_text(_logger: Any, _method: str, event: Any) -> Any:
    """Append the values to the message: a plain formatter shows nothing of `extra`."""
    values = " ".join(f"{name}={value}" for name, value in event.get("extra", {}).items())
    return {**event, "msg": f"{event['msg']} {values}".rstrip()}


_STANDARD: Final = logging.getLogger("phr_refresh")
# Bound once: binding costs as much as a whole event.
_PLAIN: Final = structlog.wrap_logger(
    _STANDARD,
    processors=[structlog.stdlib.render_to_log_kwargs, _as_text],
    wrapper_class=structlog.stdlib.BoundLogger,
    cache_logger_on_first_use=False,
).bind()


# Every fact that is a warning, and what to do about it. docs/operations.md shows it; a test compares both.

#: Fact, without the prefix that logs give it -> what it means; what to do.
WARNINGS: Final = {
    "login_deferred": (
        "A login went on without anything handed over; reason says why. The next login, or the next status, tries "
        "again. Many at once: the store is down or slow (run the doctor), or the worker is full."
    ),
    "logout_deferred": (
        "A logout took longer than the login budget, or the service was closing; it goes on in the background. Many: "
        "run the doctor, the store is slow."
    ),
    "hook_failed": (
        "The host's own code (`patient_of`) raised in a login or logout hook. The login went on, the patient is not "
        "refreshed: fix the error that the event names."
    ),
    "request_failed": "A browser's request ended in an error of ours or of the host: look at the error that it names.",
    "step_failed": (
        "A worker's step failed, mostly since the store did; again says whether it is tried again. Else the next "
        "login or status goes on where it stands. Many: run the doctor."
    ),
    "follow_dropped": (
        "Nobody follows this refresh any more: the worker was full. It is followed by whoever asks for its status. "
        "Often: more threads, more processes, or a longer queue."
    ),
    "retry_dropped": "A failed step is not tried again: the worker was full. The next login does. See follow_dropped.",
    "session_failed": (
        "The upstream gave no session. http_401 or http_403: check the application token and the API key. Else its "
        "operators; it is tried again with growing pauses."
    ),
    "kick_off_not_sent": (
        "The kick-off never left (no connection, or the claim was too old) and is sent again within the window. Many: "
        "name resolution, firewall, certificate; run the doctor."
    ),
    "answer_lost": (
        "A kick-off was sent and its answer did not come. It counts as sent; the status settles it. Many: the "
        "upstream answers too slowly, or a proxy cuts it off."
    ),
    "answer_not_recorded": (
        "The store failed while the answer to a kick-off was recorded. The claim stands, so it is not sent again; "
        "following it settles it. Look at the store."
    ),
    "refresh_failed": (
        "The upstream said that a refresh failed; reason says how. The patient sees old data until the next window. "
        "Many: the upstream's operators."
    ),
    "refresh_timed_out": (
        "A refresh did not end in time. Whoever asks for its status still learns of a late end. Many: the upstream is "
        "slow, or its status does not tell what we wait for (the setting of extracts)."
    ),
    "status_not_asked": (
        "The status call failed, which says nothing about the refresh; it is asked again. Many: as session_failed."
    ),
    "status_not_committed": "What the status said could not be stored; the next poll asks again. Look at the store.",
    "event_refused": (
        "An answer came that the lifecycle does not allow now, such as one of an older refresh; nothing was changed. "
        "Now and then: fine. Often: one patient is driven by two installations."
    ),
    "upstream_guard_opened": (
        "Half of the last calls to the upstream failed, so this process makes none for a while (open_seconds), but for "
        "one now and then to see. Logins go on; refreshes are put off and resumed. The upstream's operators."
    ),
    "broker_unavailable": (
        "The broker takes no messages: logins are deferred until it does, and whoever asks for the status of a refresh "
        "follows it. Told once; broker_available says when it is back."
    ),
    "step_dropped": (
        "A worker cannot run a message: it cannot be read, or the directory knows no such patient, or another one. "
        "After a deployment: processes with different versions or directories."
    ),
    "directory_failed": (
        "The host's `directory` raised in a worker; again says whether the step is tried again. Fix the error that the "
        "event names."
    ),
    "token_missing": (
        "The store dropped a session token before its time, or no key opens it; another session is created. Many: "
        "processes with different seal keys, or a store that evicts."
    ),
    "record_unreadable": (
        "A stored record cannot be read and is left as it is: this patient is not refreshed until it expires or is "
        "removed. After a deployment: an older version is still running, finish it."
    ),
}
