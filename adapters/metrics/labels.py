"""The values that labels can have. What is none of them becomes "other": no label grows with the patients."""

from typing import Final

from ...statemachine.outcomes import ReceiptKind
from ...statemachine.record import State
from ...statemachine.table import EventName
from ..logs import WARNINGS

OTHER: Final = "other"

#: Codes of failures: of the upstream, of the store, of our own doing. HTTP statuses that nobody expects are "other".
REASONS: Final = frozenset(
    (
        *("", "http_400", "http_401", "http_403", "http_404", "http_408", "http_409", "http_422", "http_429"),
        *("http_500", "http_502", "http_503", "http_504", "redirected", "status_not_ok", "all_extracts_failed"),
        *("dns_failed", "connection_refused", "connect_timed_out", "connection_reset", "tls_failed", "unreachable"),
        *("proxy_refused", "bad_proxy", "timed_out", "too_large", "unreadable_answer", "several_patients"),
        *("bad_token", "token_expired", "too_late", "never_sent", "not_replicated", "upstream_overloaded"),
        # Of a login or a receipt.
        *("over_budget", "too_many_logins", "closed", "internal_error", "worker_full", "store_unavailable"),
        *("record_unreadable", "window_closed", "backoff", "logged_out", "session_being_created"),
        # Of a store.
        *("connection_failed", "authentication_failed", "not_permitted", "loading", "too_many_connections"),
        *("protocol_error", "read_only", "out_of_memory", "primary_down", "keys_in_two_slots", "cluster_resharding"),
        *(
            "needs_a_cluster_client",
            "cluster_unavailable",
            "not_a_cluster",
            "service_unknown",
            "wrong_type",
            "busy_with_a_script",
            "cannot_persist",
        ),
        *("not_enough_replicas", "redis_error", "contended", "locked", "disk_full", "cannot_open", "not_a_database"),
        *("corrupt", "io_error", "sqlite_error", "newer_schema"),
    )
)

STATES: Final = frozenset(state.value for state in State)
#: Each label, by its name. "call", "outcome" and "step" name things of our own code only.
VALUES: Final = {
    "kind": frozenset(kind.value for kind in ReceiptKind),
    "reason": REASONS,
    "event": frozenset(event.value for event in EventName) | frozenset(WARNINGS),
    "from_state": STATES,
    "to_state": STATES,
    "call": frozenset(
        ("open_session", "start_refresh", "ask_status", "read_records", "load", "write", "due", "load_all", "write_all")
    ),
    "outcome": frozenset(
        (
            *("opened", "failed", "accepted", "rejected", "never_sent", "answer_lost", "in_progress", "complete"),
            *("could_not_ask", "turned_away", "read", "not_ready", "raised", "completed", "timed_out"),
        )
    ),
    "step": frozenset(("refresh", "follow")),
}


def bounded(label: str, value: object) -> str:
    """`value` as a value of `label`."""
    return value if isinstance(value, str) and value in VALUES[label] else OTHER
