"""The driver: what was decided too long ago is not sent, observers harm nobody, and both runners do the same."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from freezegun import freeze_time
from msgspec import msgpack
from phr_refresh.adapters.driver import Ports, run, run_async
from phr_refresh.adapters.ports import Change, Row
from phr_refresh.adapters.session_creation.seal import PlainSeal
from phr_refresh.adapters.stores.memory import MemoryStore
from phr_refresh.statemachine.codec import decode
from phr_refresh.statemachine.effects import (
    AnswerLost,
    CouldNotAsk,
    Fact,
    Follow,
    Load,
    NeverSent,
    OpenSession,
    Rejected,
    SessionFailed,
    SessionOpened,
    StartRefresh,
    TokenChange,
)
from phr_refresh.statemachine.errors import RecordUnreadable, SessionUnavailable, StoreUnavailable
from phr_refresh.statemachine.flows import Flows
from phr_refresh.statemachine.outcomes import ReceiptKind
from phr_refresh.statemachine.policy import Policy, milliseconds
from phr_refresh.statemachine.record import KickOff, State
from support.fakes import RecordingWorker, ScriptedUpstream, Silent, SteppableStore
from support.samples import ADA, BOB, HOUR, JWT, NOON, SECOND, UNHURRIED, token_until
from support.values import replace

AGE = Policy().decision_age.total_seconds()


class Clock:
    """A monotonic clock that jumps when told to."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


class ReverseSeal:
    """A seal that can be seen through, and that opens only what it sealed."""

    def __init__(self, mark: bytes = b"sealed:") -> None:
        self.mark = mark

    def seal(self, plain: bytes) -> bytes:
        return self.mark + plain[::-1]

    def unseal(self, sealed: bytes) -> bytes | None:
        return sealed.removeprefix(self.mark)[::-1] if sealed.startswith(self.mark) else None


class Rig:
    """One process: a memory store, a scripted upstream, and a clock of its own, at noon."""

    def __init__(self, **ports: Any) -> None:
        self.clock = Clock()
        self.store = SteppableStore(MemoryStore())
        self.upstream = ScriptedUpstream(jwt=JWT)
        self.worker = RecordingWorker()
        self.observer = Silent()
        self.flows = Flows(UNHURRIED, iter("abcdefgh").__next__)
        self.ports = Ports(
            **{
                "store": self.store,
                "upstream": self.upstream,
                "worker": self.worker,
                "seal": PlainSeal(),
                "observer": self.observer,
                "policy": Policy(poll_schedule=()),
                "monotonic": self.clock,
            }
            | ports
        )

    def pause_before(self, kind: str, *, nth: int, seconds: float) -> None:
        """The process stands still for `seconds` after the nth write, before it hears the answer."""
        writes = 0
        inner = self.store.store

        class Pausing(MemoryStore):
            def call(_, request: Any) -> Any:
                nonlocal writes
                answer = inner.call(request)
                if not isinstance(request, Change):
                    return answer
                writes += 1
                self.clock.seconds += seconds if writes == nth else 0
                return answer

        assert kind == "write"
        self.store.store = Pausing()

    def refresh(self) -> Any:
        """The receipt of a refresh of Ada."""
        return run(self.flows.refresh(ADA), self.ports)

    def record(self) -> Any:
        """What is stored of Ada."""
        return decode(self.store.store.call(Load(ADA.key)).value)


@pytest.fixture(autouse=True)
def noon() -> Any:
    with freeze_time("2030-01-01T12:00:00Z") as clock:
        yield clock


@pytest.mark.parametrize(("pause", "calls"), [(AGE, 1), (AGE + 0.001, 0)])
def test_a_session_call_decided_too_long_ago_is_not_sent(pause: float, calls: int) -> None:
    """After a pause longer than `decision_age` the claim may have lapsed: "too_late", and nobody is called."""
    rig = Rig()
    rig.pause_before("write", nth=1, seconds=pause)
    receipt = rig.refresh()
    assert calls == rig.upstream.opened
    if not calls:
        assert (ReceiptKind.DEFERRED, "too_late") == (receipt.kind, receipt.reason)


@pytest.mark.parametrize(("pause", "calls"), [(1.05, 1), (1.051, 0)])
def test_a_poll_claimed_too_long_ago_is_not_sent(pause: float, calls: int, noon: Any) -> None:
    """After a pause longer than the interval that was claimed the next poll may be another's: nobody is asked (R6)."""
    rig = Rig()
    rig.refresh()
    noon.tick(1)
    rig.pause_before("write", nth=1, seconds=pause)
    status = run(rig.flows.status(ADA.key, ADA), rig.ports)
    assert (calls, State.COMPLETE if calls else State.REFRESHING) == (rig.upstream.polls, status.state)


@pytest.mark.parametrize(("pause", "calls"), [(AGE, 1), (AGE + 0.001, 0)])
def test_a_kick_off_decided_too_long_ago_is_not_sent(pause: float, calls: int) -> None:
    """A claim that is older than `decision_age` becomes one that was never sent: the window is not spent (R1)."""
    rig = Rig()
    rig.pause_before("write", nth=2, seconds=pause)
    receipt = rig.refresh()
    assert calls == rig.upstream.kick_offs
    if not calls:
        assert (ReceiptKind.DEFERRED, "never_sent") == (receipt.kind, receipt.reason)
        assert "never_sent" == rig.record().failure.code
        assert rig.record().window_is_open(NOON + round(pause * 1000))


def test_a_commit_decided_too_long_ago_is_a_conflict(noon: Any) -> None:
    """What the login saw ten seconds ago is not committed; the flow looks again."""
    rig = Rig()
    handed = RecordingWorker()
    run(rig.flows.login(ADA), Rig(store=rig.store, worker=handed).ports)
    noon.tick(10)
    run(rig.flows.step(handed.taken[0][0]), rig.ports)
    assert State.REFRESHING is rig.record().state
    assert NOON + 10 * SECOND == rig.record().claimed_at


def test_an_answers_time_is_the_stores_clock_carried_forward() -> None:
    """The window counts from when the answer came, by the store's clock and this process's monotonic one."""
    rig = Rig()

    class Slow(ScriptedUpstream):
        def call(self, request: Any) -> Any:
            if not isinstance(request, StartRefresh):
                return super().call(request)
            rig.clock.seconds += 3.25
            return super().call(request)

    run(rig.flows.refresh(ADA), Rig(store=rig.store, upstream=Slow(), monotonic=rig.clock).ports)
    assert NOON + 3250 == rig.record().answered_at


def test_a_hosts_wall_clock_has_no_say() -> None:
    """An upstream adapter's own idea of `at` is overwritten."""
    rig = Rig()
    rig.upstream.kick_off_answers.append(AnswerLost("timed_out", at=7))
    rig.refresh()
    assert (KickOff.ANSWER_LOST, NOON) == (rig.record().kick_off, rig.record().answered_at)


def test_an_observer_that_raises_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """The refresh goes on; the log says that the observer failed, by the error's type and without its text."""

    def broken(fact: Fact) -> None:
        raise ValueError("1012345678V123456")

    rig = Rig(observer=broken)
    with caplog.at_level(logging.ERROR, "phr_refresh"):
        assert ReceiptKind.STARTED is rig.refresh().kind
    assert "phr_refresh.observer_failed (ValueError)" in caplog.messages
    assert "1012345678V123456" not in caplog.text


def test_facts_are_told_only_of_what_was_committed() -> None:
    """Who loses a commit tells nothing of it."""
    rig = Rig()
    rig.refresh()
    names = [fact.name for fact in rig.observer.facts]
    assert ["session_opened", "refresh_claimed", "refresh_accepted"] == names


def test_a_token_is_stored_sealed() -> None:
    """The store never sees the token itself."""
    rig = Rig(seal=ReverseSeal())
    token = run(rig.flows.session(ADA), rig.ports)
    stored = rig.store.store.call(Load(ADA.key, with_token=True)).token
    assert JWT.encode() not in stored
    assert token == run(rig.flows.session(ADA), rig.ports)
    assert 1 == rig.upstream.opened


@pytest.mark.parametrize("seal", [PlainSeal(), ReverseSeal()])
def test_a_token_copied_to_another_patients_key_does_not_open(seal: Any) -> None:
    """Whoever can write to the store cannot lend Ada's session to Bob."""
    rig = Rig(seal=seal)
    run(rig.flows.session(ADA), rig.ports)
    run(rig.flows.session(BOB), rig.ports)
    stolen = rig.store.store.call(Load(ADA.key, with_token=True)).token
    row = rig.store.store.call(Load(BOB.key))
    rig.store.store.call(
        Change(
            key=BOB.key,
            value=row.value,
            expected_version=row.version,
            decided_at=row.now,
            max_age=SECOND,
            due_at=None,
            keep_until=NOON + HOUR,
            token_change=TokenChange.PUT,
            token=stolen,
            token_expires_at=NOON + HOUR,
        )
    )
    run(rig.flows.session(BOB), rig.ports)
    assert 3 == rig.upstream.opened
    assert 1 == len(rig.observer.told("token_missing"))


def test_a_call_that_waited_for_its_thread_is_looked_at_again() -> None:
    """Under asyncio a call may wait for a thread: what is too late when its turn comes is not sent (R1, R2)."""
    rig = Rig()

    def waits(call: Any) -> Any:
        rig.clock.seconds += AGE + 1
        return call()

    receipt = run(rig.flows.refresh(ADA), replace(rig.ports, offload=waits))
    assert (0, "too_late") == (rig.upstream.opened, receipt.reason)


def test_a_claim_whose_commit_is_answered_late_opens_the_window_late() -> None:
    """The window counts from no earlier than the call: what the store's answer took is added, not taken off (R1)."""
    rig = Rig()
    rig.pause_before("write", nth=2, seconds=4.9)
    assert ReceiptKind.STARTED is rig.refresh().kind
    assert NOON + 4900 + HOUR == rig.record().window_opens_at


def test_a_session_lasts_as_long_by_the_stores_clock_as_by_a_hosts_that_is_wrong() -> None:
    """What counts of a host's clock is how much longer a token lasts, not what time it shows (DESIGN, section 6)."""
    rig = Rig()
    two_hours_behind = replace(rig.ports, wall_clock=lambda: NOON - 2 * HOUR)
    call, opened = rig.upstream.call, SessionOpened(token_until(NOON - 2 * HOUR + HOUR // 4, JWT))
    rig.upstream.call = lambda request: opened if isinstance(request, OpenSession) else call(request)
    run(rig.flows.refresh(ADA), two_hours_behind)
    assert NOON + HOUR // 4 == rig.record().session_expires_at


def test_a_store_that_is_slower_than_decisions_last_ends_in_an_error() -> None:
    """Where every commit comes too late, a flow gives up instead of asking for ever."""
    rig = Rig()
    stale = Row(None, "", NOON)
    rig.store.store = SimpleNamespace(call=lambda request: stale)
    with pytest.raises(StoreUnavailable, match="contended"):
        rig.refresh()


@pytest.mark.parametrize("plain", [b"", b"\x90", b"\x80", b"\xc0", b'{"k":1}', b"\xff", b"\xa4text", None])
def test_a_sealed_text_that_is_no_token_is_as_good_as_none(plain: bytes | None) -> None:
    """Whatever comes out of the seal, the session is created again and nothing is raised."""

    class Opens(PlainSeal):
        def unseal(self, sealed: bytes) -> bytes | None:
            return plain

    rig = Rig()
    run(rig.flows.session(ADA), rig.ports)
    other = Rig(store=rig.store, seal=Opens())
    assert JWT == run(other.flows.session(ADA), other.ports).reveal()


@pytest.mark.parametrize("changes", [{3: "soon"}, {1: None}, {2: 7}, {1: ["a"]}])
def test_a_sealed_token_of_the_wrong_shape_is_as_good_as_none(changes: dict[int, Any]) -> None:
    """A token whose parts are of the wrong type is created again, not handed to a caller."""

    class Bends(PlainSeal):
        def unseal(self, sealed: bytes) -> bytes | None:
            return msgpack.encode([changes.get(place, part) for place, part in enumerate(msgpack.decode(sealed))])

    rig = Rig()
    run(rig.flows.session(ADA), rig.ports)
    run(rig.flows.session(ADA), Rig(store=rig.store, seal=Bends(), upstream=rig.upstream).ports)
    assert 2 == rig.upstream.opened


def test_what_a_port_raises_is_raised_in_the_flow() -> None:
    """A flow can catch what its effect raised: the login of a store that is down is deferred."""
    rig = Rig()
    rig.store.is_down = True
    assert "store_unavailable" == run(rig.flows.login(ADA), rig.ports).reason
    with pytest.raises(StoreUnavailable):
        run(rig.flows.status(ADA.key), rig.ports)


Script = Callable[[Rig], None]


def script(**answers: Any) -> Script:
    """Puts the answers into the upstream's scripts."""

    def write(rig: Rig) -> None:
        for name, answer in answers.items():
            getattr(rig.upstream, name).append(answer)

    return write


def corrupt(rig: Rig) -> None:
    """Ada's record is torn."""
    rig.store.store.call(
        Change(
            key=ADA.key,
            value=b"{",
            expected_version="",
            decided_at=NOON,
            max_age=SECOND,
            due_at=NOON,
            keep_until=NOON + HOUR,
        )
    )


SCRIPTS = {
    "all well": script(),
    "rejected": script(kick_off_answers=Rejected("http_503")),
    "never sent": script(kick_off_answers=NeverSent("connection_refused")),
    "lost": script(kick_off_answers=AnswerLost("timed_out")),
    "no session": script(sessions=SessionFailed("http_500")),
    "no status": script(statuses=CouldNotAsk("http_500", 5.0)),
    "torn": corrupt,
    "down": lambda rig: setattr(rig.store, "is_down", True),
}
VERBS = [
    lambda flows: flows.login(ADA),
    lambda flows: flows.refresh(ADA),
    lambda flows: flows.status(ADA.key, ADA),
    lambda flows: flows.follow(ADA, "a"),
    lambda flows: flows.session(ADA),
    lambda flows: flows.explain(ADA.key),
    lambda flows: flows.step(Follow(ADA, "a")),
    lambda flows: flows.sweep(10),
    lambda flows: flows.logout(ADA.key),
    lambda flows: flows.refresh(ADA),
]


def outcome(call: Callable[[], Any]) -> Any:
    """What `call` returns, or the error it raises in words."""
    try:
        return call()
    except (StoreUnavailable, SessionUnavailable, RecordUnreadable) as error:
        return repr(error)


@pytest.mark.parametrize("name", SCRIPTS)
def test_both_runners_give_the_same_outcomes(name: str, noon: Any) -> None:
    """Every verb in turn, under the same script: the same outcomes, facts, hand-overs and calls."""
    blocking, awaited = Rig(), Rig()
    SCRIPTS[name](blocking)
    SCRIPTS[name](awaited)
    ports = Rig(
        store=awaited.store,
        upstream=awaited.upstream,
        worker=awaited.worker,
        observer=awaited.observer,
        sleep=asyncio.sleep,
        offload=asyncio.to_thread,
        monotonic=awaited.clock,
    ).ports
    for verb in VERBS:
        noon.tick(timedelta(seconds=2))
        expected = outcome(lambda verb=verb: run(verb(blocking.flows), blocking.ports))
        assert expected == outcome(lambda verb=verb: asyncio.run(run_async(verb(awaited.flows), ports)))
    assert blocking.observer.facts == awaited.observer.facts
    assert blocking.worker.taken == awaited.worker.taken
    assert blocking.store.calls == awaited.store.calls
    assert blocking.upstream == awaited.upstream


def test_the_policy_sets_the_age() -> None:
    """`decision_age` is passed to the store with each change."""
    ages = []
    rig = Rig()
    inner = rig.store.store

    class Watching(MemoryStore):
        def call(self, request: Any) -> Any:
            ages.extend([request.max_age] if isinstance(request, Change) else [])
            return inner.call(request)

    rig.store.store = Watching()
    rig.refresh()
    assert {milliseconds(Policy().decision_age)} == set(ages)
    assert deque() == rig.upstream.statuses
