"""Patches that seed a fault into a flow: what it yields, what it hears, or when."""

from collections.abc import Callable, Generator
from typing import Any

from phr_refresh.statemachine import flows
from phr_refresh.statemachine.draft import Draft
from phr_refresh.statemachine.effects import AnswerLost, Commit, Conflict, Loaded, NeverSent, Rejected, StartRefresh
from phr_refresh.statemachine.errors import StoreUnavailable
from phr_refresh.statemachine.flows import Flows

from .exploring_patches import Make, attribute
from .values import replace


def answering(change: Callable[[Any, Any], Any]) -> Make:
    """Let a flow that is a method hear `change(self, answer)` in place of each answer. What is raised ends it."""

    def make(original: Any) -> Any:
        def flow(self: Any, *args: Any, **options: Any) -> Any:
            inner = original(self, *args, **options)
            try:
                effect = next(inner)
                while True:
                    effect = inner.send(change(self, (yield effect)))
            except StopIteration as stop:
                return stop.value

        return flow

    return make


def sends_first(original: Any) -> Any:
    """The kick-off goes out before the claim on it is committed."""

    def flow(self: Flows, *args: Any, **options: Any) -> Any:
        inner = original(self, *args, **options)
        early: Any = None
        try:
            effect = next(inner)
            while True:
                claims = isinstance(effect, Commit) and any(fact.name == "refresh_claimed" for fact in effect.told)
                if claims and early is None:
                    early = yield StartRefresh(args[0])
                is_sent = isinstance(effect, StartRefresh) and early is not None
                effect = inner.send(early if is_sent else (yield effect))
        except StopIteration as stop:
            return stop.value

    return flow


def _amended(original: Any, amend: Callable[[Any, Any], Generator[Any, Any, Any]]) -> Any:
    """`original`, whose effects are answered by what `amend` makes of each effect and its answer."""

    def flow(self: Flows, *args: Any) -> Any:
        inner = original(self, *args)
        try:
            effect = next(inner)
            while True:
                effect = inner.send((yield from amend(effect, (yield effect))))
        except StopIteration as stop:
            return stop.value

    return flow


def sends_again(original: Any) -> Any:
    """A kick-off whose answer was lost is sent once more."""

    def amend(effect: Any, answer: Any) -> Generator[Any, Any, Any]:
        return (yield effect) if isinstance(answer, AnswerLost) else answer

    return _amended(original, amend)


def deferred_is_sent(original: Any) -> Any:
    """A kick-off that the guard turned away is sent all the same, and recorded as deferred."""

    def amend(effect: Any, answer: Any) -> Generator[Any, Any, Any]:
        if isinstance(effect, StartRefresh) and isinstance(answer, NeverSent):
            yield effect
        return answer

    return _amended(original, amend)


def any_claim_is_replicated(original: Any) -> Any:
    """A kick-off is sent though its claim is on no replica."""
    return lambda self, step, advance, refresh_id: original(
        self, step, replace(advance, is_replicated=True), refresh_id
    )


def replicated_from_the_start(original: Any) -> Any:
    """A claim whose commit was not answered is taken to be on its replicas."""

    def init(self: Any, *args: Any, **options: Any) -> None:
        original(self, *args, **options)
        self.is_replicated = True

    return init


def unanswered_is_committed(original: Any) -> Any:
    """A commit that the store does not answer is taken to have been made."""

    def commit(draft: Draft) -> Any:
        try:
            return (yield from original(draft))
        except StoreUnavailable:
            return Loaded(draft.record, draft.version, draft.now)

    return commit


def any_claim_is_ours(self: Any, answer: Any) -> Any:
    """In a conflict, whatever claim on creating a session there is is taken for one's own."""
    if not isinstance(answer, Conflict) or answer.current.record is None:
        return answer
    return Conflict(replace(answer.current, record=answer.current.record._replace(opening_id=self.opening_id)))


def errors_open_the_window(original: Any) -> Any:
    """A kick-off that was answered with an error does not count."""

    def event_of(answer: Any, *args: Any, **options: Any) -> Any:
        event = original(answer, *args, **options)
        return replace(event, window_opens_at=event.at) if isinstance(answer, Rejected) else event

    return event_of


late_claims_are_sent = attribute(flows, "_claimed_at", lambda original: lambda loaded: loaded.now)
