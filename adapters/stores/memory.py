"""A store in the memory of one process: for tests, and for programs that run in one process."""

import heapq
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock

from ...statemachine.effects import ListDue, Load, LoadAll, TokenChange
from ...statemachine.patient import UserKey
from ...statemachine.policy import Instant
from ..ports import Change, ChangeAll, Row, StoreReply, StoreRequest, Written
from .basics import host_clock, new_version

# Two looks per write, at most one new record per write: what is to be forgotten cannot pile up.
_LOOKS_PER_WRITE = 2


@dataclass(slots=True)
class _Entry:
    value: bytes
    version: str
    keep_until: Instant
    token: bytes | None
    token_expires_at: Instant


class MemoryStore:
    """Keeps records for as long as this object lives. Thread-safe. Its clock is this host's, or `clock`.

    Not guaranteed: that two processes agree. Each has a store of its own, so a login service of several worker
    processes would kick off once per process (rule R1): it wants SQLite or Redis.
    """

    def __init__(self, *, clock: Callable[[], Instant] = host_clock) -> None:
        self._clock = clock
        self._lock = Lock()
        self._entries: OrderedDict[UserKey, _Entry] = OrderedDict()
        # Only patients in waiting states: it stays small however many patients there are.
        self._due: dict[UserKey, Instant] = {}

    def call(self, request: StoreRequest) -> StoreReply:
        """See `Store.call`. `ListDue` looks at every waiting patient, not at every patient."""
        with self._lock:
            now = self._clock()
            match request:
                case Load(key, with_token):
                    return self._row(key, now=now, with_token=with_token)
                case Change():
                    return self._write(request, now)
                case LoadAll(keys):
                    return tuple(self._row(key, now=now, with_token=False) for key in keys)
                case ChangeAll(changes):
                    return tuple(self._write(change, now) for change in changes)
                case ListDue(limit):
                    return self._overdue(limit, now)

    def call_by(self, request: Load, ends_at: float) -> Row | None:
        """See `AnswersInTime.call_by`: memory always does."""
        with self._lock:
            return self._row(request.key, now=self._clock(), with_token=request.with_token)

    def _overdue(self, limit: int, now: Instant) -> tuple[UserKey, ...]:
        passed = (
            (due_at, key) for key, due_at in self._due.items() if due_at <= now and self._entries[key].keep_until > now
        )
        return tuple(key for _, key in heapq.nsmallest(limit, passed))

    def close(self) -> None:
        """Let go of every record."""
        with self._lock:
            self._entries.clear()
            self._due.clear()

    def _row(self, key: UserKey, *, now: Instant, with_token: bool) -> Row:
        entry = self._entries.get(key)
        if entry is None or entry.keep_until <= now:
            return Row(None, "", now)
        if entry.token is not None and entry.token_expires_at <= now:
            entry.token = None
        return Row(entry.value, entry.version, now, entry.token if with_token else None)

    def _write(self, change: Change, now: Instant) -> Written | Row:
        current = self._row(change.key, now=now, with_token=False)
        if current.version != change.expected_version or now - change.decided_at > change.max_age:
            return current
        version = new_version()
        self._put(change, version)
        self._forget_some(now)
        return Written(version, now)

    def _put(self, change: Change, version: str) -> None:
        old = self._entries.get(change.key)
        token, expires_at = (old.token, old.token_expires_at) if old else (None, 0)
        if change.token_change is TokenChange.PUT:
            token, expires_at = change.token, change.token_expires_at
        elif change.token_change is TokenChange.DROP:
            token = None
        self._entries[change.key] = _Entry(change.value, version, change.keep_until, token, expires_at)
        if change.due_at is None:
            self._due.pop(change.key, None)
        else:
            self._due[change.key] = change.due_at

    def _forget_some(self, now: Instant) -> None:
        for _ in range(min(_LOOKS_PER_WRITE, len(self._entries))):
            key, entry = next(iter(self._entries.items()))
            if entry.keep_until <= now:
                del self._entries[key]
                self._due.pop(key, None)
            else:
                self._entries.move_to_end(key)
