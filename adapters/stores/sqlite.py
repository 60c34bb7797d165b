"""A store in one SQLite file: the embedded default, for the processes of one machine."""

import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, TypeVar

from ...statemachine.effects import ListDue, Load, LoadAll, TokenChange
from ...statemachine.errors import ConfigurationError
from ...statemachine.patient import UserKey
from ...statemachine.policy import Instant
from ..ports import Change, ChangeAll, Row, StoreReply, StoreRequest, Written
from .basics import host_clock, new_version
from .sqlite_connections import SqliteConnections

_LOAD = "SELECT version, value, NULL FROM record WHERE key = :key AND keep_until > :now"
_LOAD_WITH_TOKEN = """
SELECT record.version, record.value, token.value
FROM record LEFT JOIN token ON token.key = record.key AND token.expires_at > :now
WHERE record.key = :key AND record.keep_until > :now
"""
_LOAD_SEVERAL = "SELECT key, version, value FROM record WHERE keep_until > ? AND key IN ({})"
_PUT = """
INSERT INTO record (key, version, value, due_at, keep_until) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET
    version = excluded.version, value = excluded.value, due_at = excluded.due_at, keep_until = excluded.keep_until
"""
_PUT_TOKEN = """
INSERT INTO token (key, value, expires_at) VALUES (?, ?, ?)
ON CONFLICT (key) DO UPDATE SET value = excluded.value, expires_at = excluded.expires_at
"""
_DROP_TOKEN = "DELETE FROM token WHERE key = ?"
_DUE = """
SELECT key FROM record WHERE due_at IS NOT NULL AND due_at <= :now AND keep_until > :now ORDER BY due_at LIMIT :limit
"""
# A write adds at most one row to each table and removes up to two that are past their time: what is to be forgotten
# cannot pile up, and no single write pays for it all.
_FORGET = (
    "DELETE FROM record WHERE key IN (SELECT key FROM record WHERE keep_until <= ? ORDER BY keep_until LIMIT 2)",
    "DELETE FROM token WHERE key IN (SELECT key FROM token WHERE expires_at <= ? ORDER BY expires_at LIMIT 2)",
)

# A statement of SQLite takes 999 parameters at least, and other processes wait while one writes.
_TOGETHER: Final = 500


T = TypeVar("T")


class SqliteStore:
    """Keeps records in the file at `path`, which is created (mode 0600) at the first use; its directory must exist.

    Thread-safe, and safe over any number of processes and forks of one machine. Its clock is this host's. A commit is
    on the disk when `write` returns. Another process that writes is waited for `busy_timeout` seconds, then
    `StoreUnavailable` with the reason "locked" is raised. Other reasons: "not_a_database", "corrupt", "newer_schema",
    "read_only", "cannot_open", "not_permitted", "disk_full", "io_error", "sqlite_error".

    Not guaranteed: anything on a network file system. SQLite's locks do not hold there; hosts share Redis instead.
    """

    def __init__(self, path: str | os.PathLike[str], *, busy_timeout: float = 2.0) -> None:
        # Absolute from the start: a service that changes its directory later still means this file.
        self._path = Path(os.path.abspath(path))
        if self._path.is_dir():
            raise ConfigurationError("the SQLite store", "its path is a directory", "give the path of a file")
        if not self._path.parent.is_dir():
            raise ConfigurationError("the SQLite store", "the directory of its file does not exist", "create it")
        self._connections = SqliteConnections(self._path, name=f"sqlite:///{self._path}", busy_timeout=busy_timeout)

    def call(self, request: StoreRequest) -> StoreReply:
        """See `Store.call`: one statement, or one transaction; of several patients one for each hundreds of them."""
        match request:
            case Load(key, with_token):
                with self._connections.lent() as connection:
                    return _row(connection, key=key, now=host_clock(), with_token=with_token)
            case Change():
                return self._write_together([request])[0]
            case LoadAll(keys):
                with self._connections.lent() as connection:
                    some = (_rows(connection, keys=part, now=host_clock()) for part in _parts(keys))
                    return tuple(row for rows in some for row in rows)
            case ChangeAll(changes):
                return tuple(answer for part in _parts(changes) for answer in self._write_together(part))
            case ListDue(limit):
                with self._connections.lent() as connection:
                    # A negative LIMIT means none to SQLite.
                    found = connection.execute(_DUE, {"now": host_clock(), "limit": max(0, limit)})
                    return tuple(key for (key,) in found)

    def _write_together(self, changes: Sequence[Change]) -> list[Written | Row]:
        with self._connections.lent_for_writing() as connection:
            # IMMEDIATE takes the write lock before a row is read: nobody changes it between the two.
            connection.execute("BEGIN IMMEDIATE")
            # Only now: waiting for the lock may have made a decision too old.
            answers = [_compare_and_set(connection, change, now=host_clock()) for change in changes]
            # Nothing to make durable: a lost race costs no wait for the disk.
            changed = any(isinstance(answer, Written) for answer in answers)
            connection.execute("COMMIT" if changed else "ROLLBACK")
            return answers

    def close(self) -> None:
        """Close the file. The last connection to it folds the WAL back in."""
        self._connections.close()


def _parts(all_of_them: Sequence[T]) -> Iterator[Sequence[T]]:
    return (all_of_them[start : start + _TOGETHER] for start in range(0, len(all_of_them), _TOGETHER))


def _row(connection: sqlite3.Connection, *, key: UserKey, now: Instant, with_token: bool) -> Row:
    statement = _LOAD_WITH_TOKEN if with_token else _LOAD
    found = connection.execute(statement, {"key": key, "now": now}).fetchone()
    if found is None:
        return Row(None, "", now)
    version, value, token = found
    return Row(value, version, now, token)


def _rows(connection: sqlite3.Connection, *, keys: Sequence[UserKey], now: Instant) -> list[Row]:
    statement = _LOAD_SEVERAL.format(", ".join("?" * len(keys)))
    found = {key: Row(value, version, now) for key, version, value in connection.execute(statement, (now, *keys))}
    return [found.get(key) or Row(None, "", now) for key in keys]


def _compare_and_set(connection: sqlite3.Connection, change: Change, *, now: Instant) -> Written | Row:
    current = _row(connection, key=change.key, now=now, with_token=False)
    if current.version != change.expected_version or now - change.decided_at > change.max_age:
        return current
    version = new_version()
    _put(connection, change, version=version)
    for statement in _FORGET:
        connection.execute(statement, (now,))
    return Written(version, now)


def _put(connection: sqlite3.Connection, change: Change, *, version: str) -> None:
    connection.execute(_PUT, (change.key, version, change.value, change.due_at, change.keep_until))
    if change.token_change is TokenChange.PUT:
        connection.execute(_PUT_TOKEN, (change.key, change.token, change.token_expires_at))
    elif change.token_change is TokenChange.DROP:
        connection.execute(_DROP_TOKEN, (change.key,))
