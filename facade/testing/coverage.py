"""What of the lifecycle tests have been through: its states, the moves between them, the guards that said no."""

from collections import Counter
from typing import Any

from phr_refresh.adapters.ports import Observer
from phr_refresh.statemachine.effects import Fact
from phr_refresh.statemachine.record import State
from phr_refresh.statemachine.table import TABLE, Kind

_STATES, _MOVES, _GUARDS = "states", "moves", "guards that refused"


class Coverage:
    """Counts what observers are told. `observing` puts it before an observer, of which there may be many."""

    def __init__(self) -> None:
        #: How often each state, move and guard was seen, by its kind and name.
        self.seen: Counter[tuple[str, str]] = Counter()

    def observing(self, observer: Observer | None = None) -> Observer:
        """An observer that counts, and tells `observer`."""

        def observe(fact: Fact) -> None:
            self._count(fact)
            if observer is not None:
                observer(fact)

        return observe

    def _count(self, fact: Fact) -> None:
        if fact.source is not None and fact.target is not None:
            self.seen.update([(_STATES, fact.source), (_STATES, fact.target)])
            self.seen[_MOVES, _move(fact.name, fact.source, fact.target)] += 1
        if fact.name == "event_refused":
            self.seen.update((_GUARDS, guard) for guard in str(fact.details.get("guards", "")).split())

    def report(self) -> list[str]:
        """Lines for a terminal: how much was seen of what there is, and what was not."""
        moves = [rule for rule in TABLE if rule.kind in (Kind.MOVES, Kind.STAYS)]
        there = {
            _STATES: {state.value for state in State},
            _MOVES: {_move(rule.event.value, rule.source.value, rule.target.value) for rule in moves},
            _GUARDS: {guard.__name__ for rule in TABLE for guard in rule.guards},
        }
        lines = []
        for kind, names in there.items():
            unseen = sorted(name for name in names if not self.seen[kind, name])
            lines.append(f"{kind}: {len(names) - len(unseen)} of {len(names)}")
            lines += [f"  not seen: {name}" for name in unseen]
        return lines

    def dump(self) -> list[list[Any]]:
        """The counts as plain values, for another process to `add`."""
        return [[kind, name, number] for (kind, name), number in self.seen.items()]

    def add(self, dumped: list[list[Any]]) -> None:
        """Add what another process counted."""
        for kind, name, number in dumped:
            self.seen[kind, name] += number


def _move(event: str, source: str, target: str) -> str:
    return f"{event}: {source} -> {target}"
