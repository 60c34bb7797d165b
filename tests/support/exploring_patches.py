"""Patches that seed a fault into the table, the commits or the driver; pytest's monkeypatch undoes them."""

from collections.abc import Callable
from typing import Any

import pytest
from phr_refresh.adapters import driver
from phr_refresh.adapters.driver import Performer
from phr_refresh.adapters.ports import Written
from phr_refresh.statemachine import lifecycle
from phr_refresh.statemachine import table as rules
from phr_refresh.statemachine.draft import Draft
from phr_refresh.statemachine.effects import AnswerLost, Commit, Load, NeverSent, TokenChange
from phr_refresh.statemachine.record import State
from phr_refresh.statemachine.table import EventName

from .samples import HOUR, MARGIN, MINUTE
from .values import replace

Patch = Callable[[pytest.MonkeyPatch], None]
#: Makes the faulty function out of the honest one.
Make = Callable[[Any], Any]


def attribute(owner: Any, name: str, make: Make) -> Patch:
    """Exchange a method of a class, or a function of a module."""
    return lambda monkeypatch: monkeypatch.setattr(owner, name, make(getattr(owner, name)))


def finishing(effect: type, make: Make) -> Patch:
    """Exchange what the driver makes of the reply to `effect`."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        ask, finish = driver._STEPS[effect]
        monkeypatch.setitem(driver._STEPS, effect, (ask, make(finish)))

    return patch


def together(*patches: Patch) -> Patch:
    """All of them."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        for one in patches:
            one(monkeypatch)

    return patch


# In the table.


def rule(name: str, **changes: Callable[[Any, Any], Any]) -> Patch:
    """Let the action `name` of the table set other fields besides, or other values."""

    def make(action: Any) -> Any:
        def changed(record: Any, event: Any) -> Any:
            return {**action(record, event), **{field: change(record, event) for field, change in changes.items()}}

        return changed

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        honest = getattr(rules, name)
        faulty = make(honest)
        _use(monkeypatch, lambda row: replace(row, action=faulty if row.action is honest else row.action))

    return patch


def guard(name: str, *, says: bool) -> Patch:
    """Let the guard `name` of the table always say the same."""

    def faulty(record: Any, event: Any) -> bool:
        return says

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        honest = getattr(rules, name)
        _use(
            monkeypatch,
            lambda row: replace(row, guards=tuple(faulty if old is honest else old for old in row.guards)),
        )

    return patch


def _use(monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], Any]) -> None:
    table = tuple(change(row) for row in lifecycle.TABLE)
    by_event = {pair: tuple(row for row in table if (row.event, row.source) == pair) for pair in lifecycle._RULES}
    monkeypatch.setattr(lifecycle, "TABLE", table)
    monkeypatch.setattr(lifecycle, "_RULES", by_event)
    monkeypatch.setattr(lifecycle, "_MACHINE", lifecycle._machine())


def never_leaves(state: State) -> Patch:
    """Let a waiting state have no deadline."""

    def make(deadline_of: Any) -> Any:
        return lambda record: None if record.state is state else deadline_of(record)

    return attribute(lifecycle, "deadline_of", make)


# In what is committed.


def changing(**changes: Callable[[Performer, Commit, Any], Any]) -> Patch:
    """Let a commit ask the store for something else."""

    def make(change: Any) -> Any:
        def changed(self: Performer, effect: Commit) -> Any:
            made = change(self, effect)
            return replace(made, **{field: value(self, effect, made) for field, value in changes.items()})

        return changed

    return attribute(Performer, "_change", make)


def noting(why: str, change: Callable[[Draft, dict[str, Any]], dict[str, Any]]) -> Patch:
    """Change what a draft notes for the reason `why`."""

    def make(original: Any) -> Any:
        def note(self: Draft, reason: str, **fields: Any) -> None:
            original(self, reason, **(change(self, fields) if reason == why else fields))

        return note

    return attribute(Draft, "note", make)


def claiming(change: Callable[[Any], dict[str, Any]]) -> Patch:
    """Change the event that claims a kick-off."""

    def make(original: Any) -> Any:
        def take(self: Draft, event: Any) -> None:
            claims = event.name is EventName.REFRESH_CLAIMED
            original(self, replace(event, **change(event)) if claims else event)

        return take

    return attribute(Draft, "take", make)


blind_writes = changing(expected_version=lambda self, effect, made: self._ports.store.call(Load(effect.key)).version)
blind_sweeps = changing(
    expected_version=lambda self, effect, made: (
        self._ports.store.call(Load(effect.key)).version
        if [fact.name for fact in effect.told] == ["freshness_expired"]
        else made.expected_version
    )
)
old_decisions = changing(max_age=lambda self, effect, made: 100 * HOUR)
forgetful_store = changing(keep_until=lambda self, effect, made: made.decided_at + 10 * MINUTE)
unlisted = changing(due_at=lambda self, effect, made: None)
dropping = changing(
    token_change=lambda self, effect, made: (
        TokenChange.DROP if made.token_change is TokenChange.KEEP else made.token_change
    )
)
no_margin = claiming(lambda event: {"window_opens_at": event.window_opens_at - MARGIN})


def claim_lasts_while_read(original: Any) -> Any:
    """The claim on creating a session is counted from when it is read."""

    def init(self: Draft, key: Any, loaded: Any, policy: Any) -> None:
        original(self, key, loaded, policy)
        if self.record.opening_id is not None:
            self.record = self.record._replace(opening_until=self.now + MINUTE)

    return init


# In the driver.


def loads_by_host_clock(original: Any) -> Any:
    """What is loaded is dated by the host's clock."""
    return lambda self, key, row: original(self, key, replace(row, now=self._ports.wall_clock()))


def commits_by_host_clock(original: Any) -> Any:
    """What is committed is dated by the host's clock."""

    def settled(self: Performer, effect: Commit, answer: Any) -> Any:
        dated = replace(answer, now=self._ports.wall_clock()) if isinstance(answer, Written) else answer
        return original(self, effect, dated)

    return settled


def stamps_by_host_clock(original: Any) -> Any:
    """The answer to a kick-off is dated by the host's clock."""
    return lambda self, effect, answer: replace(original(self, effect, answer), at=self._ports.wall_clock())


def lost_is_never_sent(original: Any) -> Any:
    """An answer that was lost is taken for a call that never left."""

    def kicked_off(self: Performer, effect: Any, answer: Any) -> Any:
        return original(self, effect, NeverSent(answer.reason) if isinstance(answer, AnswerLost) else answer)

    return kicked_off


def never_too_late(original: Any) -> Any:
    """A claimed call is sent however old its claim is."""
    return lambda self, effect, too_late, seconds=None: self._ports.upstream.call(effect)


def kick_offs_never_too_late(original: Any) -> Any:
    """A claimed kick-off is sent however old its claim is."""

    def in_time(self: Performer, effect: Any, too_late: Any, seconds: Any = None) -> Any:
        is_kick_off = isinstance(too_late, NeverSent)
        return self._ports.upstream.call(effect) if is_kick_off else original(self, effect, too_late, seconds)

    return in_time


def polls_as_late_as_any(original: Any) -> Any:
    """A claimed poll is sent when its turn has ended."""
    return lambda self, effect, too_late, seconds=None: original(self, effect, too_late)
