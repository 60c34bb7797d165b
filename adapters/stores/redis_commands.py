"""What is said to Redis and what its answers mean, without saying it: shared by all that speak to it.

What one store call needs is an `Exchange`: commands for one server, to be sent together over one connection, hence one
round trip. A call is a generator: it yields exchanges, is sent the replies to each, errors among them as values, and
returns the answer. Mostly an exchange is one `EVALSHA` of a script in `lua/`, which is atomic. A server that does not
know the script (restarted, flushed, failed over) says NOSCRIPT; then `EVAL` brings it, once.

Needs Redis 6.2 or later, or Valkey. Not guaranteed: that a commit outlives a failover. Redis replicates
asynchronously, so a primary that dies takes its last moments with it. A change that asks for `replicas` is followed by
`WAIT` in the same message, and is told of as replicated only if so many have got it.
"""

import heapq
import re
from collections.abc import Awaitable, Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha1
from importlib.resources import files
from itertools import chain
from typing import Any, Final, Generic, TypeVar

from redis.exceptions import InvalidResponse, NoScriptError

from ...statemachine.effects import ListDue, Load, LoadAll, TokenChange
from ...statemachine.errors import RecordUnreadable
from ...statemachine.patient import UserKey
from ...statemachine.policy import Instant
from ...statemachine.values import Value
from ..ports import Change, ChangeAll, Row, StoreReply, StoreRequest, Written
from .basics import VERSION_LENGTH, new_version
from .keys import DEFAULT_PREFIX, RedisKeys
from .redis_errors import is_wrong_type

S = TypeVar("S")
T = TypeVar("T")
Argument = str | bytes | int
Command = tuple[Argument, ...]
Commands = tuple[Command, ...]
Replies = list[object]
#: Yields the commands of exchanges, each for itself; is sent the replies to each.
Talk = Generator[list[Commands], list[Replies], T]
Due = list[tuple[Instant, UserKey]]

#: Exchanges sent together, at most. The server holds as many replies back for one client, and others wait meanwhile.
MOST_TOGETHER: Final = 256
_VERSION = re.compile(rb"[A-Za-z0-9_-]{%d}" % VERSION_LENGTH)
_TIME: Final[Command] = ("TIME",)


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

    def by_hash(self, keys: Sequence[str], *arguments: Argument) -> Command:
        """The command to send first."""
        return ("EVALSHA", self.sha, len(keys), *keys, *arguments)

    def in_full(self, by_hash: Command) -> Command:
        """The same for a server that does not know the script."""
        return ("EVAL", self.text, *by_hash[2:])


class Exchange(Value, Generic[T], frozen=True):
    """Commands to be sent together, and how to read their replies. `script`: what the first one runs by its hash."""

    commands: Commands
    read: Callable[[Replies], T]
    script: Script | None = None

    def in_full(self) -> Commands:
        """The commands for a server that does not know the script."""
        first, *others = self.commands
        return (self.script.in_full(first) if self.script else first, *others)


class RedisCommands:
    """What the calls of a store come to whose keys begin with `prefix`.

    `longest_wait`: milliseconds after which the client would give up an answer, less a margin. A `WAIT` ends before.
    """

    def __init__(self, prefix: str = DEFAULT_PREFIX, *, longest_wait: int | None = None) -> None:
        self._longest_wait = longest_wait
        self._keys = RedisKeys(prefix)
        self._load = Script.named("load")
        self._write = Script.named("write")
        self._due = Script.named("due")

    def talk(self, request: StoreRequest) -> Talk[StoreReply]:
        """The call that `request` is."""
        match request:
            case Load():
                return _one(self.load(request))
            case Change():
                return _one(self.write(request))
            case LoadAll(keys):
                return _each([self.load(Load(key)) for key in keys])
            case ChangeAll(changes):
                return _each([self.write(change) for change in changes])
            case ListDue(limit):
                return _overdue(self.due(limit) if limit > 0 else [], limit)

    def load(self, request: Load) -> Exchange[Row]:
        """Read one patient."""
        return Exchange((self._load.by_hash(self._keys_of(request)),), _read_row, self._load)

    def write(self, change: Change) -> Exchange[Written | Row]:
        """Compare and set. The version is drawn here: sent again, the commands are known to be the same write."""
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
        command = self._write.by_hash(keys, *arguments)
        read = partial(_read_written, version, change.replicas)
        if not change.replicas:
            return Exchange((command,), read, self._write)
        # WAIT is about what its own connection has written: it follows the write whose copies it counts. Behind a
        # NOSCRIPT it would wait for nothing, and for as long: rather the whole script each time.
        return Exchange((self._write.in_full(command), self._wait(change)), read)

    def due(self, limit: int) -> list[Exchange[Due]]:
        """What to ask of each shard."""
        return [
            Exchange((self._due.by_hash((index,), limit, head),), _read_due, self._due)
            for index, head in self._keys.shards()
        ]

    def _keys_of(self, request: Load) -> tuple[str, ...]:
        record = self._keys.record(request.key)
        return (record, self._keys.token(request.key)) if request.with_token else (record,)

    def _wait(self, change: Change) -> Command:
        longest = change.replicas_wait if self._longest_wait is None else min(change.replicas_wait, self._longest_wait)
        # 0 would mean for ever.
        return ("WAIT", change.replicas, max(1, longest))


class OneServerCommands(RedisCommands):
    """The same where one server has everything: then `TIME` is the record's clock, and to load needs no script.

    `GET` and `TIME` in this order, so that `now` is read not before the record. With the token it is `MGET`, so that
    both are of one moment. It takes a value of another type for nothing; the write, which says `GET`, does not.
    """

    def load(self, request: Load) -> Exchange[Row]:
        """Read one patient."""
        return Exchange((("MGET" if request.with_token else "GET", *self._keys_of(request)), _TIME), _read_values)


# Calls.


def _one(exchange: Exchange[T]) -> Talk[T]:
    """The answer to `exchange`. Raises what speaks against it."""
    [replies] = yield [exchange.commands]
    if isinstance(replies[0], NoScriptError) and exchange.script:
        [replies] = yield [exchange.in_full()]
    return exchange.read(replies)


def _each(exchanges: Sequence[Exchange[T]]) -> Talk[tuple[T | RecordUnreadable, ...]]:
    """The answer to each of `exchanges`. What is wrong with one patient's record is a value."""
    answers = yield from _replies(exchanges)
    return tuple(_answer(exchange, replies) for exchange, replies in zip(exchanges, answers, strict=True))


def _overdue(exchanges: Sequence[Exchange[Due]], limit: int) -> Talk[tuple[UserKey, ...]]:
    """The `limit` longest overdue of all shards that `exchanges` ask."""
    answers = yield from _replies(exchanges)
    found = (exchange.read(replies) for exchange, replies in zip(exchanges, answers, strict=True))
    return tuple(key for _, key in heapq.nsmallest(limit, chain.from_iterable(found)))


def _replies(exchanges: Sequence[Exchange[Any]]) -> Talk[list[Replies]]:
    answers: list[Replies] = []
    for start in range(0, len(exchanges), MOST_TOGETHER):
        some = exchanges[start : start + MOST_TOGETHER]
        replies = yield [exchange.commands for exchange in some]
        unknown = [place for place, answer in enumerate(replies) if isinstance(answer[0], NoScriptError)]
        if unknown:
            again = yield [some[place].in_full() for place in unknown]
            for place, answer in zip(unknown, again, strict=True):
                replies[place] = answer
        for answer in replies:
            # Says nothing about one patient alone. With a server that hangs, the next message would cost a time-out.
            if isinstance(answer[0], Exception) and not is_wrong_type(answer[0]):
                raise answer[0]
        answers += replies
    return answers


def _answer(exchange: Exchange[Any], replies: Replies) -> Any:
    if isinstance(replies[0], Exception) and is_wrong_type(replies[0]):
        return _none_of_ours()
    try:
        return exchange.read(replies)
    except RecordUnreadable as unreadable:
        return unreadable


def hold(talk: Generator[S, list[Replies], T], send: Callable[[S], list[Replies]]) -> T:
    """Run `talk` to its end: what it yields is for `send`."""
    try:
        step = next(talk)
        while True:
            step = talk.send(send(step))
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]


async def hold_async(talk: Generator[S, list[Replies], T], send: Callable[[S], Awaitable[list[Replies]]]) -> T:
    """The same, awaited."""
    try:
        step = next(talk)
        while True:
            step = talk.send(await send(step))
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]


def grouped(exchanges: Sequence[Commands], replies: Replies) -> list[Replies]:
    """`replies` to the commands of `exchanges`, one after the other, as the replies to each."""
    if len(exchanges) == 1:
        return [replies]
    rest = iter(replies)
    return [[next(rest) for _ in commands] for commands in exchanges]


# Readers take nothing for what it is not: a reply to another question must not pass for a patient never seen, or for a
# commit. `InvalidResponse` is one of `REDIS_ERRORS`.


def _sound(reply: object) -> Any:
    if isinstance(reply, Exception):
        raise reply
    return reply


def _read_values(replies: Replies) -> Row:
    values, time = map(_sound, replies)
    stored, token = values if isinstance(values, list) else (values, None)
    if not isinstance(time, list) or not isinstance(stored, bytes | None) or not isinstance(token, bytes | None):
        raise InvalidResponse("no row")
    return _row(stored, now=_instant(*time), token=token)


def _read_row(replies: Replies) -> Row:
    reply = _sound(replies[0])
    row, token = reply if isinstance(reply, list) else (reply, None)
    seconds, microseconds, found = row.split(b" ", 2)
    stored = found[1:] if found.startswith(b"=") else None
    if (stored is None and found != b"-") or not isinstance(token, bytes | None):
        raise InvalidResponse("no row")
    return _row(stored, now=_instant(seconds, microseconds), token=token)


def _read_written(version: str, replicas: int, replies: Replies) -> Written | Row:
    reply = _sound(replies[0])
    if not isinstance(reply, list) or reply[0] not in (0, 1):
        raise InvalidResponse("not the answer to a write")
    written, seconds, microseconds, *stored = reply
    now = _instant(seconds, microseconds)
    if not written:
        return _row(stored[0] if stored else None, now=now, token=None)
    # An error instead of a number, as where the user may not WAIT, leaves it open: the write has taken effect.
    copies = replies[1] if replicas else 0
    return Written(version, now, isinstance(copies, int) and copies >= replicas)


def _read_due(replies: Replies) -> Due:
    flat: list[bytes] = _sound(replies[0])
    return [(int(float(due_at)), key.decode()) for key, due_at in zip(flat[::2], flat[1::2], strict=True)]


def _row(stored: bytes | None, *, now: Instant, token: bytes | None) -> Row:
    if stored is None:
        return Row(None, "", now)
    version = stored[:VERSION_LENGTH]
    if not _VERSION.fullmatch(version):
        raise _none_of_ours()
    return Row(stored[VERSION_LENGTH:], version.decode("ascii"), now, token)


def _none_of_ours() -> RecordUnreadable:
    return RecordUnreadable(
        "what lies at its key was not written by phr-refresh", "remove it, or use another prefix for the keys"
    )


def _instant(seconds: bytes, microseconds: bytes) -> Instant:
    return int(seconds) * 1000 + int(microseconds) // 1000
