"""Histories: what a store was asked and answered, one JSON line a call, and whether one order explains all of it.

`RecordedStore` notes every load and write of a store that is in use; `check` reads such lines, of any number of
processes together. A line holds a pseudonym, versions, times and the fields of the record that the check needs: no
identifier of a patient and no token. All processes that share the store must share the pseudonym key, and may share
the file.
"""

import inspect
import json
import os
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

from phr_refresh.adapters.ports import AsyncStore, Change, ChangeAll, Row, Store, StoreRequest, Written
from phr_refresh.statemachine.codec import decode
from phr_refresh.statemachine.effects import Load, LoadAll
from phr_refresh.statemachine.errors import ConfigurationError, StoreError
from phr_refresh.statemachine.patient import UserKey
from phr_refresh.statemachine.record import State

#: Schema of the lines.
SCHEMA: Final = 1
Line = Mapping[str, Any]


# Recording.


class HistoryFile:
    """Appends lines to a file, each in one write, so that several processes can share it."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def __call__(self, line: dict[str, Any]) -> None:
        """Append `line`."""
        os.write(self._file, json.dumps(line, separators=(",", ":")).encode() + b"\n")

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


class RecordedStore:
    """Passes everything on to `store`, sync or asyncio, and gives `note` a line for each load and write.

    `share`: of so many patients, from 0 to 1, chosen by pseudonym: of each one all calls are noted, or none. `clock`
    gives nanoseconds; it must be the same for all processes of a history, so they run on one host, or are compared
    with a tolerance. `announces`: each write is noted before it is made, too, so that the check can tell what a process
    may have done last that was killed before it could note it.
    """

    def __init__(
        self,
        store: Any,
        note: Callable[[dict[str, Any]], object],
        *,
        pseudonym_key: bytes,
        share: float = 1.0,
        clock: Callable[[], int] = time.time_ns,
        announces: bool = False,
    ) -> None:
        self._store: Store | AsyncStore = store
        self._note = note
        self._key = blake2b(pseudonym_key).digest()
        self._most = int(share * 2**48)
        self._clock = clock
        self._announces = announces

    def call(self, request: StoreRequest) -> Any:
        """See `Store.call`. Of several patients each is noted for itself; of `ListDue` nothing: it promises nothing."""
        lines = [self._begun(key, line) for key, line in _begins(request)]
        if not any(lines):
            return self._store.call(request)
        if self._announces:
            for line in lines:
                if line is not None and line["op"] == "write":
                    self._note(line | {"ended": line["began"], "outcome": "begun"})
        try:
            answer = self._store.call(request)
        except StoreError:
            self._end(lines, None)
            raise
        if inspect.isawaitable(answer):
            return self._ended_later(lines, answer)
        self._end(lines, answer)
        return answer

    def close(self) -> Any:
        """See `Store.close`."""
        return self._store.close()

    def _begun(self, key: UserKey, line: Line) -> dict[str, Any] | None:
        """The beginning of a line; None for a patient who is not among those noted."""
        pseudonym = blake2b(key.encode(), digest_size=6, key=self._key)
        if int.from_bytes(pseudonym.digest()) >= self._most:
            return None
        begun = {"v": SCHEMA, "patient": pseudonym.hexdigest(), "process": os.getpid(), "began": self._clock()}
        return {**begun, **line}

    async def _ended_later(self, lines: list[dict[str, Any] | None], coming: Awaitable[Any]) -> Any:
        try:
            answer = await coming
        except BaseException:
            # Cancelled, or failed: nobody knows whether it took effect.
            self._end(lines, None)
            raise
        self._end(lines, answer)
        return answer

    def _end(self, lines: list[dict[str, Any] | None], answer: Any) -> None:
        """Note what came of a call. `answer` None: nobody knows."""
        ended = self._clock()
        answers = answer if isinstance(answer, Sequence) else (answer,) * len(lines)
        for line, one in zip(lines, answers, strict=True):
            if line is not None:
                self._note(line | {"ended": ended} | _outcome(line, one))


def _begins(request: StoreRequest) -> list[tuple[UserKey, Line]]:
    """Whose calls a request is, and what of their lines is known before it is made."""
    match request:
        case Load(key):
            return [(key, {"op": "load"})]
        case LoadAll(keys):
            return [(key, {"op": "load"}) for key in keys]
        case Change():
            return [_write(request)]
        case ChangeAll(changes):
            return [_write(change) for change in changes]
    return []


def _write(change: Change) -> tuple[UserKey, Line]:
    record = decode(change.value)
    essence = {
        "state": record.state.value,
        "refresh_id": record.refresh_id,
        "claimed_at": record.claimed_at,
        "deadline_at": record.deadline_at,
        "completed_at": record.completed_at,
        "window_opens_at": record.window_opens_at,
        "logouts": record.logouts,
    }
    return change.key, {"op": "write", "expected": change.expected_version, "record": essence}


def _outcome(line: Line, answer: object) -> dict[str, Any]:
    match answer:
        case Written(version, now):
            return {"outcome": "written", "version": version, "now": now}
        case Row():
            outcome = "read" if line["op"] == "load" else "conflict"
            return {"outcome": outcome, "version": answer.version, "now": answer.now}
    return {"outcome": "unknown"}


# Checking: is there one order of all calls that explains every answer, and does it keep the rules?


@dataclass(frozen=True, slots=True)
class Flaw:
    """What no order explains: whose, which rule, and a sentence. `lines` are the numbers of the lines that show it."""

    patient: str
    rule: str
    what: str
    lines: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check found. `unknown`: writes of which nobody knows whether they took effect."""

    patients: int
    calls: int
    writes: int
    unknown: int
    flaws: tuple[Flaw, ...]


def read_history(path: Path) -> Iterator[tuple[int, Line]]:
    """The lines with their numbers. Raises `ConfigurationError` for what is no history."""
    with path.open(encoding="utf-8") as file:
        for number, text in enumerate(file, start=1):
            try:
                line = json.loads(text)
                known = line["v"] == SCHEMA and {"patient", "op", "began", "ended", "outcome"} <= set(line)
            except (ValueError, TypeError, KeyError):
                known = False
            if not known:
                what = f"line {number} is no line of a history of schema {SCHEMA}"
                raise ConfigurationError(str(path), what, "give a file that RecordedStore wrote")
            yield number, line


def check(history: Iterable[tuple[int, Line]], *, tolerance: float = 0.0) -> Verdict:
    """Check each patient's calls. `tolerance`: seconds by which the clocks of the hosts may differ."""
    patients: dict[str, list[_Call]] = defaultdict(list)
    for call in _settled(history):
        patients[call.patient].append(call)
    calls = [call for part in patients.values() for call in part]
    flaws = [flaw for part in patients.values() for flaw in _Part(part, int(tolerance * 1e9)).flaws()]
    writes = [call.outcome for call in calls if call.op == "write"]
    return Verdict(len(patients), len(calls), writes.count("written"), writes.count("unknown"), tuple(flaws))


@dataclass(frozen=True, slots=True)
class _Call:
    """A line as the check reads it. Of an empty version is a patient whom the store does not know, or has forgotten."""

    number: int
    patient: str
    op: str
    outcome: str
    began: int
    ended: int
    #: That was read, or written.
    version: str = ""
    #: That a write was to replace.
    expected: str = ""
    #: By the store's clock.
    now: int = 0
    record: Line = field(default_factory=dict)

    @classmethod
    def of(cls, number: int, line: Line) -> "_Call":
        known = {item.name for item in fields(cls)}
        return cls(number, **{name: value for name, value in line.items() if name in known})


def _settled(history: Iterable[tuple[int, Line]]) -> Iterator[_Call]:
    """The calls without announcements; a write that was announced and never noted has an unknown outcome."""
    announced: dict[tuple[Any, ...], tuple[int, Line]] = {}
    for number, line in history:
        identity = (line.get("process"), line["patient"], line["began"], line.get("expected"))
        if line["outcome"] == "begun":
            announced[identity] = number, line
        else:
            announced.pop(identity, None)
            yield _Call.of(number, line)
    for number, line in announced.values():
        yield _Call.of(number, {**line, "outcome": "unknown"})


class _Part:
    """One patient's calls. `tolerance` is in nanoseconds."""

    def __init__(self, calls: list[_Call], tolerance: int) -> None:
        self.calls = calls
        self.tolerance = tolerance
        self.written = {call.version: call for call in calls if call.outcome == "written"}

    def flaws(self) -> list[Flaw]:
        """What no order explains; real time and the rules are looked at only where there is an order."""
        disorder = [*self._forks(), *self._strangers()]
        return disorder or [*self._backwards(), *self._broken_rules()]

    def _flaw(self, rule: str, what: str, *lines: int) -> Flaw:
        return Flaw(self.calls[0].patient, rule, what, lines)

    def _forks(self) -> Iterator[Flaw]:
        """Versions that two writes replaced."""
        replaced: dict[str, int] = {}
        for write in self.written.values():
            # The empty version does come back.
            if write.expected and write.expected in replaced:
                what = f"version {write.expected} was replaced twice"
                yield self._flaw("one order", what, replaced[write.expected], write.number)
            replaced.setdefault(write.expected, write.number)

    def _strangers(self) -> Iterator[Flaw]:
        """Versions from nowhere: more than the unknown writes and the beginning of the history can account for."""
        seen: dict[str, int] = {}
        for call in self.calls:
            for version in (call.version, call.expected):
                if version and version not in self.written:
                    seen.setdefault(version, call.number)
        unknown = sum(call.outcome == "unknown" and call.op == "write" for call in self.calls)
        if len(seen) > unknown + 1:
            nobody = f"{len(seen)} versions were seen that nobody wrote"
            what = f"{nobody}, and only {unknown} writes have an unknown outcome"
            yield self._flaw("one order", what, *seen.values())

    def _order(self) -> dict[str, int]:
        """Each written version's place in the order. A chain broken by a gap begins anew, by the store's clock."""
        follower = {write.expected: version for version, write in self.written.items() if write.expected}
        heads = [version for version, write in self.written.items() if write.expected not in self.written]
        places: dict[str, int] = {}
        for head in sorted(heads, key=lambda version: self.written[version].now):
            at: str | None = head
            while at is not None and at not in places:
                places[at] = len(places)
                at = follower.get(at)
        return places

    def _backwards(self) -> Iterator[Flaw]:
        """Calls that saw an older version than a call that had ended before they began."""
        order = self._order()
        known = [call for call in self.calls if call.version in order]
        by_end = sorted(known, key=lambda call: call.ended)
        newest, newest_line, at = -1, 0, 0
        for call in sorted(known, key=lambda call: call.began):
            while at < len(by_end) and by_end[at].ended + self.tolerance < call.began:
                place = order[by_end[at].version]
                if place > newest:
                    newest, newest_line = place, by_end[at].number
                at += 1
            if order[call.version] < newest:
                yield self._flaw("real time", "an older version was seen after a newer one", newest_line, call.number)

    def _broken_rules(self) -> Iterator[Flaw]:
        """Writes that break a rule, by what they replaced."""
        for write in self.written.values():
            before = self.written.get(write.expected)
            if before is None:
                continue
            earlier, later, lines = before.record, write.record, (before.number, write.number)
            is_another = later["refresh_id"] != earlier["refresh_id"]
            if is_another and later["claimed_at"] < earlier["window_opens_at"]:
                early = earlier["window_opens_at"] - later["claimed_at"]
                yield self._flaw("R1", f"a refresh was claimed {early} ms before the window opened", *lines)
            if later["logouts"] < earlier["logouts"]:
                yield self._flaw("logout", "a logout was forgotten", *lines)
            if later["state"] == State.COMPLETE and is_another:
                yield self._flaw("R3", "a refresh was complete in the commit that claimed it", *lines)
