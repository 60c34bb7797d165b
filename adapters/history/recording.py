"""Recording: a store that notes every load and write as one JSON line.

A line holds a pseudonym, versions, times and the fields of the record that the check needs: no identifier of a patient
and no token. All processes that share the store must share the pseudonym key, and may share the file.
"""

import inspect
import json
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

from ...statemachine.codec import decode
from ...statemachine.errors import StoreError
from ...statemachine.patient import UserKey
from ..ports import AsyncStore, Change, Row, Store, Written

#: Schema of the lines.
SCHEMA = 1
_Line = dict[str, Any] | None
_Call = tuple[UserKey, dict[str, Any]]


class HistoryFile:
    """Appends lines to a file, each in one write, so that several processes can share it."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def __call__(self, line: dict[str, Any]) -> None:
        """Append `line`."""
        os.write(self._file, json.dumps(line, separators=(",", ":")).encode() + b"\n")

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


class RecordedStore:
    """Passes everything on to `store`, sync or asyncio, and gives `note` a line for each load and write.

    `share`: of so many patients, from 0 to 1, chosen by pseudonym: of each one all calls are noted, or none. `clock`
    gives nanoseconds; it must be the same for all processes of a history, so they run on one host, or are compared
    with a tolerance. `announces`: each write is noted before it is made, too, so that the check can tell what a process
    may have done last that was killed before it could note it.
    """

    def __init__(
        self,
        store: Any,
        note: Callable[[dict[str, Any]], object],
        *,
        pseudonym_key: bytes,
        share: float = 1.0,
        clock: Callable[[], int] = time.time_ns,
        announces: bool = False,
    ) -> None:
        self._store: Store | AsyncStore = store
        self._note = note
        self._key = blake2b(pseudonym_key).digest()
        self._most = int(share * 2**48)
        self._clock = clock
        self._announces = announces

    def load(self, key: UserKey, *, with_token: bool = False) -> Any:
        """See `Store.load`."""
        return self._noted([_read(key)], partial(self._store.load, key, with_token=with_token), lambda row: (row,))

    def write(self, change: Change) -> Any:
        """See `Store.write`."""
        return self._noted([_written(change)], partial(self._store.write, change), lambda answer: (answer,))

    def load_all(self, keys: Sequence[UserKey]) -> Any:
        """See `Store.load_all`. Each row is noted as a load."""
        return self._noted([_read(key) for key in keys], partial(self._store.load_all, keys), tuple)

    def write_all(self, changes: Sequence[Change]) -> Any:
        """See `Store.write_all`. Each change is noted as a write."""
        return self._noted([_written(change) for change in changes], partial(self._store.write_all, changes), tuple)

    def due(self, limit: int) -> Sequence[UserKey] | Awaitable[Sequence[UserKey]]:
        """See `Store.due`. Not noted: it promises nothing about any one patient."""
        return self._store.due(limit)

    def close(self) -> Any:
        """See `Store.close`."""
        return self._store.close()

    def _noted(self, calls: list[_Call], call: Callable[[], Any], answers: Callable[[Any], tuple[Any, ...]]) -> Any:
        lines = [self._begun(key, line) for key, line in calls]
        if not any(lines):
            return call()
        if self._announces:
            for line in lines:
                if line is not None and line["op"] == "write":
                    self._note(line | {"ended": line["began"], "outcome": "begun"})
        try:
            answer = call()
        except StoreError:
            self._end(lines, None)
            raise
        if inspect.isawaitable(answer):
            return self._noted_later(lines, answer, answers)
        self._end(lines, answers(answer))
        return answer

    async def _noted_later(
        self, lines: list[_Line], coming: Awaitable[Any], answers: Callable[[Any], tuple[Any, ...]]
    ) -> Any:
        try:
            answer = await coming
        except BaseException:
            # Cancelled, or failed: nobody knows whether it took effect.
            self._end(lines, None)
            raise
        self._end(lines, answers(answer))
        return answer

    def _begun(self, key: UserKey, line: dict[str, Any]) -> _Line:
        """The beginning of a line; None for a patient who is not among those noted."""
        pseudonym = blake2b(key.encode(), digest_size=6, key=self._key)
        if int.from_bytes(pseudonym.digest()) >= self._most:
            return None
        return {"v": SCHEMA, "patient": pseudonym.hexdigest(), "process": os.getpid(), "began": self._clock()} | line

    def _end(self, lines: list[_Line], answers: tuple[Any, ...] | None) -> None:
        ended = self._clock()
        for line, answer in zip(lines, answers or (None,) * len(lines), strict=True):
            if line is not None:
                self._note(line | {"ended": ended} | _outcome(line, answer))


def _read(key: UserKey) -> _Call:
    return key, {"op": "load"}


def _written(change: Change) -> _Call:
    return change.key, {"op": "write", "expected": change.expected_version, "record": _essence(change.value)}


def _outcome(line: dict[str, Any], answer: object) -> dict[str, Any]:
    match answer:
        case Written():
            return {"outcome": "written", "version": answer.version, "now": answer.now}
        case Row():
            outcome = "read" if line["op"] == "load" else "conflict"
            return {"outcome": outcome, "version": answer.version, "now": answer.now}
    return {"outcome": "unknown"}


def _essence(value: bytes) -> dict[str, Any]:
    record = decode(value)
    return {
        "state": record.state.value,
        "refresh_id": record.refresh_id,
        "claimed_at": record.claimed_at,
        "deadline_at": record.deadline_at,
        "completed_at": record.completed_at,
        "window_opens_at": record.window_opens_at,
        "logouts": record.logouts,
    }
