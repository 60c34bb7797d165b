"""What of the lifecycle tests have been through: its states, the moves between them, the guards that said no."""

from collections import Counter
from typing import Any

from phr_refresh.adapters.ports import Observer
from phr_refresh.statemachine.effects import Fact
from phr_refresh.statemachine.record import State
from phr_refresh.statemachine.table import TABLE, Kind

Move = tuple[str, str, str]


class Coverage:
    """Counts what observers are told. `observing` puts it before an observer, of which there may be many."""

    def __init__(self) -> None:
        self.states: Counter[str] = Counter()
        self.moves: Counter[Move] = Counter()
        self.refusals: Counter[str] = Counter()

    def observing(self, observer: Observer | None = None) -> Observer:
        """An observer that counts, and tells `observer`."""

        def observe(fact: Fact) -> None:
            self._count(fact)
            if observer is not None:
                observer(fact)

        return observe

    def _count(self, fact: Fact) -> None:
        if fact.source is not None and fact.target is not None:
            self.states.update((fact.source, fact.target))
            self.moves[fact.name, fact.source, fact.target] += 1
        if fact.name == "event_refused":
            self.refusals.update(str(fact.details.get("guards", "")).split())

    def report(self) -> list[str]:
        """Lines for a terminal: how much was seen of what there is, and what was not."""
        states = {state.value for state in State}
        moves = {(r.event.value, r.source.value, r.target.value) for r in TABLE if r.kind in (Kind.MOVES, Kind.STAYS)}
        guards = {guard.__name__ for rule in TABLE for guard in rule.guards}
        lines = []
        for name, seen, there in (
            ("states", set(self.states), states),
            ("moves", {_named(move) for move in self.moves}, {_named(move) for move in moves}),
            ("guards that refused", set(self.refusals), guards),
        ):
            lines.append(f"{name}: {len(seen & there)} of {len(there)}")
            lines += [f"  not seen: {item}" for item in sorted(there - seen)]
        return lines

    def dump(self) -> list[list[Any]]:
        """The counts as plain values, for another process to `add`."""
        return [[*self.states.elements()], [list(move) for move in self.moves.elements()], [*self.refusals.elements()]]

    def add(self, dumped: list[list[Any]]) -> None:
        """Add what another process counted."""
        states, moves, refusals = dumped
        self.states.update(states)
        self.moves.update((name, source, target) for name, source, target in moves)
        self.refusals.update(refusals)


def _named(move: Move) -> str:
    return f"{move[0]}: {move[1]} -> {move[2]}"
