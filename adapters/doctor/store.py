"""Checks of any store: that it answers, how fast, what its clock shows, and that a record can be written."""

import re
import socket
import ssl
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from secrets import token_urlsafe
from typing import Final

from phr_refresh.statemachine.effects import ListDue

from ...statemachine.codec import encode
from ...statemachine.effects import TokenChange
from ...statemachine.errors import ConfigurationError, RecordUnreadable, StoreError, StoreUnavailable
from ...statemachine.patient import UserKey
from ...statemachine.policy import Policy, milliseconds
from ...statemachine.record import RefreshRecord
from ..ports import Change, Row, Store, Written
from ..stores.basics import read_row
from .findings import Finding, Findings, error, milliseconds_of, ok, warning

LOADS: Final = 20
#: Clocks of hosts that are kept by NTP differ by less.
CLOCK_SECONDS: Final = 2.0
_TRIAL_SECONDS: Final = 30

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


@dataclass(frozen=True, slots=True)
class Heard:
    """What one load told. `skew`: how many seconds the store's clock is ahead of this host's, give or take half."""

    seconds: float
    skew: float


def trial_key() -> UserKey:
    """A key that no patient has: those are hashes of another length."""
    return UserKey(f"doctor-{token_urlsafe(6)}")


def check_store(store: Store, policy: Policy) -> Findings:
    """All checks that any store allows. Ends early if it does not answer."""
    heard: list[Heard] = []
    key = trial_key()
    try:
        for _ in range(LOADS):
            heard.append(_load(store, key))
    except (StoreError, ConfigurationError) as failure:
        yield _failed("store.reachable", failure)
        return
    yield ok("store.reachable", f"answered {LOADS} loads")
    yield check_latency([one.seconds for one in heard], policy)
    yield check_clock(min(heard, key=lambda one: one.seconds))
    yield _write(store, key)


def skew_of(store: Store) -> float | None:
    """How many seconds the store's clock is ahead of this host's; None where the store does not answer."""
    try:
        return min((_load(store, trial_key()) for _ in range(2)), key=lambda one: one.seconds).skew
    except StoreError:
        return None


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
    if isinstance(failure, ConfigurationError):
        return error(check, failure.problem, failure.remedy)
    if isinstance(failure, RecordUnreadable):
        return error(check, failure.problem, failure.remedy)
    reason = failure.reason if isinstance(failure, StoreUnavailable) else "unknown"
    said, remedy = cause_of(failure)
    default = _REMEDIES.get(reason, "check that it runs and can be reached")
    return error(check, f"the store is unavailable ({said or reason})", remedy or default)


def cause_of(failure: BaseException) -> tuple[str, str]:
    """What is underneath where that says more than the reason: name resolution, TLS, a command refused."""
    link: BaseException | None = failure
    while link is not None:
        if isinstance(link, socket.gaierror):
            return "its name is not resolved", "check the host's name in the URL, and this host's DNS"
        if isinstance(link, ssl.SSLCertVerificationError):
            said = f"its certificate is not trusted: {link.verify_message}"
            return said, "give the CA that signed it, such as ?ssl_ca_certs=/path/ca.pem"
        if isinstance(link, ssl.SSLError):
            return "the TLS handshake failed", "check that the port speaks TLS, and the client certificate"
        if isinstance(link, ConnectionRefusedError):
            return "connection refused", "check host and port, and that it runs"
        refused = re.search(r"run the '([a-z|_-]+)' command", str(link))
        if refused:
            return f"the ACL forbids {refused[1]}", f"grant +{refused[1]} to the ACL user"
        link = link.__cause__ or link.__context__
    return "", ""
