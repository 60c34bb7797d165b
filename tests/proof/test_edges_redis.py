"""What login, status and refresh say while Redis is broken, on a real server: docs/faults.md."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from datetime import timedelta

import pytest
from phr_refresh import Policy, open_async_store, open_store
from phr_refresh.adapters.ports import Change
from phr_refresh.adapters.simulator import Simulator
from phr_refresh.adapters.upstream.mhv import MhvUpstream
from phr_refresh.adapters.upstream.settings import MhvSettings
from phr_refresh.statemachine.effects import ListDue, Load, Refresh
from support import edges
from support.edges_proxy import Fault, late, proxied
from support.edges_redis import CASES, Place, RedisCase
from support.edges_time import Clock
from support.edges_upstream import Fronts
from support.edges_world import ADA, BOB, CARL, DORA, Heard, World, hearing
from support.samples import UNHURRIED
from support.values import replace

pytestmark = pytest.mark.once

PACE = {"poll_interval": timedelta(seconds=5), "session_wait_interval": timedelta(milliseconds=10)}
POLL = 6.0
# What a busy machine may add to the login budget of 50 ms; and the same for a login that has all the time it wants.
SCHEDULING, LOGIN_SECONDS = 1.0, 5.0


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture) -> Iterator[Heard]:
    """All that any logger says."""
    with hearing(caplog) as handler:
        yield handler


Stage = Callable[[RedisCase], tuple[World, Place]]


@pytest.fixture(params=["threads", "asyncio"])
def stage(
    request: pytest.FixtureRequest, shared_server: Callable, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Stage]:
    """Sets the scene for a case: either face, its store behind a proxy, and the simulator for an upstream."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = shared_server("valkey")
    with ExitStack() as stack:
        place = Place(
            stack.enter_context(proxied(server.port)), stack.enter_context(closing(server.client())), server.port
        )
        runner = stack.enter_context(asyncio.Runner()) if request.param == "asyncio" else None

        def set_up(case: RedisCase) -> tuple[World, Place]:
            clock = Clock()
            simulator = stack.enter_context(
                Simulator(speed=50, login_seconds=0, clock=lambda: clock.now() / 1000, app_token="app-token-7")
            )
            fronts = stack.enter_context(closing(Fronts(simulator.url, clock.now)))
            url = f"{place.proxy.url}?socket_timeout={case.socket_timeout}"
            world = World(
                store=open_async_store(url) if runner else open_store(url),
                upstream=MhvUpstream(settings(simulator, fronts)),
                fronts=fronts,
                clock=clock,
                heard=heard,
                runner=runner,
                policy=Policy(**PACE) if case.hurried else replace(UNHURRIED, **PACE),
            )
            stack.callback(world.close)
            return world, place

        yield set_up


def settings(simulator: Simulator, fronts: Fronts) -> MhvSettings:
    """Those of a client of the simulator, by way of the fronts, which count."""
    return MhvSettings(
        base_url=fronts.sessions.url,
        phrmgr_url=fronts.phrmgr.url,
        app_token=simulator.app_token,
        authorization_key=simulator.authorization_key,
    )


def seen(world: World, place: Place, case: RedisCase) -> edges.Seen:
    """What is seen of a case: each verb while it is so, and what becomes of the patients afterwards."""
    for patient in (BOB, DORA):
        assert "started" == world.say("refresh", patient)
    world.worker.waiting.clear()
    world.clock.ahead(POLL)
    world.heard.records.clear()
    with case.begin(place):
        login = logged_in(world, case)
        world.work()
    with case.begin(place):
        status = world.say("status", BOB)
    with case.begin(place):
        refresh = world.say("refresh", CARL)
    log = ", ".join(world.heard.warnings()) or "none"
    if not case.hurried:
        try_the_other_verbs(world, place, case)
    return edges.Seen(login, status, refresh, log, world.recover(login=ADA, status=BOB, refresh=CARL))


def logged_in(world: World, case: RedisCase) -> str:
    """What a login says: in time, and in one warning at most (rule R5)."""
    login, took = world.login(ADA)
    longest = world.policy.login_budget.total_seconds() + SCHEDULING if case.hurried else LOGIN_SECONDS
    assert took < longest
    assert len(world.heard.ours()) == (1 if login.startswith("deferred") else 0)
    if case.goes_on:
        world.wait_for(lambda: bool(world.worker.waiting))
        assert [Refresh(ADA)] == [step for _, step in world.worker.waiting]
        return f"{login}, goes on behind it"
    return login


def try_the_other_verbs(world: World, place: Place, case: RedisCase) -> None:
    """They answer, or raise one of our own errors; `say` lets nothing else pass."""
    for verb, *arguments in (["session", DORA], ["explain", "dora"], ["sweep"], ["logout", "dora"]):
        with case.begin(place):
            world.say(verb, *arguments)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.fault)
def test_a_fault_of_redis(stage: Stage, case: RedisCase) -> None:
    """Each fault is met as docs/faults.md says by either face, and nothing private is said."""
    world, place = stage(case)
    edges.check("store", case.fault, seen(world, place, case))
    world.check_what_was_said()


@pytest.mark.parametrize("case", [case for case in CASES if case.others], ids=lambda case: case.fault)
def test_each_way_to_it_is_met_alike(stage: Stage, case: RedisCase) -> None:
    """However a fault is brought about, each call of either store says the same of it."""
    world, place = stage(case)
    change = Change(key=BOB.key, value=b"x", expected_version="", decided_at=0, max_age=0, due_at=None, keep_until=0)
    said: list[list[str]] = []
    for begin in (case.begin, *case.others):
        with begin(place):
            calls = (lambda: world.store.call(Load(BOB.key, with_token=True)), lambda: world.store.call(change))
            said.append([world.ask(call) for call in calls])
            # To this one an empty list, for example, is an answer. It must not raise anything else than ours.
            world.ask(lambda: world.store.call(ListDue(1)))
    assert said == said[:1] * len(said)
    assert said[0][1] != "an answer"
    world.check_what_was_said()


def test_a_late_answer_is_not_taken_for_the_next_one(stage: Stage) -> None:
    """What arrives after the client gave up is never read as the answer to what it asks next."""
    world, place = stage(RedisCase("late", lambda place: place.proxy.away(), hurried=True))
    world.say("refresh", BOB)
    with place.proxy.striking(Fault(late(0.8), times=1)):
        assert "timed_out" == world.ask(lambda: world.store.call(Load(ADA.key)))
        nobody, somebody = (world.wait(world.store.call(Load(key))) for key in (ADA.key, BOB.key))
    assert (True, False) == (nobody.value is None, somebody.value is None)
