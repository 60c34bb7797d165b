"""What only the SQLite store must do: many processes, crashes, locks, files that are no stores."""

import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from phr_refresh.adapters.ports import Change, Row, Written
from phr_refresh.adapters.stores.sqlite import SqliteStore
from phr_refresh.adapters.stores.sqlite_connections import SCHEMA
from phr_refresh.statemachine.effects import Load
from phr_refresh.statemachine.errors import StoreUnavailable
from phr_refresh.statemachine.patient import key_of
from support.values import replace

KEY = key_of("ada")
MINUTE = 60_000
PROCESSES = 4
INCREMENTS = 25
NOBODY = 65534
PROGRAMS = Path(__file__).parents[1] / "programs"


@pytest.fixture
def path(tmp_path) -> Path:
    """Where the file goes."""
    return tmp_path / "store.db"


@pytest.fixture
def store(path) -> Iterator[SqliteStore]:
    """An open store."""
    with closing(SqliteStore(path)) as opened:
        yield opened


def change(now: int, **fields) -> Change:
    """A change that creates a record, unless `fields` say otherwise."""
    usual = Change(
        key=KEY,
        value=b"record",
        expected_version="",
        decided_at=now,
        max_age=10 * MINUTE,
        due_at=None,
        keep_until=now + 60 * MINUTE,
    )
    return replace(usual, **fields)


def increment(store: SqliteStore) -> None:
    """Add one to the number in the record, however often another comes first."""
    row = store.call(Load(KEY))
    while True:
        value = b"%d" % (int(row.value or 0) + 1)
        answer = store.call(change(row.now, value=value, expected_version=row.version))
        if isinstance(answer, Written):
            return
        row = answer


def in_child(work: Callable[[], None]) -> int:
    """Run `work` in a fork of this process, and give its exit status: 0 if it raised nothing."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# Processes.


def test_processes_that_share_a_file_lose_nothing(path):
    """Compare-and-set holds between processes that also create the file at the same time."""
    program = [sys.executable, str(PROGRAMS / "increment_often.py"), str(path), str(INCREMENTS)]
    with ExitStack() as stack:
        processes = [
            stack.enter_context(subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            for _ in range(PROCESSES)
        ]
        assert [b"ready\n"] * PROCESSES == [process.stdout.readline() for process in processes]
        for process in processes:
            process.stdin.write(b"go\n")
            process.stdin.flush()

    assert [0] * PROCESSES == [process.returncode for process in processes]
    with closing(SqliteStore(path)) as store:
        assert b"%d" % (PROCESSES * INCREMENTS) == store.call(Load(KEY)).value


def test_a_process_killed_in_mid_write_leaves_the_file_usable(store, path):
    """SIGKILL within a transaction: the write never happened, and nobody waits for its lock."""
    written = store.call(change(store.call(Load(KEY)).now, value=b"before"))

    def die_in_mid_write() -> None:
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("UPDATE record SET value = 'half'")
        os.kill(os.getpid(), signal.SIGKILL)

    assert -signal.SIGKILL == in_child(die_in_mid_write)
    assert b"before" == store.call(Load(KEY)).value
    assert isinstance(store.call(change(written.now, expected_version=written.version)), Written)


def test_a_fork_opens_connections_of_its_own(store, path):
    """A store that was used before a fork works on both sides of it, and the child's end does not harm the parent."""
    increment(store)

    assert 0 == in_child(lambda: increment(store))
    increment(store)

    assert b"3" == store.call(Load(KEY)).value
    with closing(sqlite3.connect(path)) as connection:
        assert ("ok",) == connection.execute("PRAGMA integrity_check").fetchone()


def test_a_commit_is_synced(store):
    """Each connection has WAL and full syncs: a claim outlives a power failure."""
    with store._connections.lent() as connection:
        assert ("wal",) == connection.execute("PRAGMA journal_mode").fetchone()
        assert (2,) == connection.execute("PRAGMA synchronous").fetchone()


def test_connections_are_reused(store):
    """Calls in a row open the file once."""
    for _ in range(3):
        store.call(Load(KEY))

    assert 1 == len(store._connections._idle)


# Locks.


def test_a_locked_file_is_given_up_in_time(path):
    """Another process that holds the lock is waited for so long, then there is a typed error."""
    with closing(SqliteStore(path, busy_timeout=0.1)) as store, closing(sqlite3.connect(path)) as other:
        now = store.call(Load(KEY)).now
        other.execute("BEGIN IMMEDIATE")

        started = time.perf_counter()
        with pytest.raises(StoreUnavailable) as raised:
            store.call(change(now))
        took = time.perf_counter() - started

        assert str(raised.value) == (
            f"the store sqlite:///{path} is unavailable (locked); check that it runs and can be reached."
        )
        assert 0.05 < took < 1
        assert store.call(Load(KEY)).value is None
        other.rollback()
        assert isinstance(store.call(change(now)), Written)


def test_a_file_locked_at_its_first_use_is_given_up_in_time(path):
    """The switch to WAL, which does not wait by itself, is bounded too."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with closing(SqliteStore(path, busy_timeout=0.1)) as store:
            assert "locked" == reason_of(lambda: store.call(Load(KEY)))
            other.execute("ROLLBACK")
            assert store.call(Load(KEY)).value is None


def test_a_decision_is_judged_after_the_lock_was_had(path, monkeypatch):
    """Waiting for the lock counts towards the age of a decision: the clock is read behind it."""
    from phr_refresh.adapters.stores import sqlite

    with closing(SqliteStore(path, busy_timeout=0.1)) as store:
        now = store.call(Load(KEY)).now
        states = []

        def clock() -> int:
            with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as other:
                try:
                    other.execute("BEGIN IMMEDIATE")
                except sqlite3.OperationalError:
                    states.append("locked by the write")
            return now + 11 * MINUTE

        monkeypatch.setattr(sqlite, "host_clock", clock)

        assert isinstance(store.call(change(now)), Row)
        assert ["locked by the write"] == states


# Files that are no stores.


def reason_of(call: Callable[[], object]) -> str:
    """The reason of the `StoreUnavailable` that `call` raises."""
    with pytest.raises(StoreUnavailable) as raised:
        call()
    return raised.value.reason


def test_a_file_that_is_no_database_is_reported_and_kept(path):
    """Somebody else's file is neither read nor written over."""
    path.write_bytes(b"dear diary, " * 100)
    with closing(SqliteStore(path)) as store:
        assert "not_a_database" == reason_of(lambda: store.call(Load(KEY)))

    assert path.read_bytes() == b"dear diary, " * 100


def test_a_newer_schema_is_reported_and_kept(path):
    """A file of a later version of this library is left alone."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA + 1}")
    with closing(SqliteStore(path)) as store:
        assert "newer_schema" == reason_of(lambda: store.call(Load(KEY)))


def test_a_directory_that_went_away_is_reported(tmp_path):
    """The directory was there when the store was opened, and is not when it is used."""
    folder = tmp_path / "folder"
    folder.mkdir()
    with closing(SqliteStore(folder / "store.db")) as store:
        folder.rmdir()
        assert "cannot_open" == reason_of(lambda: store.call(Load(KEY)))


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that every user can reach, which the test's own folder is not."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def as_somebody_who_may_not(work: Callable[[], None]) -> int:
    """Run `work` in a child without the right to write."""

    def drop_rights_and_work() -> None:
        if os.geteuid() == 0:
            os.setuid(NOBODY)
        work()

    return in_child(drop_rights_and_work)


def test_a_directory_without_the_right_to_write_is_reported(public_folder):
    """A file that cannot be created gives a typed error."""
    public_folder.chmod(0o555)

    def use() -> None:
        assert "cannot_open" == reason_of(lambda: SqliteStore(public_folder / "store.db").call(Load(KEY)))

    assert 0 == as_somebody_who_may_not(use)
    public_folder.chmod(0o755)


def test_a_file_without_the_right_to_write_is_reported(public_folder):
    """A read-only store cannot be used: it would kick off again and again."""
    path = public_folder / "store.db"
    with closing(SqliteStore(path)) as store:
        now = store.call(Load(KEY)).now
    path.chmod(0o444)

    def use() -> None:
        assert reason_of(lambda: SqliteStore(path).call(change(now))) in ("read_only", "cannot_open")

    assert 0 == as_somebody_who_may_not(use)


def test_the_file_is_private(store, path):
    """Nobody but the service's user may read the file and its WAL."""
    store.call(change(store.call(Load(KEY)).now))

    modes = {found.name: stat.S_IMODE(found.stat().st_mode) for found in path.parent.iterdir()}
    assert {"store.db": 0o600, "store.db-wal": 0o600, "store.db-shm": 0o600} == modes


def test_the_file_stays_the_same_when_the_directory_changes(tmp_path, monkeypatch):
    """A relative path is settled when the store is opened: a daemon may change its directory afterwards."""
    monkeypatch.chdir(tmp_path)
    with closing(SqliteStore("store.db")) as store:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        store.call(Load(KEY))

    assert (tmp_path / "store.db").exists()


def test_any_file_name_will_do(tmp_path):
    """Characters that mean something in a URI mean nothing in a path."""
    path = tmp_path / "a?b#c%41 d.db"
    with closing(SqliteStore(path)) as store:
        store.call(Load(KEY))

    assert path.exists()


def test_a_closed_store_leaves_no_wal_behind(path):
    """The last connection folds the WAL in, so that the file alone is the store."""
    with closing(SqliteStore(path)) as store:
        store.call(change(store.call(Load(KEY)).now))

    assert ["store.db"] == [found.name for found in path.parent.iterdir()]


def test_a_child_that_closes_leaves_its_parents_connections_alone(tmp_path: Path) -> None:
    """A forked child that never used the store closes nothing of its parent's: SQLite forbids it."""
    program = (
        "import os, sys\n"
        "from phr_refresh.adapters.stores.sqlite import SqliteStore\n"
        "from phr_refresh.statemachine.patient import key_of\n"
        "store = SqliteStore(sys.argv[1])\n"
        "store.load(key_of('ada'))\n"
        "idle = store._connections._idle\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    store.close()\n"
        "    os._exit(0 if len(idle) == 1 else 1)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "s.db")], env=environ, timeout=60, check=False)
    assert 0 == done.returncode
