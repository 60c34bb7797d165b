"""How a violation is shown: its schedule as a Mermaid sequence diagram, and as a test to paste."""

import json

from phr_refresh.statemachine.effects import AskStatus, Effect, OpenSession, Pause, StartRefresh

from .exploring import Violation, replay
from .exploring_moves import LEAPS
from .exploring_world import Process, World
from .samples import NOON

_CALLS = {OpenSession: "create a session", StartRefresh: "kick off", AskStatus: "ask the status"}
_EVENTS = {
    "evict": "the store loses the token",
    "failover": "the store loses its last write",
    "ghost": "a kick-off given up arrives after all",
}
_ENDS = {
    "lose": "--x{who}: no answer",
    "done": "-->>{who}: answer (the load has ended just now)",
    "broken": "-->>{who}: answer (the load has failed just now)",
}


def mermaid(violation: Violation) -> str:
    """The schedule as a sequence diagram."""
    lines = ["sequenceDiagram"]
    lines += [f"    participant {name}" for name in violation.scene.flows]
    lines += ["    participant store", "    participant upstream"]
    for choice, before, after, _ in replay(violation.scene, violation.choices):
        lines += [f"    {line}" for line in _lines(choice, before, after)]
    lines.append(f"    Note over store,upstream: {violation.rule} broken: {violation.what}")
    return "\n".join(lines)


def as_test(violation: Violation) -> str:
    """The schedule as a test, to paste beside the scenes of the explorer."""
    scene = violation.scene
    choices = "".join(f"        {json.dumps(choice)},\n" for choice in violation.choices)
    budgets = f"faults={scene.faults}, jumps={scene.jumps}, steps={scene.steps}"
    return (
        f"def test_schedule_that_broke_{violation.rule.lower()}() -> None:\n"
        f'    """{violation.rule}: {violation.what}."""\n'
        f'    scene = scene_named("{scene.name}", {budgets})\n'
        f"    choices = [\n{choices}    ]\n"
        "    assert [] == broken_by(scene, choices)\n"
    )


def _lines(choice: str, before: World, after: World) -> list[str]:
    who, _, what = choice.partition(" ")
    if who == "clock":
        return [f"Note over store,upstream: {what}, {(after.now - before.now) / 1000:g} s later: {_time(after)}"]
    if who in ("run", "again"):
        return [f"Note over store: the worker runs {what}{' (not for the last time)' if who == 'again' else ''}"]
    if who in _EVENTS:
        return [f"Note over store,upstream: {_EVENTS[who]}"]
    process = before.process(who)
    if what == "crash":
        return [f"Note over {who}: crashes"]
    leap = [f"Note over {who}: its host's clock leaps {what}"] if what in LEAPS else []
    return [*leap, *_moment(process, "go" if leap else what, before, after)]


def _moment(process: Process, what: str, before: World, after: World) -> list[str]:
    who, effect = process.name, process.node.effect
    if isinstance(effect, Pause):
        return [f"Note over {who}: waits" if process.phase == "" else f"Note over {who}: goes on"]
    if type(effect) in _CALLS:
        return [_call(process, effect, what, after)]
    return [_store_call(process, effect, what, before, after)]


def _call(process: Process, effect: Effect, what: str, after: World) -> str:
    who = process.name
    stays = after.process(who)
    if process.phase == "sent" or (process.phase == "late" and what == "lose"):
        return "upstream" + _ENDS.get(what, "-->>{who}: answer").format(who=who)
    if process.phase == "late":
        return f"Note over upstream: the kick-off of {who} arrives"
    if stays.phase == "":
        why = {"miss": "lost on the way", "refuse": "connection refused", "reject": "arrives, answered with an error"}
        return f"{who}-x upstream: {_CALLS[type(effect)]} ({why.get(what, 'too late, not sent')})"
    return f"{who}->>upstream: {_CALLS[type(effect)]}{' (still on its way)' if stays.phase == 'late' else ''}"


def _store_call(process: Process, effect: Effect | None, what: str, before: World, after: World) -> str:
    done = type(effect).__name__.lower()
    if done == "commit":
        done += f" -> {after.record.state.label}" if after.writes > before.writes else " (conflict)"
        noted = ", ".join(getattr(effect, "noted", ()))
        done += f" [{noted}]" if noted else ""
    if process.phase == "repeat":
        done += ", repeated by the adapter"
    return f"{process.name}->>store: {done}{'' if what == 'go' else f' ({what})'}"


def _time(world: World) -> str:
    return f"t = {(world.now - NOON) / 1000:g} s"
