"""What redis-py may raise, and the reasons that callers get for it."""

import re
import ssl
from typing import Final

from redis import exceptions as raised
from redis.asyncio.sentinel import MasterNotFoundError as AsyncMasterNotFoundError
from redis.sentinel import MasterNotFoundError

from ...statemachine.errors import StoreUnavailable

# What comes out of redis-py where a reply breaks the protocol: it looks at little of it before using it. The same comes
# of a reply to another question, as after a proxy mixed up two connections.
_MALFORMED: Final = (ValueError, TypeError, AttributeError, LookupError, EOFError, RecursionError)
#: Everything that a call of redis-py may end in. A cluster client's errors have a root of their own.
REDIS_ERRORS: Final = (raised.RedisError, raised.RedisClusterException, *_MALFORMED)

# Said by a script whose user may not do what it does.
_NOT_PERMITTED_IN_SCRIPT: Final = re.compile(
    "can't run this command|can't access at least one of the keys|ACL failure in script"
)
# Said by a script that came upon a key of a slot that is being moved.
_HALF_MOVED: Final = "ttempted to access a non local key"
# Kinds of `ConnectionError` that say nothing about the connection.
_ANSWERS: Final = (
    raised.AuthenticationError,
    raised.AuthorizationError,
    raised.BusyLoadingError,
    raised.MaxConnectionsError,
    MasterNotFoundError,
    AsyncMasterNotFoundError,
)


# Most special first: each class is asked about before those it derives from.
_REASONS_BY_CLASS: Final[tuple[tuple[type[Exception], str], ...]] = (
    (raised.TimeoutError, "timed_out"),
    (raised.AuthenticationError, "authentication_failed"),
    (raised.AuthorizationError, "not_permitted"),
    (raised.BusyLoadingError, "loading"),
    (raised.MaxConnectionsError, "too_many_connections"),
    (MasterNotFoundError, "service_unknown"),
    (AsyncMasterNotFoundError, "service_unknown"),
    (raised.InvalidResponse, "protocol_error"),
    (raised.ReadOnlyError, "read_only"),
    (raised.OutOfMemoryError, "out_of_memory"),
    (raised.NoPermissionError, "not_permitted"),
    (raised.MasterDownError, "primary_down"),
    (raised.ClusterCrossSlotError, "keys_in_two_slots"),
    (raised.TryAgainError, "cluster_resharding"),
    # MOVED is one, too: this is a node of a cluster, and the client knows of no cluster.
    (raised.AskError, "needs_a_cluster_client"),
    (raised.ClusterDownError, "cluster_unavailable"),
    # What redis-py ends in that was sent to and fro too often.
    (raised.ClusterError, "cluster_resharding"),
    (raised.RedisClusterException, "cluster_unavailable"),
)
# The words of error replies that redis-py has no class for. Up to Redis 6.2 that is every error within a script: the
# word then stands in the middle of the text.
_REASONS_BY_WORD: Final = {
    "WRONGTYPE": "wrong_type",
    "READONLY": "read_only",
    "OOM": "out_of_memory",
    "LOADING": "loading",
    "BUSY": "busy_with_a_script",
    "NOAUTH": "authentication_failed",
    "NOPERM": "not_permitted",
    "MISCONF": "cannot_persist",
    "NOREPLICAS": "not_enough_replicas",
    "MASTERDOWN": "primary_down",
    "CLUSTERDOWN": "cluster_unavailable",
    "CROSSSLOT": "keys_in_two_slots",
    "TRYAGAIN": "cluster_resharding",
}
_WORD = re.compile(rf"\b({'|'.join(_REASONS_BY_WORD)})\b")


def unavailable(store: str, error: Exception) -> StoreUnavailable:
    """What to raise, from `error`, for a client's error. Nothing of its text is taken over."""
    return StoreUnavailable(store, _reason(error))


def is_wrong_type(error: Exception) -> bool:
    """Whether something that is no record lies at a patient's key."""
    return _reason(error) == "wrong_type"


def is_resharding(reply: object) -> bool:
    """Whether keys of one command are on two nodes just now."""
    is_half_moved = isinstance(reply, raised.ResponseError) and _HALF_MOVED in str(reply)
    return is_half_moved or isinstance(reply, raised.TryAgainError)


def is_broken(error: Exception) -> bool:
    """Whether a connection broke: then the same is tried once more, at once. A time-out is none."""
    return isinstance(error, raised.ConnectionError) and not isinstance(error, _ANSWERS)


def _reason(error: BaseException) -> str:
    if is_resharding(error):
        return "cluster_resharding"
    if isinstance(error, raised.RedisClusterException) and (cause := error.__cause__ or error.__context__):
        # What the last node that redis-py asked for the others has met.
        return _reason(cause)
    if "cluster support disabled" in str(error):
        return "not_a_cluster"
    for kind, reason in _REASONS_BY_CLASS:
        if isinstance(error, kind):
            return reason
    if isinstance(error, _MALFORMED):
        return "protocol_error"
    if _NOT_PERMITTED_IN_SCRIPT.search(str(error)):
        return "not_permitted"
    word = _WORD.search(str(error))
    if word:
        return _REASONS_BY_WORD[word[1]]
    if not isinstance(error, raised.ConnectionError):
        return "redis_error"
    return "tls_failed" if _is_about_tls(error) else "connection_failed"


def _is_about_tls(error: BaseException) -> bool:
    cause = error.__cause__ or error.__context__
    return isinstance(error, ssl.SSLError) or (cause is not None and _is_about_tls(cause))
