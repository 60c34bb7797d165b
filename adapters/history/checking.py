"""Checking: is there one order of all calls that explains every answer, and does it keep the rules?

A record is a register that is only ever changed by compare-and-set under versions that never come back, so the order of
the writes needs no search: each names the version that it replaced. The history of a patient is linearizable exactly if

* the acknowledged writes form one chain: no version was replaced twice;
* every version that a load or a conflict answered is in that chain, or is that of a write with an unknown outcome, or
  is the one that the history began with;
* no call that began after another had ended saw an older version than that other one.

Along the chain the rules are checked that two records alone can tell: R1 (a new refresh id only once the window of the
one before is open), R3 (no refresh is complete in the commit that claims it), and that no logout is forgotten.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...statemachine.errors import ConfigurationError
from ...statemachine.record import State
from .recording import SCHEMA

Line = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Flaw:
    """What no order explains: whose, which rule, and a sentence. `lines` are the numbers of the lines that show it."""

    patient: str
    rule: str
    what: str
    lines: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check found."""

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
    """Check each patient's part. `tolerance`: seconds by which the clocks of the hosts may differ."""
    parts: dict[str, list[tuple[int, Line]]] = defaultdict(list)
    calls = writes = unknown = 0
    for number, line in _settled(history):
        parts[line["patient"]].append((number, line))
        calls += 1
        writes += line["outcome"] == "written"
        unknown += line["outcome"] == "unknown" and line["op"] == "write"
    flaws = [flaw for patient, lines in parts.items() for flaw in _Part(patient, lines, int(tolerance * 1e9)).flaws()]
    return Verdict(len(parts), calls, writes, unknown, tuple(flaws))


def _settled(history: Iterable[tuple[int, Line]]) -> Iterator[tuple[int, Line]]:
    """The history without announcements; a write that was announced and never noted has an unknown outcome."""
    begun: dict[tuple[Any, ...], tuple[int, Line]] = {}
    for number, line in history:
        call = (line.get("process"), line["patient"], line["began"], line.get("expected"))
        if line["outcome"] == "begun":
            begun[call] = number, line
            continue
        begun.pop(call, None)
        yield number, line
    for number, line in begun.values():
        yield number, {**line, "outcome": "unknown"}


class _Part:
    """One patient's calls."""

    def __init__(self, patient: str, lines: list[tuple[int, Line]], tolerance: int) -> None:
        self.patient = patient
        self.lines = lines
        self.tolerance = tolerance
        self.written = {line["version"]: (number, line) for number, line in lines if line["outcome"] == "written"}

    def flaws(self) -> Iterator[Flaw]:
        """What no order explains; real time and the rules are looked at only where there is an order."""
        forks = list(self._forks())
        yield from forks
        strangers = list(self._strangers())
        yield from strangers
        if not forks and not strangers:
            order = self._order()
            yield from self._backwards(order)
            yield from self._broken_rules()

    def _flaw(self, rule: str, what: str, *lines: int) -> Flaw:
        return Flaw(self.patient, rule, what, lines)

    def _forks(self) -> Iterator[Flaw]:
        replaced: dict[str, int] = {}
        for number, line in self.written.values():
            # An empty version is that of a patient whom the store does not know, or has forgotten: it does come back.
            if line["expected"] and line["expected"] in replaced:
                what = f"version {line['expected']} was replaced twice"
                yield self._flaw("one order", what, replaced[line["expected"]], number)
            replaced.setdefault(line["expected"], number)

    def _strangers(self) -> Iterator[Flaw]:
        """Versions from nowhere: more than the unknown writes and the beginning of the history can account for."""
        seen: dict[str, int] = {}
        for number, line in self.lines:
            for version in (line.get("version"), line.get("expected")):
                if version and version not in self.written:
                    seen.setdefault(version, number)
        unknown = sum(line["outcome"] == "unknown" and line["op"] == "write" for _, line in self.lines)
        if len(seen) > unknown + 1:
            what = (
                f"{len(seen)} versions were seen that nobody wrote, and only {unknown} writes have an unknown outcome"
            )
            yield self._flaw("one order", what, *seen.values())

    def _order(self) -> dict[str, int]:
        """Each written version's place in the order. A chain broken by a gap begins anew, by the store's clock."""
        follower = {line["expected"]: version for version, (_, line) in self.written.items() if line["expected"]}
        heads = [version for version, (_, line) in self.written.items() if line["expected"] not in self.written]
        places: dict[str, int] = {}
        for head in sorted(heads, key=lambda version: self.written[version][1]["now"]):
            at: str | None = head
            while at is not None and at not in places:
                places[at] = len(places)
                at = follower.get(at)
        return places

    def _backwards(self, order: dict[str, int]) -> Iterator[Flaw]:
        """Calls that saw an older version than a call that had ended before they began."""
        known = [(number, line) for number, line in self.lines if line.get("version") in order]
        by_end = sorted(known, key=lambda item: item[1]["ended"])
        newest, newest_line, at = -1, 0, 0
        for number, line in sorted(known, key=lambda item: item[1]["began"]):
            while at < len(by_end) and by_end[at][1]["ended"] + self.tolerance < line["began"]:
                place = order[by_end[at][1]["version"]]
                if place > newest:
                    newest, newest_line = place, by_end[at][0]
                at += 1
            if order[line["version"]] < newest:
                yield self._flaw("real time", "an older version was seen after a newer one", newest_line, number)

    def _broken_rules(self) -> Iterator[Flaw]:
        for number, line in self.written.values():
            before = self.written.get(line["expected"])
            if before is None:
                continue
            earlier, later = before[1]["record"], line["record"]
            lines = (before[0], number)
            if later["refresh_id"] != earlier["refresh_id"] and later["claimed_at"] < earlier["window_opens_at"]:
                early = earlier["window_opens_at"] - later["claimed_at"]
                yield self._flaw("R1", f"a refresh was claimed {early} ms before the window opened", *lines)
            if later["logouts"] < earlier["logouts"]:
                yield self._flaw("logout", "a logout was forgotten", *lines)
            if later["state"] == State.COMPLETE and later["refresh_id"] != earlier["refresh_id"]:
                yield self._flaw("R3", "a refresh was complete in the commit that claimed it", *lines)
