"""What a fact adds to which metric: the one place where facts become numbers."""

from collections.abc import Callable
from typing import Final

from ...statemachine.effects import Fact
from .labels import bounded

#: A metric by its name in `definitions`, the values of its labels in their order there, and the number.
Observation = tuple[str, tuple[str, ...], float]

_ENDS: Final = {"refresh_completed": "completed", "refresh_failed": "failed", "refresh_timed_out": "timed_out"}


def observations(fact: Fact) -> list[Observation]:
    """All that `fact` says in numbers."""
    if fact.is_measurement:
        read = _MEASUREMENTS.get(fact.name)
        return [] if read is None else read(fact)
    found: list[Observation] = []
    if fact.source is not None:
        states = bounded("from_state", fact.source), bounded("to_state", fact.target)
        found.append(("transitions", (bounded("event", fact.name), *states, _reason(fact)), 1))
    if fact.name in _ENDS and "refresh_seconds" in fact.details:
        found.append(("refresh", (_ENDS[fact.name],), _number(fact, "refresh_seconds")))
    if fact.name == "login_deferred":
        found.append(("logins_deferred", (_reason(fact),), 1))
    if fact.name in _DEFERRED:
        found.append(("refreshes_deferred", (_DEFERRED[fact.name], _reason(fact)), 1))
    if fact.name in _GUARD:
        found.append(("upstream_guard_open", (), _GUARD[fact.name]))
    if fact.is_warning:
        found.append(("warnings", (bounded("event", fact.name),), 1))
    return found


_DEFERRED: Final = {"session_deferred": "open_session", "kick_off_deferred": "start_refresh"}
_GUARD: Final = {"upstream_guard_opened": 1, "upstream_guard_closed": 0}


def _login(fact: Fact) -> list[Observation]:
    return [("login", (bounded("kind", fact.details.get("kind")),), _number(fact, "login_seconds"))]


def _upstream(fact: Fact) -> list[Observation]:
    call = bounded("call", fact.details.get("call"))
    labels = call, bounded("outcome", fact.details.get("outcome"))
    found: list[Observation] = [("upstream_call", labels, _number(fact, "call_seconds"))]
    if "reason" in fact.details:
        found.append(("upstream_failures", (call, _reason(fact)), 1))
    return found


def _store(fact: Fact) -> list[Observation]:
    return [("store_errors", (bounded("call", fact.details.get("call")), _reason(fact)), 1)]


def _conflict(_: Fact) -> list[Observation]:
    return [("conflicts", (), 1)]


def _step(fact: Fact) -> list[Observation]:
    labels = (bounded("step", fact.details.get("step")),)
    return [("step", labels, _number(fact, "step_seconds")), *_queue(fact)]


def _queue(fact: Fact) -> list[Observation]:
    return [("worker_queue_depth", (), _number(fact, "waiting"))] if "waiting" in fact.details else []


_MEASUREMENTS: Final[dict[str, Callable[[Fact], list[Observation]]]] = {
    "login_answered": _login,
    "upstream_called": _upstream,
    "store_failed": _store,
    "commit_conflicted": _conflict,
    "step_handed_over": _queue,
    "step_ran": _step,
}


def _reason(fact: Fact) -> str:
    return bounded("reason", fact.details.get("reason", ""))


def _number(fact: Fact, name: str) -> float:
    value = fact.details.get(name)
    return value if isinstance(value, int | float) else 0.0
