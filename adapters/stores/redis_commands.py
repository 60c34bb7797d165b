"""What is said to Redis and what its answers mean, without saying it: shared by `redis_sync` and `redis_async`.

Each call of a store is one command, `EVALSHA` of one of the scripts in `lua/`, hence one round trip and atomic. A
server that does not know the script (restarted, flushed, failed over) says NOSCRIPT; then `EVAL` brings it, once.

Needs Redis 6.2 or later, or Valkey. Not guaranteed: that a commit outlives a failover. Redis replicates
asynchronously, so a primary that dies takes its last moments with it. A change that asks for `replicas` is followed by
`WAIT` in the same message, and is told of as replicated only if so many have got it.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha1
from importlib.resources import files
from typing import Generic, Protocol, TypeVar, cast

from redis.exceptions import InvalidResponse

from ...statemachine.effects import TokenChange
from ...statemachine.errors import ConfigurationError, RecordUnreadable
from ...statemachine.patient import UserKey
from ...statemachine.policy import Instant
from ..ports import Change, Row, Written
from .basics import VERSION_LENGTH, new_version
from .keys import DEFAULT_PREFIX, RedisKeys

T = TypeVar("T")
Argument = str | bytes | int
Due = list[tuple[Instant, UserKey]]

_VERSION = re.compile(rb"[A-Za-z0-9_-]{%d}" % VERSION_LENGTH)


class Encoder(Protocol):
    """What tells whether a client decodes what it reads."""

    decode_responses: bool


def check_gives_bytes(encoder: Encoder) -> None:
    """Raises `ConfigurationError` for a client that decodes replies: records and sealed tokens are no text."""
    if encoder.decode_responses:
        raise ConfigurationError("the Redis client", "it decodes replies", "create it with decode_responses=False")


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script, and the hash that the server knows it by."""

    text: str
    sha: str

    @classmethod
    def named(cls, name: str) -> "Script":
        """The script `lua/<name>.lua` of this package."""
        text = (files(__package__) / "lua" / f"{name}.lua").read_text(encoding="utf-8")
        return cls(text, sha1(text.encode(), usedforsecurity=False).hexdigest())


@dataclass(frozen=True, slots=True)
class Then(Generic[T]):
    """A command that follows another on the same connection; `read` makes the answer out of the first one and this."""

    command: tuple[Argument, ...]
    read: Callable[[T, object], T]


@dataclass(frozen=True, slots=True)
class Command(Generic[T]):
    """One call of a script, and how to read its reply. `then`: what to send after it, and how to read both replies."""

    script: Script
    keys: tuple[str, ...]
    arguments: tuple[Argument, ...]
    read: Callable[[object], T]
    then: "Then[T] | None" = None

    def by_hash(self) -> tuple[Argument, ...]:
        """The command to send first."""
        return ("EVALSHA", self.script.sha, len(self.keys), *self.keys, *self.arguments)

    def in_full(self) -> tuple[Argument, ...]:
        """The command to send to a server that does not know the script."""
        return ("EVAL", self.script.text, len(self.keys), *self.keys, *self.arguments)


class RedisCommands:
    """The commands of a store whose keys begin with `prefix`.

    `longest_wait`: milliseconds after which the client would give up an answer, less a margin. A `WAIT` ends before.
    """

    def __init__(self, prefix: str = DEFAULT_PREFIX, *, longest_wait: int | None = None) -> None:
        self._longest_wait = longest_wait
        self._keys = RedisKeys(prefix)
        self._load = Script.named("load")
        self._write = Script.named("write")
        self._due = Script.named("due")

    def load(self, key: UserKey, *, with_token: bool) -> Command[Row]:
        """See `Store.load`."""
        record = self._keys.record(key)
        keys = (record, self._keys.token(key)) if with_token else (record,)
        return Command(self._load, keys, (), _read_row)

    def write(self, change: Change) -> Command[Written | Row]:
        """See `Store.write`. The version is drawn here: sent again, the command is known to be the same write."""
        version = new_version()
        keys: tuple[str, ...] = (self._keys.record(change.key), self._keys.due_index(change.key))
        arguments: tuple[Argument, ...] = (
            change.expected_version,
            version.encode("ascii") + change.value,
            change.decided_at + change.max_age,
            max(1, change.keep_until),
            change.key,
            "" if change.due_at is None else change.due_at,
        )
        if change.token_change is not TokenChange.KEEP:
            keys = (*keys, self._keys.token(change.key))
        if change.token_change is TokenChange.PUT and change.token is not None:
            arguments = (*arguments, change.token, max(1, change.token_expires_at))
        return Command(self._write, keys, arguments, partial(_read_written, version), self._wait(change))

    def _wait(self, change: Change) -> Then[Written | Row] | None:
        """WAIT is about what its own connection has written: it follows the write whose copies it counts."""
        if not change.replicas:
            return None
        longest = change.replicas_wait if self._longest_wait is None else min(change.replicas_wait, self._longest_wait)
        # 0 would mean for ever.
        return Then(("WAIT", change.replicas, max(1, longest)), partial(_with_replicas, change.replicas))

    def due(self, limit: int) -> list[Command[Due]]:
        """What to ask of each shard; `redis_talks.due` puts the answers together."""
        return [Command(self._due, (index,), (limit, head), _read_due) for index, head in self._keys.shards()]


# Readers take nothing for what it is not: a reply to another question must not pass for a patient never seen, or for a
# commit. `InvalidResponse` is one of `REDIS_ERRORS`.


def _read_row(reply: object) -> Row:
    row, token = cast("list[bytes]", reply) if isinstance(reply, list) else (cast("bytes", reply), None)
    seconds, microseconds, found = row.split(b" ", 2)
    stored = found[1:] if found.startswith(b"=") else None
    if (stored is None and found != b"-") or not isinstance(token, bytes | None):
        raise InvalidResponse("no row")
    return _row(stored, now=_instant(seconds, microseconds), token=token)


def _read_written(version: str, reply: object) -> Written | Row:
    if not isinstance(reply, list) or reply[0] not in (0, 1):
        raise InvalidResponse("not the answer to a write")
    written, seconds, microseconds, *stored = reply
    now = _instant(seconds, microseconds)
    return Written(version, now) if written else _row(stored[0] if stored else None, now=now, token=None)


def _with_replicas(wanted: int, answer: Written | Row, copies: object) -> Written | Row:
    # An error instead of a number, as where the user may not WAIT, leaves it open: the write has taken effect.
    is_replicated = isinstance(copies, int) and copies >= wanted
    return replace(answer, is_replicated=is_replicated) if isinstance(answer, Written) else answer


def _read_due(reply: object) -> Due:
    flat = cast("list[bytes]", reply)
    return [(int(float(due_at)), key.decode()) for key, due_at in zip(flat[::2], flat[1::2], strict=True)]


def _row(stored: bytes | None, *, now: Instant, token: bytes | None) -> Row:
    if stored is None:
        return Row(None, "", now)
    version = stored[:VERSION_LENGTH]
    if not _VERSION.fullmatch(version):
        raise RecordUnreadable(
            "what lies at its key was not written by phr-refresh", "remove it, or use another prefix for the keys"
        )
    return Row(stored[VERSION_LENGTH:], version.decode("ascii"), now, token)


def _instant(seconds: bytes, microseconds: bytes) -> Instant:
    return int(seconds) * 1000 + int(microseconds) // 1000
