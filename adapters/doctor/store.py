"""Checks of any store: that it answers, how fast, what its clock shows, and that a record can be written.

Of a SQLite file also: who may write and read it, what it lies on, and its journal.
"""

import os
import re
import shutil
import socket
import sqlite3
import ssl
import stat
import statistics
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from secrets import token_urlsafe
from typing import Final

from ...statemachine.codec import encode
from ...statemachine.effects import ListDue, TokenChange
from ...statemachine.errors import ConfigurationError, RecordUnreadable, StoreError, StoreUnavailable
from ...statemachine.patient import UserKey
from ...statemachine.policy import Policy, milliseconds
from ...statemachine.record import RefreshRecord
from ..ports import Change, Row, Store, Written
from ..stores.basics import read_row
from .findings import Finding, Findings, error, milliseconds_of, ok, unknown, warning

LOADS: Final = 20
#: Clocks of hosts that are kept by NTP differ by less.
CLOCK_SECONDS: Final = 2.0
_TRIAL_SECONDS: Final = 30
_ROOM: Final = 100_000_000
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_MOUNTS: Final = Path("/proc/self/mountinfo")
_MOUNT: Final = re.compile(r"^(?:\S+ ){4}(\S+) .*? - (\S+)", re.MULTILINE)
# SQLite's locks do not hold there, or its WAL cannot be shared: two hosts would both be right (R1).
_NETWORK: Final = re.compile(
    "nfs4?|cifs|smb3|smbfs|9p|ceph|glusterfs|lustre|afs|beegfs|gpfs|"
    "fuse[.](sshfs|glusterfs|s3fs|ceph|rclone|gcsfuse|blobfuse2)"
)
_GONE_AT_RESTART: Final = frozenset(("tmpfs", "ramfs", "overlay"))

_REMEDIES: Final = {
    "timed_out": "look at the server's load and at the network, or give a longer ?socket_timeout",
    "connection_failed": "check host, port, TLS and firewall, and that the server runs",
    "authentication_failed": "check the user and the password in the store's URL",
    "not_permitted": "give the ACL user what the store needs",
    "read_only": "connect to the primary: redis+sentinel:// and redis+cluster:// find it",
    "out_of_memory": "give the server more memory: noeviction refuses writes when maxmemory is reached",
    "cannot_persist": "look at the server's log and at the space on its disk",
    "loading": "wait until the server has read its file",
    "needs_a_cluster_client": "use redis+cluster:// in place of redis://",
    "not_a_cluster": "use redis:// in place of redis+cluster://",
    "cluster_unavailable": "look at `CLUSTER INFO`: slots without a node, or nodes that do not reach each other",
    "cluster_resharding": "finish or undo the move of its slots: `redis-cli --cluster check`",
    "keys_in_two_slots": "do not put a proxy in front that rewrites keys",
    "service_unknown": "give the name under which the sentinels watch the primary: `SENTINEL MASTERS`",
    "primary_down": "bring the primary back, or let Sentinel or the cluster promote a replica",
    "tls_failed": "check ?ssl_ca_certs, the client's certificate and key, and the name in the server's certificate",
    "protocol_error": "check that a Redis or Valkey server listens there, and no proxy for something else",
    "busy_with_a_script": "look at the server's slow log; SCRIPT KILL ends a script that only reads",
    "not_enough_replicas": "bring the replicas back, or lower min-replicas-to-write",
    "too_many_connections": "raise ?max_connections or the server's maxclients",
    "locked": "see which process keeps a transaction open on the file",
    "disk_full": "make room on the disk",
    "cannot_open": "check that the file and its directory can be read and written by this user",
    "not_a_database": "move the file away, or give the path of another",
    "corrupt": "restore the file from a backup, or move it away: the windows in it are lost",
    "newer_schema": "run the newer version of phr-refresh that wrote it",
    "io_error": "look at the disk",
}
#: What lies underneath and says more than the reason: the first that fits. `{0}` is the error.
_CAUSES: Final[tuple[tuple[type[BaseException], str, str], ...]] = (
    (socket.gaierror, "its name is not resolved", "check the host's name in the URL, and this host's DNS"),
    (
        ssl.SSLCertVerificationError,
        "its certificate is not trusted: {0.verify_message}",
        "give the CA that signed it, such as ?ssl_ca_certs=/path/ca.pem",
    ),
    (ssl.SSLError, "the TLS handshake failed", "check that the port speaks TLS, and the client certificate"),
    (ConnectionRefusedError, "connection refused", "check host and port, and that it runs"),
)
_FORBIDDEN: Final = re.compile(r"run the '([a-z|_-]+)' command")


@dataclass(frozen=True, slots=True)
class Heard:
    """What one load told. `skew`: how many seconds the store's clock is ahead of this host's, give or take half."""

    seconds: float
    skew: float


def trial_key() -> UserKey:
    """A key that no patient has: those are hashes of another length."""
    return UserKey(f"doctor-{token_urlsafe(6)}")


def check_store(store: Store, policy: Policy) -> Generator[Finding, None, float | None]:
    """All checks that any store allows. Ends early if it does not answer.

    Returns how many seconds the store's clock is ahead of this host's, None where it does not answer.
    """
    key = trial_key()
    try:
        heard = [_load(store, key) for _ in range(LOADS)]
    except (StoreError, ConfigurationError) as failure:
        yield _failed("store.reachable", failure)
        return None
    yield ok("store.reachable", f"answered {LOADS} loads")
    yield check_latency([one.seconds for one in heard], policy)
    fastest = min(heard, key=lambda one: one.seconds)
    yield check_clock(fastest)
    yield _write(store, key)
    return fastest.skew


def _load(store: Store, key: UserKey) -> Heard:
    began, began_at = time.perf_counter(), time.time()
    row = read_row(store, key, with_token=True)
    seconds = time.perf_counter() - began
    return Heard(seconds, row.now / 1000 - began_at - seconds / 2)


def check_latency(seconds: Sequence[float], policy: Policy) -> Finding:
    """Whether a login's one load fits into its budget."""
    budget = policy.login_budget.total_seconds()
    median, longest = statistics.median(seconds), max(seconds)
    said = f"a load takes {milliseconds_of(median)} (median), {milliseconds_of(longest)} at most of {len(seconds)}"
    budgeted = f"{said}; the login budget is {milliseconds_of(budget)}"
    if median > budget:
        return error("store.latency", budgeted, "bring the store nearer to this host, or raise Policy.login_budget")
    if longest > budget:
        return warning("store.latency", budgeted, "see what else the store or this host is busy with")
    return ok("store.latency", budgeted)


def check_clock(heard: Heard) -> Finding:
    """How far this host's clock is from the store's."""
    skew, uncertain = heard.skew, heard.seconds / 2
    if abs(skew) - uncertain <= CLOCK_SECONDS:
        return ok("store.clock", f"this host and the store agree within {max(abs(skew), uncertain):.1f} s")
    where = "behind" if skew > 0 else "ahead of"
    said = f"this host's clock is {abs(skew):.1f} s {where} the store's"
    return warning("store.clock", f"{said}: times in its logs mislead", "keep both by NTP")


def _write(store: Store, key: UserKey) -> Finding:
    """Write a record with a token, read it, and leave one behind that expires at once: nothing can be deleted."""
    try:
        now = read_row(store, key).now
        first = store.call(_change(key, now, version="", token=b"trial"))
        if not isinstance(first, Written):
            return error("store.write", "a new record is taken for another's", "look for a proxy that keeps answers")
        row = read_row(store, key, with_token=True)
        second = store.call(_change(key, row.now, version=first.version))
        store.call(ListDue(1))
    except (StoreError, ConfigurationError) as failure:
        return _failed("store.write", failure)
    if row.token != b"trial" or row.version != first.version or isinstance(second, Row):
        return error("store.write", "what was written is not what is read", "read and write on the same primary")
    return ok("store.write", "compare-and-set, token and list of what is due work")


def _change(key: UserKey, now: int, *, version: str, token: bytes | None = None) -> Change:
    keep_until = now + (1 if token is None else _TRIAL_SECONDS * 1000)
    return Change(
        key=key,
        value=encode(RefreshRecord(since=now)),
        expected_version=version,
        decided_at=now,
        max_age=milliseconds(Policy().decision_age),
        # Not in the list of what is due: a write that is puts that list in order by how long its own record is kept.
        due_at=None,
        keep_until=keep_until,
        token_change=TokenChange.DROP if token is None else TokenChange.PUT,
        token=token,
        token_expires_at=keep_until,
    )


def _failed(check: str, failure: StoreError | ConfigurationError) -> Finding:
    if isinstance(failure, ConfigurationError | RecordUnreadable):
        return error(check, failure.problem, failure.remedy)
    reason = failure.reason if isinstance(failure, StoreUnavailable) else "unknown"
    said, remedy = _cause_of(failure) or (reason, _REMEDIES.get(reason, "check that it runs and can be reached"))
    return error(check, f"the store is unavailable ({said})", remedy)


def _cause_of(failure: BaseException) -> tuple[str, str] | None:
    link: BaseException | None = failure
    while link is not None:
        for kind, said, remedy in _CAUSES:
            if isinstance(link, kind):
                return said.format(link), remedy
        if command := forbidden_command(link):
            return f"the ACL forbids {command}", f"grant +{command} to the ACL user"
        link = link.__cause__ or link.__context__
    return None


def forbidden_command(failure: BaseException) -> str:
    """The command that a server's ACL forbids, as a refusal names it; empty for what is no refusal, or names none."""
    found = _FORBIDDEN.search(str(failure))
    return found[1] if found else ""


def check_file(path: Path, *, is_sealed: bool) -> Findings:
    """All checks of the file at `path`, which is not created here: it would belong to who runs the doctor."""
    path = path.resolve()
    yield _access(path)
    yield check_place(path, _MOUNTS.read_text(encoding="utf-8") if _MOUNTS.exists() else None)
    free = shutil.disk_usage(path.parent).free
    if free < _ROOM:
        yield warning("store.disk", f"{free // 1_000_000} MB are free", "make room: a full disk refuses writes")
    if path.exists():
        yield _journal(path)
        if not is_sealed and path.stat().st_mode & _OTHERS:
            said = f"others may read the session tokens in it (mode {stat.S_IMODE(path.stat().st_mode):o})"
            yield warning("store.mode", said, "chmod 600 it, or set PHR_REFRESH_SEAL_KEYS")


def _access(path: Path) -> Finding:
    for place, what in ((path.parent, "its directory"), (path, "it")):
        if place.exists() and not os.access(place, os.R_OK | os.W_OK):
            said = f"{what} cannot be read and written by this user"
            return error("store.file", said, "check its owner and mode: SQLite also makes files beside it")
    if not path.parent.is_dir():
        return error("store.file", "its directory does not exist", "create it")
    return ok("store.file", f"{path} {'can be written' if path.exists() else 'will be made at the first login'}")


def check_place(path: Path, mounts: str | None) -> Finding:
    """What kind of file system `path` lies on, by the lines of /proc/self/mountinfo; None where there is no such."""
    kind = None if mounts is None else _kind_of(path, mounts)
    if kind is None:
        return unknown("store.filesystem", "its kind cannot be told here", "see that it is a local disk")
    if _NETWORK.fullmatch(kind):
        said = f"it lies on {kind}: SQLite's locks do not hold over a network (R1)"
        return error("store.filesystem", said, "put it on a local disk, or share Redis between hosts")
    if kind in _GONE_AT_RESTART:
        said = f"it lies on {kind}: a restart forgets all windows (R1)"
        return warning("store.filesystem", said, "put it on a disk or a volume that stays")
    return ok("store.filesystem", kind)


def _kind_of(path: Path, mounts: str) -> str | None:
    above: list[tuple[int, str]] = []
    for escaped, kind in _MOUNT.findall(mounts):
        # Spaces and such are octal escapes.
        place = Path(escaped.encode().decode("unicode_escape").encode("latin-1").decode("utf-8", "replace"))
        if path.is_relative_to(place):
            above.append((len(place.parts), kind))
    # The last of those mounted at one place hides the others.
    return max(reversed(above), key=lambda each: each[0])[1] if above else None


def _journal(path: Path) -> Finding:
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=2.0)) as connection:
            mode = str(connection.execute("PRAGMA journal_mode").fetchone()[0])
    except sqlite3.Error as failure:
        said = f"it cannot be opened ({failure.sqlite_errorname})"
        return error("store.journal", said, "move it away, or restore it from a backup")
    if mode != "wal":
        return warning("store.journal", f"journal mode {mode}, not wal", "let one process of the service open it")
    return ok("store.journal", "wal")
