"""What login, status and refresh say while the upstream is broken, on real sockets: docs/faults.md."""

import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from datetime import timedelta

import pytest
from phr_refresh import open_store
from phr_refresh.adapters.simulator import Simulator
from phr_refresh.adapters.upstream.mhv import MhvUpstream
from phr_refresh.adapters.upstream.settings import MhvSettings
from phr_refresh.statemachine.effects import AskStatus, OpenSession, StartRefresh
from support import edges
from support.edges_acts import FLOOD_BYTES, bomb, flood, flood_in_chunks
from support.edges_time import Clock
from support.edges_upstream import Act, Front, Fronts
from support.edges_upstream_cases import CASES, PLACES, Certificates, Scene, UpstreamCase
from support.edges_world import ADA, BOB, CARL, Heard, World, hearing
from support.samples import UNHURRIED
from support.values import replace

POLICY = replace(UNHURRIED, poll_interval=timedelta(seconds=5), session_wait_interval=timedelta(milliseconds=10))
POLL = POLICY.poll_interval.total_seconds() + 1
# No call waits for the upstream in a login: generous, for a busy machine.
LOGIN_SECONDS = 2.0
LATEST_SECONDS = 0.5
#: What the sockets of a loopback connection may hold beyond what is read.
IN_FLIGHT_BYTES = 24 * 1024 * 1024
MOST_MEMORY = 8 * 1024 * 1024


Stage = Callable[[UpstreamCase], tuple[World, Scene]]


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Certificates, good and bad."""
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture) -> Iterator[Heard]:
    """All that any logger says."""
    with hearing(caplog) as handler:
        yield handler


@pytest.fixture
def stage(certificates: Certificates, heard: Heard, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """Sets the scene for a case: a face on a store in memory, servers before the simulator, and a host elsewhere."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with ExitStack() as stack:

        def set_up(case: UpstreamCase) -> tuple[World, Scene]:
            clock = Clock()
            simulator = stack.enter_context(
                Simulator(
                    app_token="app-token-7",
                    authorization_key="system-key-7",
                    api_key="gateway-key-7",
                    speed=50,
                    login_seconds=0,
                    clock=lambda: clock.now() / 1000,
                )
            )
            tls = certificates.good if case.secure else None
            fronts = stack.enter_context(closing(Fronts(simulator.url, clock.now, tls=tls)))
            elsewhere = stack.enter_context(closing(Front(simulator.url, clock.now)))
            upstream = MhvUpstream(settings(fronts, case, certificates))
            world = World(
                store=open_store("memory://"),
                upstream=upstream,
                fronts=fronts,
                clock=clock,
                heard=heard,
                policy=POLICY,
            )
            stack.callback(world.close)
            stack.callback(lambda: check_untouched(elsewhere))
            return world, Scene(fronts, certificates, elsewhere.url, upstream)

        yield set_up


def check_untouched(elsewhere: Front) -> None:
    """No key, token or identifier followed a redirect: nothing did."""
    assert [] == elsewhere.arrivals


def settings(fronts: Fronts, case: UpstreamCase, certificates: Certificates) -> MhvSettings:
    """Those of a client of the fronts."""
    return MhvSettings(
        base_url=fronts.sessions.url,
        phrmgr_url=fronts.phrmgr.url,
        app_token="app-token-7",
        authorization_key="system-key-7",
        api_key="gateway-key-7",
        verify=certificates.bundle,
        connect_timeout=timedelta(seconds=5),
        read_timeout=timedelta(seconds=LATEST_SECONDS if case.hurried else 10),
        # Some faults are brought about in more ways than the guard would let through.
        guard_failures=1000,
    )


def seen(world: World, scene: Scene, case: UpstreamCase) -> edges.Seen:
    """What is seen of a case: the verbs while it is so, and what becomes of the patients afterwards."""
    if case.place == "status":
        # The refresh has to be under way for its status to be asked for.
        world.login(ADA)
        world.work()
        world.say("refresh", BOB)
        world.heard.records.clear()
    with case.begin(scene):
        login, took = world.login(ADA)
        assert took < LOGIN_SECONDS
        if case.place != "status":
            world.work()
        refresh = world.say("refresh", BOB)
        world.clock.ahead(POLL)
        status = world.say("status", ADA)
        log = ", ".join(world.heard.warnings()) or "none"
        world.say("session", CARL)
    return edges.Seen(login, status, refresh, log, world.recover(login=ADA, refresh=BOB))


def named(case: UpstreamCase) -> str:
    """The case's name for pytest."""
    return f"{case.place}: {case.fault}"


@pytest.mark.parametrize("case", CASES, ids=named)
def test_a_fault_of_the_upstream(stage: Stage, case: UpstreamCase) -> None:
    """Each fault is met as docs/faults.md says, and nothing private is said."""
    world, scene = stage(case)
    edges.check(case.place, case.fault, seen(world, scene, case))
    world.check_what_was_said()


def answered(scene: Scene, case: UpstreamCase) -> tuple[str, str]:
    """What the adapter makes of the call that goes wrong: the kind of its answer, and the reason."""
    now = round(time.time() * 1000)
    answer = {
        "session": lambda: scene.upstream.call(OpenSession(ADA)),
        "kick-off": lambda: scene.upstream.call(StartRefresh(ADA)),
        "status": lambda: scene.upstream.call(AskStatus(ADA, now, now, now)),
    }[case.place]()
    return type(answer).__name__, getattr(answer, "reason", "")


@pytest.mark.parametrize("case", [case for case in CASES if case.others], ids=named)
def test_each_way_to_it_is_met_alike(stage: Stage, case: UpstreamCase) -> None:
    """However a fault is brought about, its answer is the same, and nothing private is said."""
    world, scene = stage(case)
    answers = []
    for begin in (case.begin, *case.others):
        with begin(scene):
            answers.append(answered(scene, case))
    assert answers == answers[:1] * len(answers)
    world.check_what_was_said()


@pytest.mark.parametrize("act", [flood, flood_in_chunks, bomb])
@pytest.mark.parametrize("place", PLACES)
def test_of_a_hundred_megabytes_little_is_read(stage: Stage, place: str, act: Act) -> None:
    """An answer of 100 MB is broken off, in the socket and in memory, wherever and however it comes."""
    _, scene = stage(UpstreamCase(place, "", lambda scene: scene.fronts.at(place).striking(place, act)))
    front = scene.fronts.at(place)
    now = round(time.time() * 1000)
    requests = {"session": OpenSession(ADA), "kick-off": StartRefresh(ADA)}
    with front.striking(place, act):
        tracemalloc.start()
        try:
            scene.upstream.call(requests.get(place, AskStatus(ADA, now, now, now)))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    scene.fronts.close()
    assert 0 < front.bytes_sent < IN_FLIGHT_BYTES < FLOOD_BYTES
    assert peak < MOST_MEMORY


@pytest.mark.skipif(edges.IS_WRITTEN, reason="the page is being written")
def test_the_page_is_what_would_be_written() -> None:
    """docs/faults.md has the cases that there are, in their order, and nothing else."""
    page = edges.PAGE.read_text()
    rows = edges.read(page)
    assert [(section, fault) for section, faults in edges.names().items() for fault in faults] == list(rows)
    assert edges.written(rows) == page
