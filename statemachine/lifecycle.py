"""The lifecycle of one patient's refresh, as a state machine without I/O and without a clock.

Two rules hold for everything below.

1.  What may happen is in `TABLE` (table.py) and nowhere else. A refused event raises `EventRefused`, which names the
    event, the state and the guards that said no, and changes nothing.
2.  A step is a pure function of a record and an event. Deadlines are stored in the record and nobody waits for
    them: whoever reads a record applies what is due (`catch_up`) before anything else.

This is the only module that imports `transitions`. One shared machine without models evaluates the table; each
step gives it a small mutable model and forgets it again. A registered model would be held for ever and matched by
equality, and a callback bound to an object would put that object's `repr` into the log: so every callback here is a
closure over a row of the table, which holds nothing of a patient.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, cast

from transitions import EventData, Machine

from .errors import EventRefused
from .policy import Instant
from .record import RefreshRecord, State
from .table import FINGERPRINT, TABLE, WAITING, Event, EventName, Guard, Kind, Rule
from .values import Value


class _Model:
    """What the machine moves. It lives for one step."""

    __slots__ = ("event", "fired", "record", "state")

    def __init__(self, record: RefreshRecord, event: Event) -> None:
        # A plain text: transitions would look an Enum up by its member name.
        self.state = record.state.value
        self.record = record
        self.event = event
        self.fired: Rule | None = None


def _condition(guard: Guard) -> Callable[[EventData], bool]:
    def agrees(data: EventData) -> bool:
        model = cast(_Model, data.model)
        return guard(model.record, model.event)

    return agrees


def _marks(rule: Rule) -> Callable[[EventData], None]:
    def mark(data: EventData) -> None:
        cast(_Model, data.model).fired = rule

    return mark


def _machine() -> Machine:
    machine = Machine(
        model=None,
        states=[state.value for state in State],
        initial=None,
        auto_transitions=False,
        send_event=True,
        name="phr-refresh",
    )
    for rule in TABLE:
        if rule.kind is not Kind.REFUSED:
            machine.add_transition(
                trigger=rule.event.value,
                source=rule.source.value,
                # None is an internal transition: the callbacks run, the state stays.
                dest=rule.target.value if rule.kind is Kind.MOVES else None,
                conditions=[_condition(guard) for guard in rule.guards],
                before=_marks(rule),
            )
    return machine


_MACHINE: Final = _machine()
_RULES: Final = {
    (event, state): tuple(rule for rule in TABLE if (rule.event, rule.source) == (event, state))
    for event in EventName
    for state in State
}


class Step(Value, frozen=True):
    """One event taken: `kind` says what it did, `before` and `after` are the records on its two sides."""

    event: Event
    kind: Kind
    before: RefreshRecord
    after: RefreshRecord


def step(record: RefreshRecord, event: Event) -> Step:
    """Take `event`. Raises `EventRefused`, which leaves everything as it was."""
    model = _Model(record, event)
    rules = _RULES[event.name, record.state]
    if rules[0].kind is Kind.REFUSED:
        raise EventRefused(event.name.value, record.state.value)
    _MACHINE.events[event.name.value].trigger(model)
    rule = model.fired
    if rule is None:
        raise EventRefused(event.name.value, record.state.value, _objections(record, event))
    if rule.kind is Kind.IGNORED:
        return Step(event, rule.kind, record, record)
    after = record._replace(
        state=State(model.state),
        since=event.at if rule.kind is Kind.MOVES else record.since,
        fingerprint=FINGERPRINT,
        **rule.action(record, event),
    )
    return Step(event, rule.kind, record, after)


def _objections(record: RefreshRecord, event: Event) -> tuple[str, ...]:
    guards = [guard for rule in _RULES[event.name, record.state] for guard in rule.guards]
    return tuple(dict.fromkeys(guard.__name__ for guard in guards if not guard(record, event)))


def deadline_of(record: RefreshRecord) -> Instant | None:
    """When this record's state leaves by itself; None where it never does."""
    waiting = WAITING.get(record.state)
    return waiting.until(record) if waiting else None


def catch_up(record: RefreshRecord, now: Instant) -> tuple[Step, ...]:
    """The steps that are due at `now`, in order. Each happens at its deadline, however late somebody looks.

    Missed deadlines coalesce: a patient who was away for ten windows goes stale once.
    """
    steps: list[Step] = []
    while (due_at := deadline_of(record)) is not None and due_at <= now:
        taken = step(record, Event(name=WAITING[record.state].event, at=due_at))
        steps.append(taken)
        record = taken.after
    return tuple(steps)


@dataclass(frozen=True, slots=True)
class Prospect:
    """What an event would do now: `target` where it is possible, `refused_by` the guards that say no elsewhere."""

    event: EventName
    kind: Kind
    target: State | None
    refused_by: tuple[str, ...] = ()


def prospects(record: RefreshRecord, now: Instant) -> tuple[Prospect, ...]:
    """For each event, what it would do at `now`; an answer is taken to be one of the record's own refresh."""
    found = []
    for name in EventName:
        event = Event(name=name, at=now, refresh_id=record.refresh_id)
        for rule in _RULES[name, record.state]:
            if rule.kind is not Kind.REFUSED and all(guard(record, event) for guard in rule.guards):
                found.append(Prospect(name, rule.kind, rule.target))
                break
        else:
            found.append(Prospect(name, Kind.REFUSED, None, _objections(record, event)))
    return tuple(found)
