"""Long random visits on every store: `PhrRefresh` does what a plain reference model says (R1 to R4, R6)."""

from contextlib import closing
from datetime import datetime
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
from freezegun import freeze_time
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from phr_refresh.adapters.stores.basics import host_clock
from phr_refresh.statemachine.errors import SessionUnavailable
from phr_refresh.statemachine.outcomes import Receipt
from phr_refresh.statemachine.policy import milliseconds
from support.reference import Model, Said, Script, reason_of
from support.reference_settings import examples
from support.reference_world import FORGOTTEN_AFTER, POLICY, START, TwoHosts, two_hosts
from support.samples import DEADLINE, HOUR, MARGIN, MINUTE, SECOND, WINDOW

EDGES = ["session_until", "deadline_at", "opens_at", "next_poll_at", "retry_at"]
EXAMPLES = {"memory": 70, "fakeredis": 5}
EXAMPLES_ELSEWHERE = 20
HOSTS = st.sampled_from([0, 1])
SCRIPTS = st.builds(
    Script,
    # The first of each is what a shrunk example shows.
    session_life=st.sampled_from([15 * MINUTE, 2 * HOUR, MINUTE, None, 0]),
    kick_off=st.sampled_from(["accepted", "accepted", "rejected", "lost", "never_sent", "dies"]),
    status=st.sampled_from(["complete", "in_progress", "in_progress", "failed", "not_asked"]),
    retry_after=st.sampled_from([None, 0, 7, 3600]),
    takes=st.sampled_from([0, 0, SECOND, 15 * SECOND]),
    has_room=st.sampled_from([True, True, False]),
)
WAITS = st.sampled_from([1, SECOND, 2 * SECOND, 30 * SECOND, MINUTE, DEADLINE, 15 * MINUTE, WINDOW, WINDOW + MARGIN])


def milliseconds_at(moment: datetime | None) -> int | None:
    return None if moment is None else round(moment.timestamp() * 1000)


def said(receipt: Receipt) -> Said:
    return receipt.kind.value, receipt.reason, milliseconds_at(receipt.retry_at)


class Visits(RuleBasedStateMachine):
    """One patient, two hosts, and the model beside them; after every step they must agree."""

    def __init__(self, pair: TwoHosts, *, has_our_clock: bool) -> None:
        super().__init__()
        self.pair = pair
        self.patient = pair.begin()
        self.has_our_clock = has_our_clock
        self.model = Model(POLICY, START)
        self.refresh_id: str | None = None

    @rule(duration=WAITS)
    def wait(self, duration: int) -> None:
        self.pair.wait(duration)
        self.model.wait(duration)

    @rule(edge=st.sampled_from(EDGES), beside=st.sampled_from([0, -1, 1]))
    def wait_for_an_edge(self, edge: str, beside: int) -> None:
        duration = vars(self.model)[edge] + beside - self.model.now
        if duration > 0:
            self.wait(duration)

    @precondition(lambda self: self.has_our_clock)
    @rule()
    def wait_until_forgotten(self) -> None:
        self.wait(FORGOTTEN_AFTER)
        self.model.forget()

    @rule(host=HOSTS)
    def login(self, host: int) -> None:
        receipt = self.pair.hosts[host].login(self.patient)
        assert self.model.login() == said(receipt)

    @rule(host=HOSTS, script=SCRIPTS)
    def refresh(self, host: int, script: Script) -> None:
        self.pair.upstream.script = script
        expected = self.model.refresh(script)
        kicks_off = self.model.kicked_off > self.pair.upstream.kick_offs
        if expected is None:
            with pytest.raises(SystemExit):
                self.pair.hosts[host].refresh(self.patient)
            return
        receipt = self.pair.hosts[host].refresh(self.patient)
        assert expected == said(receipt)
        # Everybody gets the id of the refresh that was claimed last, and each claim has a new one.
        assert kicks_off == (receipt.refresh_id != self.refresh_id)

    @rule(host=HOSTS, script=SCRIPTS)
    def ask_for_the_session(self, host: int, script: Script) -> None:
        self.pair.upstream.script = script
        calls = self.model.opened
        expected = self.model.session(script)
        if expected:
            assert self.model.session_until == self.pair.hosts[host].session(self.patient).expires_at
            return
        with pytest.raises(SessionUnavailable) as raised:
            self.pair.hosts[host].session(self.patient)
        assert self.model.retry_at == milliseconds_at(raised.value.retry_at)
        assert self.model.opened == calls or reason_of(script) == raised.value.reason

    @rule(host=HOSTS, script=SCRIPTS)
    def read_the_status(self, host: int, script: Script) -> None:
        self.pair.upstream.script = script
        self.model.status(script)
        assert self.model.state == self.pair.hosts[host].status(self.patient).state.value

    @rule(host=HOSTS)
    def read_the_status_by_user_id(self, host: int) -> None:
        assert self.model.state == self.pair.hosts[host].status(self.patient.user_id).state.value

    @rule(host=HOSTS)
    def log_out(self, host: int) -> None:
        self.pair.hosts[host].logout(self.patient)
        self.model.logout()

    @precondition(lambda self: self.has_our_clock)
    @rule(host=HOSTS)
    def sweep(self, host: int) -> None:
        report = self.pair.hosts[host].sweep()
        assert (report.due, 0, 0) == (report.moved, report.conflicts, report.unreadable)
        assert 0 == self.pair.hosts[host].sweep().due

    @invariant()
    def the_model_agrees(self) -> None:
        model, upstream = self.model, self.pair.upstream
        explained = self.pair.hosts[0].explain(self.patient)
        assert model.now == host_clock()
        assert model.state == explained.state.value
        assert (model.state == "refreshing" or model.is_held_back()) == explained.status.under_way
        assert (model.is_awaited() or model.is_held_back()) == (explained.status.next_check_at is not None)
        self.refresh_id = explained.status.refresh_id
        assert (model.opened, model.kicked_off, model.asked) == (upstream.opened, upstream.kick_offs, upstream.polls)

    @invariant()
    def no_two_kick_offs_are_closer_than_a_window(self) -> None:
        for (_, answered_at), (began_at, _) in pairwise(self.pair.upstream.sent):
            assert began_at - answered_at >= WINDOW

    @invariant()
    def no_two_polls_are_closer_than_their_interval(self) -> None:
        for earlier, later in pairwise(self.pair.upstream.asked_at):
            assert later - earlier >= milliseconds(POLICY.poll_interval)


def test_every_visit_goes_as_the_model_says(backend: Any) -> None:
    """State, receipts, window and the number of upstream calls are the model's after every step of random visits."""
    number = EXAMPLES.get(backend.name, EXAMPLES_ELSEWHERE)
    with freeze_time("2005-05-14") as clock, closing(two_hosts(backend, clock)) as pair:
        visits = partial(Visits, pair, has_our_clock=backend.has_our_clock)
        run_state_machine_as_test(visits, settings=examples(number, steps=40))
