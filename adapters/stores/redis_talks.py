"""Calls of a store that take several commands: what to send, what to make of the replies, and what to send then.

A talk is a generator: it yields commands to be sent together, is sent their replies, errors among them as values, and
returns what the call is to answer. `redis_sync` and `redis_async` hold the same talks, and differ in `await` alone.
"""

import heapq
from collections.abc import Callable, Generator, Sequence
from functools import partial
from itertools import chain
from typing import Final, TypeVar

from redis.exceptions import NoScriptError

from ...statemachine.errors import RecordUnreadable
from ...statemachine.patient import UserKey
from .redis_commands import Argument, Command, Due
from .redis_errors import is_wrong_type

T = TypeVar("T")
Sent = list[tuple[Argument, ...]]
_Replies = tuple[object, object]
Talk = Generator[Sent, list[object], T]

#: Commands sent together, at most. The server holds as many replies back for one client, and others wait meanwhile.
MOST_TOGETHER: Final = 256


def one(command: Command[T]) -> Talk[T]:
    """The answer to `command`. Raises what speaks against it."""
    [replies] = yield from _replies([command])
    return _read(command, replies)


def each(commands: Sequence[Command[T]]) -> Talk[list[T | RecordUnreadable]]:
    """The answer to each of `commands`. What is wrong with one patient's record is a value."""
    replies = yield from _replies(commands)
    return [_answer(partial(_read, command, some), some[0]) for command, some in zip(commands, replies, strict=True)]


def due(commands: Sequence[Command[Due]], limit: int) -> Talk[tuple[UserKey, ...]]:
    """The `limit` longest overdue of all shards that `commands` ask."""
    replies = yield from _replies(commands)
    answers = (_read(command, some) for command, some in zip(commands, replies, strict=True))
    return tuple(key for _, key in heapq.nsmallest(limit, chain.from_iterable(answers)))


def _replies(commands: Sequence[Command[T]]) -> Talk[list[_Replies]]:
    """Of each command the reply, and that to what follows it."""
    replies: list[_Replies] = []
    for start in range(0, len(commands), MOST_TOGETHER):
        some = commands[start : start + MOST_TOGETHER]
        answers = yield from _exchange(some, in_full=False)
        unknown = [place for place, answer in enumerate(answers) if isinstance(answer[0], NoScriptError)]
        if unknown:
            again = yield from _exchange([some[place] for place in unknown], in_full=True)
            for place, answer in zip(unknown, again, strict=True):
                answers[place] = answer
        # With a server that hangs, the next message would cost another time-out.
        _check([reply for reply, _ in answers])
        replies += answers
    return replies


def _exchange(commands: Sequence[Command[T]], *, in_full: bool) -> Talk[list[_Replies]]:
    sent: Sent = []
    for command in commands:
        # A WAIT behind a NOSCRIPT would wait for nothing, and for as long: rather the whole script each time.
        sent.append(command.in_full() if in_full or command.then else command.by_hash())
        if command.then:
            sent.append(command.then.command)
    rest = iter((yield sent))
    return [(next(rest), next(rest) if command.then else None) for command in commands]


def _check(replies: Sequence[object]) -> None:
    """Raises the first error that says nothing about one patient alone."""
    for reply in replies:
        if isinstance(reply, Exception) and not is_wrong_type(reply):
            raise reply


def _read(command: Command[T], replies: _Replies) -> T:
    if isinstance(replies[0], Exception):
        raise replies[0]
    answer = command.read(replies[0])
    return command.then.read(answer, replies[1]) if command.then else answer


def _answer(read: Callable[[], T], reply: object) -> T | RecordUnreadable:
    if isinstance(reply, Exception) and is_wrong_type(reply):
        return RecordUnreadable(
            "what lies at its key was not written by phr-refresh", "remove it, or use another prefix for the keys"
        )
    try:
        return read()
    except RecordUnreadable as unreadable:
        return unreadable
