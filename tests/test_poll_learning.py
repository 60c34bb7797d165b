"""Polls that are learned: fewer status calls, nothing on a login's way, and a store that fails costs one line."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count

import pytest
from phr_refresh import AsyncPhrRefresh, Fact, Patient, PhrRefresh, Policy, State
from phr_refresh.adapters.pacing import FULL, MOST, PERIOD_SECONDS, PollLearning
from phr_refresh.adapters.settings import MhvSettings
from phr_refresh.adapters.simulator import Simulator
from phr_refresh.adapters.stores.memory import MemoryStore
from phr_refresh.adapters.stores.threaded import ThreadedStore
from phr_refresh.adapters.upstream import MhvUpstream
from phr_refresh.embedding import read_policy
from phr_refresh.statemachine.effects import AskStatus, CouldNotAsk, Follow, Phase, StartRefresh, StatusReport
from phr_refresh.statemachine.flows import Flows
from phr_refresh.statemachine.pacing import FEWEST, Durations, learned
from phr_refresh.testing import Clock, ClockedWorker, Rules, ScriptedUpstream, SteppableStore
from support.fakes import Silent
from support.samples import ADA, CURRENT, RUNNING, UNHURRIED
from support.stepping import World

LEARNING = replace(UNHURRIED, learn_polling=True)
#: Nothing but this many refreshes of five seconds.
FIVE_SECONDS = Durations.of([5000] * 200)
TAKES_MS = 5000


@dataclass
class Timed(ScriptedUpstream):
    """An upstream whose refreshes take five seconds of the store's time, and that tells when they ended, if it does."""

    tells_times: bool = True
    #: When each status call came, in milliseconds since the claim.
    asked: list[int] = field(default_factory=list)

    def ask_status(self, question: AskStatus) -> StatusReport | CouldNotAsk:
        self.calls.append("ask_status")
        running = question.asked_at - question.claimed_at
        self.asked.append(running)
        if running < TAKES_MS:
            return StatusReport(Phase.IN_PROGRESS, RUNNING)
        ended_at = question.claimed_at + TAKES_MS if self.tells_times else None
        return StatusReport(Phase.COMPLETE, CURRENT, ended_at=ended_at)


class Portal:
    """A login service on virtual time that learns, the rules watching; `facts` are what its observer heard."""

    def __init__(self, upstream: ScriptedUpstream | MhvUpstream, policy: Policy = LEARNING) -> None:
        self.clock = Clock()
        self.worker = ClockedWorker(self.clock)
        self.store = SteppableStore(MemoryStore(clock=self.clock))
        self.heard = Silent()
        self.rules = Rules(upstream, clock=self.clock, policy=policy, observer=self.heard)
        self.phr = PhrRefresh(
            store=self.store, upstream=self.rules, worker=self.worker, policy=policy, observer=self.rules
        )
        self._numbers = count(1)

    def patient(self) -> Patient:
        """Somebody who was never here."""
        number = next(self._numbers)
        return Patient(f"user {number}", f"{1_012_345_678 + number}V123456", f"{number}")

    def visit(self) -> None:
        """Somebody logs in, and is followed to the end."""
        self.phr.login(patient := self.patient())
        self.clock.tick(seconds=30)
        assert State.COMPLETE is self.phr.status(patient.user_id).state

    def teach(self, durations: Durations = FIVE_SECONDS) -> None:
        """As if other processes had learned."""
        self.store.store.merge_durations(durations.counts, MOST)


@pytest.fixture
def open_portal() -> Iterator[Callable[..., Portal]]:
    """Opens portals; in the end no rule may have been broken."""
    opened: list[Portal] = []

    def open_one(*arguments: object, **options: object) -> Portal:
        opened.append(Portal(*arguments, **options))  # type: ignore[arg-type]
        return opened[-1]

    yield open_one
    for portal in opened:
        portal.phr.close()
        assert [] == portal.rules.broken


@pytest.mark.once
def test_status_calls_become_fewer(open_portal: Callable[..., Portal]) -> None:
    """Over HTTP, by the recorded durations: from about five calls per refresh to less than two."""
    clock: list[Clock] = []
    with Simulator(clock=lambda: clock[0].now.timestamp(), login_seconds=0) as simulator:
        settings = MhvSettings(
            base_url=simulator.url,
            app_token=simulator.app_token,
            authorization_key=simulator.authorization_key,
        )
        portal = open_portal(MhvUpstream(settings))
        clock.append(portal.clock)

        def calls_of(visits: int) -> float:
            before = simulator.calls()["totals"]["status"]
            for _ in range(visits):
                portal.visit()
            return (simulator.calls()["totals"]["status"] - before) / visits

        as_ever, by_then = calls_of(FULL), calls_of(40)

    [told] = portal.heard.told("polling_learned")
    lags = [
        fact.details["refresh_seconds"] - fact.details["upstream_seconds"]  # type: ignore[operator]
        for fact in portal.heard.told("refresh_completed")[FULL:]
    ]
    assert FULL == told.details["refreshes"]
    assert as_ever > 4
    assert by_then < 2
    assert sum(lags) / len(lags) < 1


def test_a_process_that_starts_goes_on_with_what_is_known(open_portal: Callable[..., Portal]) -> None:
    """The first step of its worker brings what others have learned; the next refresh is asked about when it ends."""
    upstream = Timed()
    portal = open_portal(upstream)
    portal.teach()
    portal.visit()
    upstream.asked.clear()
    portal.visit()
    schedule = learned(FIVE_SECONDS, LEARNING)
    assert [moment for moment in schedule if moment <= schedule[0]] == upstream.asked


def test_a_learned_refresh_takes_no_round_trip_more(open_portal: Callable[..., Portal]) -> None:
    """Seven for a whole lifecycle that is asked about once, wherever that call lies."""
    upstream = Timed()
    portal = open_portal(upstream)
    portal.teach()
    portal.visit()
    portal.store.calls.clear()
    upstream.asked.clear()
    portal.phr.login(portal.patient())
    portal.clock.tick(seconds=30)
    assert (7, 1) == (len(portal.store.calls), len(upstream.asked))


def test_a_login_never_waits_for_it(open_portal: Callable[..., Portal]) -> None:
    """What is known is fetched and computed by the worker; the login itself is one load, and a reader's status too."""
    portal = open_portal(Timed())
    portal.teach()
    calls = []
    for verb in (lambda: portal.phr.login(ADA), lambda: portal.phr.status("ada"), lambda: portal.clock.tick(seconds=1)):
        portal.store.calls.clear()
        verb()
        calls.append(portal.store.calls.count("merge_durations"))
    assert [0, 0, 1] == calls
    assert 1 == len(portal.heard.told("polling_learned"))


def test_a_store_that_fails_costs_one_line(open_portal: Callable[..., Portal]) -> None:
    """The refresh goes on as it would have, by growing intervals; it is tried again a while later."""
    upstream = Timed()
    portal = open_portal(upstream)
    portal.teach()
    portal.store.fail("merge_durations")
    portal.visit()
    assert 1 == len(portal.heard.told("durations_not_merged"))
    assert [] == portal.heard.told("step_failed")
    assert upstream.asked[0] < learned(FIVE_SECONDS, LEARNING)[0] - 1000
    assert 1 == portal.store.calls.count("merge_durations")


def test_who_tells_no_times_teaches_nothing(open_portal: Callable[..., Portal]) -> None:
    """Else the times at which the ends were seen would be learned, and with them their lag."""
    portal = open_portal(Timed(tells_times=False))
    for _ in range(FULL):
        portal.visit()
    assert [] == portal.heard.told("polling_learned")
    assert 0 == sum(portal.store.store.merge_durations(Durations().counts, MOST))


def test_nothing_is_learned_unasked(open_portal: Callable[..., Portal]) -> None:
    """By default nothing is counted, and the store is asked for nothing."""
    portal = open_portal(Timed(), policy=UNHURRIED)
    portal.teach()
    for _ in range(3):
        portal.visit()
    assert "merge_durations" not in portal.store.calls


class Stopwatch:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def completed(seconds: float | None, name: str = "refresh_completed") -> Fact:
    """The end of a refresh."""
    return Fact(name, ADA.key, details={"refresh_seconds": 9.0} | ({"upstream_seconds": seconds} if seconds else {}))


@pytest.fixture
def watch() -> Stopwatch:
    """Time that stands still."""
    return Stopwatch()


@pytest.fixture
def learning(watch: Stopwatch) -> PollLearning:
    """One that has just been to the store."""
    fresh = PollLearning(Silent(), LEARNING, monotonic=watch)
    assert Durations().counts == fresh.take()
    return fresh


def test_what_counts(learning: PollLearning, watch: Stopwatch) -> None:
    """Completions of known duration, up to the deadline; no failure, no time-out, nothing that came later."""
    deadline = LEARNING.refresh_deadline.total_seconds()
    for fact in (
        *(completed(seconds) for seconds in (0.5, 4.2, deadline, deadline + 0.001, None)),
        completed(3.0, "refresh_failed"),
        completed(3.0, "refresh_timed_out"),
    ):
        learning(fact)
    watch.seconds = PERIOD_SECONDS
    assert Durations.of([500, 4200, round(deadline * 1000)]).counts == learning.take()


def test_when_it_is_time(learning: PollLearning, watch: Stopwatch) -> None:
    """After a minute, or once there are many; never twice for the same."""
    learning(completed(4.0))
    watch.seconds = PERIOD_SECONDS - 0.001
    assert learning.take() is None
    watch.seconds = PERIOD_SECONDS
    assert 1 == sum(learning.take() or ())
    for _ in range(FULL - 1):
        learning(completed(4.0))
    assert learning.take() is None
    learning(completed(4.0))
    assert FULL == sum(learning.take() or ())
    assert learning.take() is None


def test_it_passes_everything_on() -> None:
    """The observer behind it hears what it heard."""
    heard = Silent()
    learning = PollLearning(heard, LEARNING)
    facts = [completed(1.0), Fact("login_deferred")]
    for fact in facts:
        learning(fact)
    assert facts == heard.facts


def test_a_process_that_takes_nothing_along_keeps_a_bounded_number(learning: PollLearning) -> None:
    """One that runs no steps may live for months."""
    for _ in range(MOST + 5):
        learning(completed(4.0))
    assert MOST == sum(learning.take() or ())


def flows_of(policy: Policy = LEARNING) -> Flows:
    return Flows(policy, lambda: "id")


def test_a_schedule_is_computed_anew_only_for_news(learning: PollLearning) -> None:
    """A tenth more, or less; and one that comes out the same changes nothing."""
    first = learning.taught(flows_of(), FIVE_SECONDS.counts)
    assert learned(FIVE_SECONDS, LEARNING) == first.policy.poll_schedule_ms
    assert first is learning.taught(first, Durations.of([5000] * 150 + [60_000] * 69).counts)
    second = learning.taught(first, Durations.of([5000] * 150 + [60_000] * 71).counts)
    assert first.policy.poll_schedule_ms != second.policy.poll_schedule_ms
    assert second is learning.taught(second, Durations.of([5000] * 150 + [60_000] * 71).counts)
    assert second is learning.taught(second, Durations.of([5000] * 205).counts)
    assert first.policy == learning.taught(second, Durations.of([5000] * 200).counts).policy


def test_what_was_learned_can_be_forgotten(learning: PollLearning) -> None:
    """A store that was emptied brings the growing intervals back."""
    flows = learning.taught(flows_of(), FIVE_SECONDS.counts)
    assert LEARNING == learning.taught(flows, Durations.of([5000] * (FEWEST - 1)).counts).policy


@pytest.mark.parametrize(("answered_after", "asked_after"), [(0, 4700), (3600, 4700), (4000, 5000), (7000, 8000)])
def test_a_schedule_counts_from_the_claim(answered_after: int, asked_after: int) -> None:
    """However long the kick-off took; but a whole `poll_interval` after its answer, and the worker looks just then."""
    world = World(policy=Policy(retry_jitter=0, poll_schedule_ms=(4700, 5900)))
    kick_off = world.refresh().until(StartRefresh)
    claimed_at = world.now
    world.now += answered_after
    kick_off.run()
    [(step, delay)] = world.handed
    assert isinstance(step, Follow)
    assert [asked_after, asked_after] == [
        world.record().next_poll_at - claimed_at,
        answered_after + round(delay * 1000),
    ]


def test_learning_is_a_setting_of_the_policy() -> None:
    """In a host's settings block it stands beside the durations."""
    assert Policy(learn_polling=True) == read_policy({"learn_polling": True})


@contextmanager
def announced(name: str) -> Iterator[tuple[Callable[[Fact], None], list[str]]]:
    """An observer, and the names of the threads that told it `name`."""
    threads: list[str] = []

    def observer(fact: Fact) -> None:
        if fact.name == name:
            threads.append(threading.current_thread().name)

    yield observer, threads


def test_an_event_loop_is_not_held_up(runner: asyncio.Runner) -> None:
    """Under asyncio a worker's task fetches what is known, and a thread computes."""
    memory = MemoryStore()
    memory.merge_durations(FIVE_SECONDS.counts, MOST)

    async def visit(threads: list[str], observer: Callable[[Fact], None]) -> None:
        phr = AsyncPhrRefresh(store=ThreadedStore(memory), upstream=Timed(), policy=LEARNING, observer=observer)
        async with phr:
            assert "handed_over" == (await phr.login(ADA)).kind
            while not threads:
                await asyncio.sleep(0.005)

    with announced("polling_learned") as (observer, threads):
        runner.run(visit(threads, observer))
    assert [True] == [name.startswith("phr-refresh-upstream") for name in threads]


def test_an_event_loop_outlives_a_store_that_fails(runner: asyncio.Runner) -> None:
    """One line, and the refresh goes on."""
    store = SteppableStore(MemoryStore())
    store.fail("merge_durations")

    async def visit(threads: list[str], observer: Callable[[Fact], None]) -> None:
        phr = AsyncPhrRefresh(
            store=ThreadedStore(store), upstream=ScriptedUpstream(), policy=LEARNING, observer=observer
        )
        async with phr:
            await phr.login(ADA)
            while not threads:
                await asyncio.sleep(0.005)
            assert "in_progress" == (await phr.login(ADA)).kind

    with announced("durations_not_merged") as (observer, threads):
        runner.run(visit(threads, observer))
    assert 1 == len(threads)
