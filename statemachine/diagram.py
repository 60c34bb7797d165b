"""Diagrams of the lifecycle, written from the table: a Mermaid state diagram and a Markdown table."""

from collections import defaultdict

from .events import EventName
from .record import State
from .table import TABLE, WAITING, Kind, Rule

_MARKS = {Kind.MOVES: "→", Kind.STAYS: "stays", Kind.IGNORED: "ignored", Kind.REFUSED: "refused"}


def state_diagram() -> str:
    """A Mermaid state diagram of every move. Ids have underscores, labels hyphens; timed moves say so."""
    lines = ["stateDiagram-v2", f"    [*] --> {State.NO_SESSION.value}"]
    lines += [f"    {state.value} : {state.label}" for state in State]
    moves: dict[tuple[State, State], list[str]] = defaultdict(list)
    for rule in TABLE:
        if rule.kind is Kind.MOVES:
            timed = any(waiting.event is rule.event for waiting in WAITING.values())
            moves[rule.source, rule.target].append(f"{rule.event.value}{' (time)' if timed else ''}")
    for (source, target), events in moves.items():
        lines.append(f"    {source.value} --> {target.value} : {'<br/>'.join(dict.fromkeys(events))}")
    return "\n".join(lines) + "\n"


def transition_table() -> str:
    """A Markdown table: one row per event, one column per state, total over both."""
    head = ["event", *(state.label for state in State)]
    lines = [_row(head), _row(["---"] * len(head))]
    for event in EventName:
        cells = [
            "<br/>".join(_cell(rule) for rule in TABLE if (rule.event, rule.source) == (event, state))
            for state in State
        ]
        lines.append(_row([f"`{event.value}`", *cells]))
    return "\n".join(lines) + "\n"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(rule: Rule) -> str:
    guards = " and ".join(guard.__name__.replace("_", " ") for guard in rule.guards)
    mark = f"{_MARKS[rule.kind]} {rule.target.label}" if rule.kind is Kind.MOVES else _MARKS[rule.kind]
    return f"{mark} if {guards}" if guards else mark
