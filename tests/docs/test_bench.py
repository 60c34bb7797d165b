"""The benchmarks: a small run of the harness, and counts that are exact."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import redis
from click.testing import CliRunner
from conftest import Server
from support.values import replace

from benchmarks import command
from benchmarks.__main__ import bench
from benchmarks.command import Options
from benchmarks.contest import Contest, quartiles
from benchmarks.contestants.listing import ENTRIES, entry
from benchmarks.counting import Proxy, Traffic, counting
from benchmarks.place import JWT, Place, Upstream
from benchmarks.record import PAYLOAD, PlainRecord, from_bytes
from benchmarks.report import Results
from benchmarks.running import Undone, opened
from benchmarks.server import serving, version_of
from benchmarks.works import LOADS, Load, Work, reduced

# Nothing here depends on the version of Python, and a contest takes a while.
pytestmark = pytest.mark.once

#: Contestants that need nothing but what the package needs.
OWN = ("floor", "phr-refresh", "portal", "transitions", "floor-async", "phr-refresh-async")
#: (round trips, upstream calls) of one operation.
COUNTS = {
    ("phr-refresh", Work.FIRST_LOGIN): (4, (1, 1, 0)),
    ("phr-refresh", Work.REPEAT_LOGIN): (1, (0, 0, 0)),
    ("phr-refresh", Work.STATUS_READ): (1, (0, 0, 0)),
    ("phr-refresh", Work.CHANGE_OF_STATE): (2, (0, 0, 0)),
    ("phr-refresh", Work.LIFECYCLE): (7, (1, 1, 1)),
    ("portal", Work.FIRST_LOGIN): (4, (1, 1, 0)),
    ("portal", Work.STATUS_READ): (1, (0, 0, 1)),
    ("transitions", Work.FIRST_LOGIN): (10, (1, 1, 0)),
    ("transitions", Work.STATUS_READ): (1, (0, 0, 0)),
    ("transitions", Work.CHANGE_OF_STATE): (3, (0, 0, 0)),
    ("floor", Work.LIFECYCLE): (7, (1, 1, 1)),
}
SMALL = {load.work: replace(reduced(load), rounds=2) for load in LOADS}


@pytest.fixture
def server(shared_server: Callable[[str], Server]) -> Server:
    """The server that the benchmarks use by default, and no other kind: it is the harness that is tested."""
    return shared_server("valkey")


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    """A counting proxy before a real server."""
    with counting(server.url) as found:
        yield found


def contest(server: Server, *names: str) -> Contest:
    """Those contestants at that server."""
    return Contest(server.url, [entry(name) for name in names], lambda text: None)


def test_the_proxy_counts_a_command_as_one_round_trip(proxy: Proxy) -> None:
    """With the bytes of the protocol, both ways."""
    with closing(redis.Redis.from_url(proxy.url, protocol=2)) as client:
        client.ping()
        proxy.take()
        client.set("k", "v")
        assert Traffic(1, len(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n"), len(b"+OK\r\n")) == proxy.take()


def test_the_proxy_counts_a_pipeline_as_one_round_trip(proxy: Proxy) -> None:
    """However many commands are in it."""
    with closing(redis.Redis.from_url(proxy.url, protocol=2)) as client:
        client.ping()
        proxy.take()
        pipeline = client.pipeline(transaction=False)
        for number in range(50):
            pipeline.set(f"k{number}", "v")
        pipeline.execute()
        assert 1 == proxy.take().round_trips


def test_the_proxy_survives_a_client_that_leaves(proxy: Proxy) -> None:
    """The next one is served."""
    for _ in range(2):
        with closing(redis.Redis.from_url(proxy.url, protocol=2)) as client:
            assert client.ping()


@pytest.mark.parametrize(("name", "work"), COUNTS)
def test_what_an_operation_costs(server: Server, name: str, work: Work) -> None:
    """Counted at the server's door, for ours exactly what DESIGN allows."""
    [count] = contest(server, name).counted(SMALL[work])
    assert COUNTS[name, work] == (count.round_trips, count.upstream)


@pytest.mark.parametrize("work", [Work.FIRST_LOGIN, Work.STATUS_READ, Work.CHANGE_OF_STATE, Work.LIFECYCLE])
def test_asyncio_costs_what_threads_cost(server: Server, work: Work) -> None:
    """The same flows run: the same round trips and calls."""
    [sync], [awaited] = (contest(server, name).counted(SMALL[work]) for name in ("phr-refresh", "phr-refresh-async"))
    assert (sync.round_trips, sync.upstream) == (awaited.round_trips, awaited.upstream)


@pytest.mark.parametrize("name", ["phr-refresh", "phr-refresh-async", "transitions", "portal"])
def test_a_crowd_starts_one_refresh(server: Server, name: str) -> None:
    """Twenty clients on one new patient: one session, one kick-off, whoever takes part."""
    [load] = [load for load in LOADS if load.work is Work.CROWD]
    [count] = contest(server, name).counted(load)
    assert (1, 1) == count.upstream[:2]


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("work", Work)
def test_each_contestant_does_each_work(server: Server, name: str, work: Work) -> None:
    """And is looked at afterwards: one that did nothing would raise."""
    [figure] = contest(server, name).timed(SMALL[work])
    assert (work, name) == (figure.work, figure.contestant)
    assert figure.low <= figure.median <= figure.high


def test_a_contestant_that_does_nothing_is_found_out(server: Server, tmp_path: Path) -> None:
    """Its time would be the best of all."""
    load = SMALL[Work.FIRST_LOGIN]
    with closing(opened(entry("phr-refresh"), Place(server.url, str(tmp_path), Upstream()))) as one:
        with pytest.raises(Undone, match="phr-refresh left first_login undone: the patient is no_session"):
            one.check(load, ["nobody"])


def test_the_portal_passes_every_poll_on(server: Server) -> None:
    """As many upstream calls as status reads: that is what shared polling is for."""
    [count] = contest(server, "portal").counted(SMALL[Work.STATUS_READ])
    assert 1 == count.upstream[2]


def test_ratios_are_taken_within_a_round(server: Server) -> None:
    """The floor is its own floor, so its ratio is one in every round."""
    figures = {figure.contestant: figure for figure in contest(server, *OWN).timed(SMALL[Work.STATUS_READ])}
    for floor in ("floor", "floor-async"):
        assert (1.0, 1.0, 1.0) == (figures[floor].low, figures[floor].median, figures[floor].high)
    assert set(OWN) == set(figures)


def test_quartiles() -> None:
    """Of so few values as a run of two rounds has, too."""
    assert (1.25, 1.5, 1.75) == quartiles([1.0, 2.0])


def test_the_records_of_others_are_as_long_as_ours() -> None:
    """The fullest, too; and they can be read again."""
    fullest = PlainRecord("session_created", 1893499200.123, 1893499200.123, "0123456789a", 1893499200.123, False, 1.5)
    assert len(PAYLOAD) == len(fullest.to_bytes())
    assert fullest == from_bytes(fullest.to_bytes())


def test_our_record_is_as_long_as_the_payload(server: Server, tmp_path: Path) -> None:
    """The floor carries what ours really stores, give or take the digits of times."""
    with closing(opened(entry("phr-refresh"), Place(server.url, str(tmp_path), Upstream()))) as one:
        one.prepare(SMALL[Work.STATUS_READ], ["ada"])
        with closing(server.client()) as client:
            [key] = [key for key in client.keys("phr:*") if b":r:" in key]
            assert abs(client.strlen(key) - len(PAYLOAD)) <= 16


def test_every_work_has_a_load_and_every_contestant_a_floor() -> None:
    """Nothing on the lists is left hanging."""
    assert list(Work) == [load.work for load in LOADS]
    names = [item.name for item in ENTRIES]
    assert sorted(set(names)) == sorted(names)
    assert {item.floor for item in ENTRIES} <= set(names)


def test_a_missing_package_leaves_its_contestant_out(server: Server) -> None:
    """It is named, and the others go on."""

    def unavailable(place: Place) -> object:
        raise ModuleNotFoundError("No module named 'durable'", name="durable")

    missing = replace(entry("dbos"), open=unavailable)
    found = Contest(server.url, [entry("floor"), missing], lambda text: None)
    figures = found.timed(SMALL[Work.STATUS_READ])
    assert (["floor"], {"dbos": "durable"}) == ([figure.contestant for figure in figures], found.missing)


def test_a_fault_of_our_own_is_not_taken_for_a_missing_package(server: Server) -> None:
    """It would hide a contestant that was broken."""

    def broken(place: Place) -> object:
        raise ImportError("cannot import", name="phr_refresh.somewhere")

    found = Contest(server.url, [replace(entry("floor"), open=broken)], lambda text: None)
    with pytest.raises(ImportError):
        found.timed(SMALL[Work.STATUS_READ])


@pytest.fixture(scope="module")
def results() -> Results:
    """What a quick run of two contestants finds."""
    options = Options(works=("status_read", "lifecycle"), contestants=("phr-refresh", "portal"), quick=True)
    return command.run(options, lambda text: None)


def test_the_floor_is_always_there(results: Results) -> None:
    """Ratios need it, though it was not asked for."""
    assert ["floor", "phr-refresh", "portal"] == [item.name for item in results.entries]


def test_results_are_written(results: Results, tmp_path: Path) -> None:
    """As JSON, as Markdown, and as a chart where matplotlib is installed."""
    paths = command.write(results, tmp_path / "out")
    found = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert 6 == len(found["figures"])
    assert {"work", "contestant", "median", "low", "high", "microseconds"} == set(found["figures"][0])
    text = (tmp_path / "out" / "results.md").read_text(encoding="utf-8")
    assert "| portal | " in text
    assert JWT not in text
    if len(paths) == 3:
        assert paths[2].read_text(encoding="utf-8").startswith("<?xml")
        assert "![" in text


def test_the_redis_server_on_path_can_be_used(tmp_path: Path) -> None:
    """Where there is one."""
    if shutil.which("redis-server") is None:
        pytest.skip("no redis-server on PATH")
    with serving("redis", tmp_path) as url:
        assert version_of(url).startswith(("Redis ", "Valkey "))


def test_the_command(tmp_path: Path) -> None:
    """One command prints the tables and writes the files."""
    out = tmp_path / "out"
    found = CliRunner().invoke(
        bench, ["--quick", "--work", "first_login", "--contestant", "phr-refresh", "--out", str(out)]
    )
    assert 0 == found.exit_code, found.output
    assert "| phr-refresh | **" in found.output
    assert {"results.json", "results.md"} <= {path.name for path in out.iterdir()}


def test_a_work_that_is_not_known_is_refused(tmp_path: Path) -> None:
    """Before a server is started."""
    found = CliRunner().invoke(bench, ["--work", "everything", "--out", str(tmp_path)])
    assert 2 == found.exit_code
    assert "everything is not known; use first_login, " in found.output


def _others() -> list[str]:
    return [item.name for item in ENTRIES if item.name not in OWN]


@pytest.mark.parametrize("name", _others())
def test_contestants_of_other_packages_do_their_works(server: Server, name: str) -> None:
    """Where their packages are installed."""
    works: list[Load] = [load for work, load in SMALL.items() if work in entry(name).works and work is not Work.MANY]
    found = contest(server, name)
    figures = [figure for load in works for figure in found.timed(load)]
    if found.missing:
        pytest.skip(f"{found.missing[name]} is not installed")
    assert [load.work for load in works] == [figure.work for figure in figures]
