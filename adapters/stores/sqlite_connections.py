"""Connections to one SQLite file: opened with care, shared between threads, left behind at a fork."""

import os
import sqlite3
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Final

from ...statemachine.errors import StoreUnavailable

#: `PRAGMA user_version` of the files that this version writes.
SCHEMA: Final = 1

# The rows are found by key, by what is due, and by what is to be forgotten. Tokens have a table of their own,
# so that a status read never touches one.
_TABLES: Final = """
CREATE TABLE record (key TEXT PRIMARY KEY, version TEXT NOT NULL, value BLOB NOT NULL,
                     due_at INTEGER, keep_until INTEGER NOT NULL);
CREATE INDEX record_due ON record (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX record_keep ON record (keep_until);
CREATE TABLE token (key TEXT PRIMARY KEY, value BLOB NOT NULL, expires_at INTEGER NOT NULL);
CREATE INDEX token_expiry ON token (expires_at);
"""

_REASONS: Final = {
    sqlite3.SQLITE_BUSY: "locked",
    sqlite3.SQLITE_LOCKED: "locked",
    sqlite3.SQLITE_PROTOCOL: "locked",
    sqlite3.SQLITE_READONLY: "read_only",
    sqlite3.SQLITE_FULL: "disk_full",
    sqlite3.SQLITE_CANTOPEN: "cannot_open",
    sqlite3.SQLITE_NOTADB: "not_a_database",
    sqlite3.SQLITE_CORRUPT: "corrupt",
    sqlite3.SQLITE_IOERR: "io_error",
    sqlite3.SQLITE_PERM: "not_permitted",
    sqlite3.SQLITE_AUTH: "not_permitted",
}
_PRIMARY_CODE: Final = 0xFF
_SWITCH_PAUSE_SECONDS: Final = 0.01


class SqliteConnections:
    """Lends connections to one file, each to one thread at a time. A lock is waited for `busy_timeout` seconds."""

    def __init__(self, path: Path, *, name: str, busy_timeout: float) -> None:
        self._path = path
        self._name = name
        self._busy_timeout = busy_timeout
        self._closed = False
        self._pid = os.getpid()
        # A deque, not a lock and a list: a lock held by another thread at a fork stays held in the child for ever.
        self._idle: deque[sqlite3.Connection] = deque()
        self._inherited: list[deque[sqlite3.Connection]] = []
        self._writing = Lock()

    @contextmanager
    def lent(self) -> Iterator[sqlite3.Connection]:
        """A connection for one call. Whatever SQLite raises inside becomes `StoreUnavailable`."""
        try:
            connection = self._take()
            try:
                yield connection
            except BaseException:
                # Its state is unknown: closing it also rolls back what it had begun.
                connection.close()
                raise
            self._give_back(connection)
        except sqlite3.Error as error:
            raise StoreUnavailable(self._name, _reason(error)) from error
        except OSError as error:
            raise StoreUnavailable(self._name, "cannot_open") from error

    @contextmanager
    def lent_for_writing(self) -> Iterator[sqlite3.Connection]:
        """A connection for one write; the other threads of this process wait here, not in SQLite.

        SQLite waits for its lock by sleeping and trying again, and lets the lucky go first: of a hundred threads some
        would starve. Between processes that is how it stays.
        """
        self._check_fork()
        writing = self._writing
        if not writing.acquire(timeout=self._busy_timeout):
            raise StoreUnavailable(self._name, "locked")
        try:
            with self.lent() as connection:
                yield connection
        finally:
            writing.release()

    def close(self) -> None:
        """Close every connection that is not lent; those are closed when they come back."""
        self._check_fork()
        self._closed = True
        with suppress(IndexError):
            while True:
                self._idle.pop().close()

    def _check_fork(self) -> None:
        if self._pid != os.getpid():
            # SQLite forbids a child of a fork to use its parent's connections, and to close them. They are kept,
            # so that nothing closes them, and not used. The lock may be held by a thread that is not here.
            self._inherited.append(self._idle)
            self._idle, self._writing, self._pid = deque(), Lock(), os.getpid()

    def _take(self) -> sqlite3.Connection:
        self._check_fork()
        try:
            return self._idle.pop()
        except IndexError:
            return self._open()

    def _give_back(self, connection: sqlite3.Connection) -> None:
        if self._closed:
            connection.close()
        else:
            self._idle.append(connection)

    def _open(self) -> sqlite3.Connection:
        _create_private(self._path)
        connection = sqlite3.connect(
            f"{self._path.as_uri()}?mode=rw",
            uri=True,
            timeout=self._busy_timeout,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        self._switch_to_wal(connection)
        # A commit that says "claimed" allows the one kick-off of the window. If power fails and takes it back, the
        # next login claims once more: a second kick-off (rule R1). In WAL mode only FULL syncs each commit.
        connection.execute("PRAGMA synchronous = FULL")
        if _schema(connection) == 0:
            _create_tables(connection)
        if _schema(connection) > SCHEMA:
            raise StoreUnavailable(self._name, "newer_schema")

    def _switch_to_wal(self, connection: sqlite3.Connection) -> None:
        """WAL lets readers go on while one process writes. Two that switch at once see "locked", unwaited."""
        tries = max(1, round(self._busy_timeout / _SWITCH_PAUSE_SECONDS))
        for tries_left in reversed(range(tries)):
            try:
                # Reading the mode takes no lock to speak of; almost always the file has been switched long ago.
                if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                    connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if _reason(error) != "locked" or not tries_left:
                    raise
                time.sleep(_SWITCH_PAUSE_SECONDS)


def _schema(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _create_tables(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    # Another process may have created them while this one waited for the lock.
    if _schema(connection) == 0:
        for statement in filter(str.strip, _TABLES.split(";")):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {SCHEMA}")
    connection.execute("COMMIT")


def _create_private(path: Path) -> None:
    """Create the file with mode 0600 if it is not there. SQLite gives its WAL the same mode.

    It is linked into place, never opened here: closing any descriptor of a database file drops all locks that
    this process holds on it, those of another thread's connection too.
    """
    if path.exists():
        return
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        os.close(descriptor)
        with suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        os.unlink(temporary)


def _reason(error: sqlite3.Error) -> str:
    try:
        code = error.sqlite_errorcode
    except AttributeError:
        # Raised by the Python module itself, not by SQLite.
        return "sqlite_error"
    return _REASONS.get(code & _PRIMARY_CODE, "sqlite_error")
