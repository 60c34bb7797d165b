"""Redis behind Sentinel: a primary that dies, hangs or is replaced, while patients log in."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from phr_refresh import PhrRefresh, Policy
from phr_refresh.adapters.simulator import Simulator
from phr_refresh.adapters.stores import open_async_store, open_store
from phr_refresh.adapters.upstream.mhv import MhvUpstream
from phr_refresh.adapters.upstream.settings import MhvSettings
from phr_refresh.statemachine.effects import ListDue, Load, LoadAll
from phr_refresh.statemachine.errors import StoreUnavailable
from phr_refresh.statemachine.patient import key_of
from support.redis_servers import SERVICE, Watched, wait_until
from support.store_load import next_number, some_keys, under_load
from support.visitors import Visitors

KEY = key_of("ada")
OUTAGE = {"connection_failed", "timed_out", "read_only", "loading", "primary_down", "contended"}


@pytest.fixture
def start_watched(binary_for: Callable[[str], str], tmp_path: Path) -> Iterator[Callable[..., Watched]]:
    """Starts servers and sentinels for this test alone."""
    started: list[Watched] = []

    def start(**wish: int) -> Watched:
        started.append(Watched(binary_for("valkey"), tmp_path, **wish))
        started[-1].start()
        return started[-1]

    yield start
    for watched in started:
        watched.stop()


def reason_of(call: Callable[[], object]) -> str:
    """The reason of the `StoreUnavailable` that `call` raises."""
    with pytest.raises(StoreUnavailable) as raised:
        call()
    return raised.value.reason


def promote(watched: Watched) -> None:
    """Have the sentinels make the replica the primary, and come back when they name it."""
    old = watched.primary()
    # Right after the start the sentinel has not yet looked at the replica closely enough to take it.
    wait_until(lambda: watched.sentinels[0].ask("SENTINEL", "FAILOVER", SERVICE), what="the sentinel begins")
    wait_until(lambda: watched.primary() is not old, what="another one is the primary")
    wait_until(lambda: old.ask("ROLE")[0] == b"slave", what="the old one follows")


@pytest.mark.once
def test_a_demoted_primary_is_left_at_once(start_watched):
    """After a failover that nobody died of, the old primary still answers: nothing is read from it, nor written."""
    watched = start_watched(sentinels=1)
    with closing(open_store(watched.url)) as store:
        first = store.call(next_number(KEY, store.call(Load(KEY))))
        promote(watched)
        watched.primary().ask("SET", "marker", "new primary")

        row = store.call(Load(KEY))
        second = store.call(next_number(KEY, row))

        assert (first.version, b"1") == (row.version, row.value)
        assert (second.version, b"2") == (store.call(Load(KEY)).version, store.call(Load(KEY)).value)
        with closing(watched.primary().client()) as client:
            assert any(KEY.encode() in name for name in client.keys("*:r:*"))


@pytest.mark.once
def test_a_primary_that_hangs_costs_one_time_out(start_watched):
    """Each call ends after one time-out, whether or not the sentinels are asked again meanwhile."""
    watched = start_watched(sentinels=1, replicas=0)
    with closing(open_store(f"{watched.url}?socket_timeout=0.5")) as store:
        store.call(Load(KEY))
        watched.servers[0].suspend()
        try:
            for call in (
                lambda: store.call(Load(KEY)),
                lambda: store.call(LoadAll(tuple(some_keys(600)))),
                lambda: store.call(ListDue(5)),
            ):
                started = time.perf_counter()
                assert "timed_out" == reason_of(call)
                assert time.perf_counter() - started < 0.95
        finally:
            watched.servers[0].resume()


@pytest.mark.once
def test_sentinels_may_die_once_the_primary_is_known(start_watched):
    """Nobody asks a sentinel as long as the primary answers; without any, a new process is told so."""
    watched = start_watched(sentinels=1, replicas=0)
    with closing(open_store(watched.url)) as store:
        store.call(Load(KEY))
        watched.sentinels[0].kill()

        store.call(next_number(KEY, store.call(Load(KEY))))
        assert b"1" == store.call(Load(KEY)).value
    with closing(open_store(watched.url)) as store:
        assert "connection_failed" == reason_of(lambda: store.call(Load(KEY)))


@pytest.mark.once
def test_a_sentinel_that_hangs_costs_one_time_out(start_watched, runner):
    """The next one is asked then; and as long as the connection lasts nobody asks any."""
    watched = start_watched(sentinels=3, replicas=0)
    watched.sentinels[0].suspend()
    url = f"{watched.url}?socket_timeout=0.5&socket_connect_timeout=0.5"
    try:
        with closing(open_store(url)) as store:
            took = [timed(lambda: store.call(Load(KEY))) for _ in range(2)]

        async def work() -> list[float]:
            store = open_async_store(url)
            try:
                started = time.perf_counter()
                await store.call(Load(KEY))
                return [time.perf_counter() - started]
            finally:
                await store.close()

        took += runner.run(work())
    finally:
        watched.sentinels[0].resume()

    assert [True, False, True] == [0.5 <= seconds < 0.95 for seconds in took]
    assert took[1] < 0.45


@pytest.mark.once
def test_sentinels_that_all_hang_are_each_waited_for_once(start_watched):
    """Nobody asks them a second time for the same call."""
    watched = start_watched(sentinels=2, replicas=0)
    with closing(open_store(f"{watched.url}?socket_timeout=0.5&socket_connect_timeout=0.5")) as store:
        for sentinel in watched.sentinels:
            sentinel.suspend()
        started = time.perf_counter()
        try:
            assert "timed_out" == reason_of(lambda: store.call(Load(KEY)))
        finally:
            for sentinel in watched.sentinels:
                sentinel.resume()

    assert time.perf_counter() - started < 1.45


def timed(call: Callable[[], object]) -> float:
    """How long `call` takes, in seconds."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


@pytest.mark.once
def test_a_primary_that_is_down_is_no_unknown_service(start_watched):
    """Before a replica has taken over, or where there is none, the sentinels know the name and name nobody."""
    watched = start_watched(sentinels=1, replicas=0)
    watched.servers[0].kill()
    sentinel = watched.sentinels[0]
    wait_until(lambda: "s_down" in str(sentinel.ask("SENTINEL", "MASTERS")), what="the sentinel sees it down")
    with closing(open_store(watched.url)) as store:
        assert "primary_down" == reason_of(lambda: store.call(Load(KEY)))


def test_a_service_that_is_not_watched_is_named(fleets):
    """A name mistyped in the URL has a reason of its own."""
    url = fleets.url("sentinel").replace(f"/{SERVICE}", "/elsewhere")
    with closing(open_store(url)) as store:
        assert "service_unknown" == reason_of(lambda: store.call(Load(KEY)))


def test_sentinels_want_their_own_password(start_watched):
    """`sentinel_password` is for them, and the servers' user is not told to them; neither is shown."""
    watched = start_watched(sentinels=1, replicas=0)
    watched.sentinels[0].ask("ACL", "SETUSER", "default", "resetpass", ">hunter2")

    for password, reason in (("", "authentication_failed"), ("?sentinel_password=wrong", "authentication_failed")):
        with closing(open_store(f"{watched.url}{password}")) as store:
            with pytest.raises(StoreUnavailable, match=reason) as raised:
                store.call(Load(KEY))
            assert "wrong" not in str(raised.value)
    with closing(open_store(f"{watched.url}?sentinel_password=hunter2")) as store:
        assert store.call(Load(KEY)).value is None


@pytest.mark.once
def test_a_failover_under_load_under_asyncio(start_watched, runner):
    """The asyncio store finds the new primary too."""
    watched = start_watched(sentinels=1)

    async def work() -> tuple[str, bytes | None]:
        store = open_async_store(watched.url)
        try:
            written = await store.call(next_number(KEY, await store.call(Load(KEY))))
            promote(watched)
            row = await store.call(Load(KEY))
            await store.call(next_number(KEY, row))
            return written.version == row.version, (await store.call(Load(KEY))).value
        finally:
            await store.close()

    assert (True, b"2") == runner.run(work())


@pytest.mark.once
def test_writes_that_were_replicated_survive_the_primary(start_watched):
    """SIGKILL under load: what was told of as replicated is there afterwards; more than was written is nowhere."""
    watched = start_watched(sentinels=3, replicas=2)
    keys = some_keys(4)
    with closing(open_store(watched.url)) as store, under_load(store, keys, threads=4, pause=0.002) as load:
        load.wait_for(100)
        watched.primary().kill()
        load.wait_for(200)
    with closing(open_store(watched.url)) as store:
        found = {key: int(store.call(Load(key)).value) for key in keys}

    assert set(load.tally.errors) <= OUTAGE
    for key in keys:
        assert found[key] <= load.tally.written[key] + load.tally.open_writes[key]


@pytest.mark.once
@pytest.mark.parametrize("replicas", [0, 1], ids=["without WAIT", "with WAIT 1"])
def test_logins_outlive_the_primary(start_watched, replicas):
    """SIGKILL of the primary while patients log in: every login answers, and afterwards all goes on by itself."""
    watched = start_watched(sentinels=3, replicas=2)
    policy = Policy(poll_schedule=(), poll_interval=timedelta(milliseconds=20), claim_replicas=replicas)
    with Simulator(speed=200) as simulator:
        settings = MhvSettings(
            base_url=simulator.url,
            app_token=simulator.app_token,
            authorization_key=simulator.authorization_key,
            fhir_url=f"{simulator.url}/fhir",
        )
        with PhrRefresh(store=open_store(watched.url), upstream=MhvUpstream(settings), policy=policy) as phr:
            visitors = Visitors(phr, threads=4)
            visitors.start()
            try:
                visitors.wait_for(20)
                watched.primary().kill()
                wait_until(lambda: not visitors.visits.probes[-1][1], what="the outage is noticed")
                visitors.wait_for(20)
            finally:
                visitors.stop()
        calls = simulator.calls()

    visits = visitors.visits
    assert [] == visits.raised_by_login
    assert set(visits.errors) <= OUTAGE
    assert 0 == visits.split
    # What the primary took with it may be sent once more; not what a replica was known to have.
    assert calls["duplicate_refreshes"] <= (0 if replicas else len(calls["patients"]) // 10)
    assert max(counts["refresh"] for counts in calls["patients"].values()) <= (1 if replicas else 2)
    print(
        f"\n{replicas=}: {visits.without_a_store:.1f} s without a store, {dict(visits.errors)}, logins "
        f"{dict(visits.logins)}, slowest {visits.slowest_login:.3f} s, {visits.completed} completed, "
        f"{visits.unfinished} not within two seconds, "
        f"{calls['duplicate_refreshes']} kicked off twice"
    )
