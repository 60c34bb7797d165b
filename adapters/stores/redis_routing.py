"""Commands on their way: to which server, what to do where one is not the right one, and when to give up. No I/O here.

A journey is a generator like those of `redis_talks`: it yields errands to be run at the same time, or a pause, and is
sent the replies. The rules, so that a login never waits long:

- A time-out is not tried again, and ends the journey. The next one asks others first where things lie now.
- A broken connection is tried once more, after asking where things lie now. Every write is safe to repeat.
- A server that names another (MOVED, ASK) is believed, a few times.
- A slot whose keys are half here and half there (TRYAGAIN) is waited for, two thirds of a second at most.
"""

from collections import defaultdict
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Final

from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ConnectionError,
    MaxConnectionsError,
    MovedError,
    ReadOnlyError,
    TimeoutError,
)

from .redis_commands import Argument
from .redis_errors import Unroutable, is_resharding
from .redis_talks import Sent
from .redis_topology import Topology, redirected_to
from .redis_urls import Place

_REDIRECTIONS: Final = 8
_PAUSES: Final = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32)
#: Who is asked where things lie, at most, one after the other.
_ASKED: Final = 3
# Kinds of `ConnectionError` that say nothing about the connection.
_ANSWERS: Final = (AuthenticationError, AuthorizationError, BusyLoadingError, MaxConnectionsError)


@dataclass(frozen=True, slots=True)
class Errand:
    """Commands for one server, or one sentinel, to be sent together. A failure is the reply to each of them."""

    place: Place
    commands: Sent
    to_sentinel: bool = False


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait so long."""

    seconds: float


Replies = list[object]
Journey = Generator[list[Errand] | Pause, list[Replies], Replies]


@dataclass(slots=True)
class _Letter:
    """A command, with the WAIT that is about it: they go together, wherever they go."""

    slot: int
    commands: Sent
    replies: Replies = field(default_factory=list)
    asking_at: Place | None = None
    place: Place = ""
    redirections: int = 0
    pauses: int = 0
    was_repeated: bool = False


class Router:
    """Sends commands to where `topology` says. Shared by all threads: what one learns, all know."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._in_doubt = True

    def place_of(self, command: Sequence[Argument]) -> Place | None:
        """Where a single command goes; None where that must be asked first."""
        return None if self._in_doubt else self._topology.owner(self._topology.slot_of(command))

    def deliver(self, commands: Sent, *, met: tuple[Place, Exception] | None = None) -> Journey:
        """The replies to `commands`, errors as values. `met`: what the only command met just now, and where."""
        letters = self._letters(commands)
        pending = letters
        if met is not None:
            letters[0].place, letters[0].replies = met[0], [met[1]]
            pending = yield from self._judge(letters)
        while pending:
            ready = yield from self._addressed(pending)
            yield from self._send(ready)
            pending = yield from self._judge(ready)
        return [reply for letter in letters for reply in letter.replies]

    def _letters(self, commands: Sent) -> list[_Letter]:
        letters: list[_Letter] = []
        for command in commands:
            if command[0] == "WAIT":
                letters[-1].commands.append(command)
            else:
                letters.append(_Letter(self._topology.slot_of(command), [command]))
        return letters

    def _addressed(self, pending: list[_Letter]) -> Generator[list[Errand], list[Replies], list[_Letter]]:
        """Those of `pending` whose place is known, if need be after asking; the others have got their error."""
        if self._in_doubt or any(self._topology.owner(letter.slot) is None for letter in pending):
            failure = yield from self._learn()
            if failure is not None:
                _fail(pending, failure)
                return []
        ready = []
        for letter in pending:
            place = letter.asking_at or self._topology.owner(letter.slot)
            if place is None:
                _fail([letter], Unroutable("cluster_unavailable"))
            else:
                letter.place = place
                ready.append(letter)
        return ready

    def _learn(self) -> Generator[list[Errand], list[Replies], Exception | None]:
        failure: Exception | None = None
        for place in self._topology.whom_to_ask()[:_ASKED]:
            errand = Errand(place, [self._topology.question], to_sentinel=self._topology.asks_sentinels)
            [[reply]] = yield [errand]
            failure = self._topology.learn(place, reply)
            if failure is None:
                self._in_doubt = False
                return None
            if isinstance(failure, TimeoutError):
                self._topology.doubt(place)
                break
        return failure

    def _send(self, letters: list[_Letter]) -> Generator[list[Errand], list[Replies], None]:
        by_place: dict[Place, list[_Letter]] = defaultdict(list)
        for letter in letters:
            by_place[letter.place].append(letter)
        if not by_place:
            return
        answers = yield [Errand(place, _packed(some)) for place, some in by_place.items()]
        for some, replies in zip(by_place.values(), answers, strict=True):
            _unpack(some, replies)

    def _judge(self, letters: list[_Letter]) -> Generator[Pause, list[Replies], list[_Letter]]:
        """Those of `letters` that must be sent again."""
        again = [letter for letter in letters if self._must_go_again(letter)]
        if any(isinstance(letter.replies[0], TimeoutError) for letter in letters):
            # Whoever waits for all of them has waited long enough.
            return []
        waiting = [letter.pauses for letter in again if letter.pauses and is_resharding(letter.replies[0])]
        if waiting:
            yield Pause(_PAUSES[min(waiting) - 1])
        return again

    def _must_go_again(self, letter: _Letter) -> bool:
        reply = letter.replies[0]
        letter.asking_at = None
        if isinstance(reply, AskError):
            letter.redirections += 1
            place = redirected_to(reply, letter.place)
            if isinstance(reply, MovedError):
                self._topology.moved(letter.slot, place)
            else:
                letter.asking_at = place
            return letter.redirections <= _REDIRECTIONS
        if is_resharding(reply):
            letter.pauses += 1
            return letter.pauses <= len(_PAUSES)
        if not _tells_of_a_change(reply):
            return False
        self._in_doubt = True
        self._topology.doubt(letter.place)
        was_repeated, letter.was_repeated = letter.was_repeated, True
        return not was_repeated and not isinstance(reply, TimeoutError)


def _tells_of_a_change(reply: object) -> bool:
    if isinstance(reply, ConnectionError):
        return not isinstance(reply, _ANSWERS)
    return isinstance(reply, TimeoutError | ReadOnlyError)


def _fail(letters: list[_Letter], failure: Exception) -> None:
    for letter in letters:
        letter.replies = [failure] * len(letter.commands)


def _packed(letters: list[_Letter]) -> Sent:
    sent: Sent = []
    for letter in letters:
        if letter.asking_at:
            sent.append(("ASKING",))
        sent += letter.commands
    return sent


def _unpack(letters: list[_Letter], replies: Replies) -> None:
    rest = iter(replies)
    for letter in letters:
        asked = next(rest) if letter.asking_at else None
        letter.replies = [next(rest) for _ in letter.commands]
        if isinstance(asked, Exception):
            # As where the user may not say ASKING: what came of the command then does not tell that.
            letter.replies[0] = asked
