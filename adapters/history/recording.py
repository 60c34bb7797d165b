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

from ...statemachine.errors import StoreError
from ...statemachine.patient import UserKey
from ...statemachine.record import decode
from ..ports import AsyncStore, Change, Row, Store, Written

#: Schema of the lines.
SCHEMA = 1


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
    with a tolerance.
    """

    def __init__(
        self,
        store: Any,
        note: Callable[[dict[str, Any]], object],
        *,
        pseudonym_key: bytes,
        share: float = 1.0,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._store: Store | AsyncStore = store
        self._note = note
        self._key = blake2b(pseudonym_key).digest()
        self._most = int(share * 2**48)
        self._clock = clock

    def load(self, key: UserKey, *, with_token: bool = False) -> Any:
        """See `Store.load`."""
        return self._noted(key, {"op": "load"}, partial(self._store.load, key, with_token=with_token))

    def write(self, change: Change) -> Any:
        """See `Store.write`."""
        line = {"op": "write", "expected": change.expected_version, "record": _essence(change.value)}
        return self._noted(change.key, line, partial(self._store.write, change))

    def due(self, limit: int) -> Sequence[UserKey] | Awaitable[Sequence[UserKey]]:
        """See `Store.due`. Not noted: it promises nothing about any one patient."""
        return self._store.due(limit)

    def close(self) -> Any:
        """See `Store.close`."""
        return self._store.close()

    def _noted(self, key: UserKey, line: dict[str, Any], call: Callable[[], Any]) -> Any:
        pseudonym = blake2b(key.encode(), digest_size=6, key=self._key)
        if int.from_bytes(pseudonym.digest()) >= self._most:
            return call()
        line = {"v": SCHEMA, "patient": pseudonym.hexdigest(), "process": os.getpid(), "began": self._clock()} | line
        try:
            answer = call()
        except StoreError:
            self._end(line, None)
            raise
        if inspect.isawaitable(answer):
            return self._noted_later(line, answer)
        self._end(line, answer)
        return answer

    async def _noted_later(self, line: dict[str, Any], coming: Awaitable[Any]) -> Any:
        try:
            answer = await coming
        except BaseException:
            # Cancelled, or failed: nobody knows whether it took effect.
            self._end(line, None)
            raise
        self._end(line, answer)
        return answer

    def _end(self, line: dict[str, Any], answer: Row | Written | None) -> None:
        line["ended"] = self._clock()
        match answer:
            case Written():
                line |= {"outcome": "written", "version": answer.version, "now": answer.now}
            case Row():
                outcome = "read" if line["op"] == "load" else "conflict"
                line |= {"outcome": outcome, "version": answer.version, "now": answer.now}
            case None:
                line["outcome"] = "unknown"
        self._note(line)


def _essence(value: bytes) -> dict[str, Any]:
    record = decode(value)
    return {
        "state": record.state.value,
        "refresh_id": record.refresh_id,
        "claimed_at": record.claimed_at,
        "window_opens_at": record.window_opens_at,
        "logouts": record.logouts,
    }
