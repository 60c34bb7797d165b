"""The doctor: each thing that can be wrong, made wrong on a real server, and the one line that says so."""

import json
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from freezegun import freeze_time
from phr_refresh import Policy, open_store
from phr_refresh.adapters.doctor.server import Told, check_clocks, check_info
from phr_refresh.adapters.doctor.store import _REMEDIES, Heard, check_clock, check_latency, check_place
from phr_refresh.adapters.doctor.upstream import check_upstream
from phr_refresh.adapters.simulator import Simulator
from phr_refresh.adapters.stores.memory import MemoryStore
from phr_refresh.adapters.stores.redis_acl import COMMANDS, acl_rule
from phr_refresh.adapters.stores.redis_errors import _REASONS_BY_CLASS, _REASONS_BY_WORD
from phr_refresh.adapters.upstream.settings import MhvSettings
from phr_refresh.doctor import Finding, Level, examine
from phr_refresh.statemachine.effects import ListDue
from phr_refresh.unconnected import UnconnectedUpstream
from support.edges_upstream_cases import Certificates
from support.redis_servers import LOGIN, PASSWORD, USER, Cluster, Node, Watched, with_users
from support.samples import ICN

SEAL_KEY = "c3ludGhldGljLWtleS1mb3ItdGVzdHMtb25seS0wMDA="
OTHER_KEY = "c3ludGhldGljLWtleS1mb3ItdGVzdHMtb25seS0xMTE="


@pytest.fixture
def binary(binary_for: Callable[[str], str]) -> str:
    """A server's program."""
    return binary_for("valkey")


@contextmanager
def running(binary: str, folder: Path, *lines: str) -> Iterator[Node]:
    """A server with these lines in its configuration, and with all that the doctor wants where they do not say else."""
    node = Node(binary, folder, ["appendonly yes", "repl-diskless-sync-delay 0", *lines])
    node.start()
    try:
        yield node
    finally:
        node.kill()


def examined(store_url: str, policy: Policy | None = None, **environ: str) -> dict[str, Finding]:
    """What the doctor finds, by what was looked at; of several about one thing the last."""
    kept = {"PHR_REFRESH_SEAL_KEYS": SEAL_KEY, **environ}
    findings = examine(environ=kept, policy=policy or Policy(login_budget=timedelta(seconds=30)), store_url=store_url)
    return {finding.check: finding for finding in findings}


def told(finding: Finding) -> tuple[Level, str, str]:
    """All of a finding but what was looked at."""
    return finding.level, finding.said, finding.remedy


def bad(found: dict[str, Finding]) -> list[str]:
    """What is not fine, and known."""
    return [check for check, finding in found.items() if finding.level in (Level.WARNING, Level.ERROR)]


# A store on a server.


def test_a_server_as_it_should_be_has_nothing_wrong(server) -> None:
    """Of each kind of server: it answers, and only that the tests' servers keep nothing is found."""
    found = examined(server.url)
    assert {"store.persistence"} == set(bad(found))
    assert "answered 20 loads" == found["store.reachable"].said
    assert "noeviction, no maxmemory" == found["store.eviction"].said
    assert "the store's user may do all that the store does" == found["store.acl"].said


def test_nothing_is_left_behind(binary: str, tmp_path: Path) -> None:
    """After an examination the server holds at most a record that expires within a millisecond."""
    with running(binary, tmp_path) as node:
        assert [] == bad(examined(f"redis://{node.place}"))
        while node.ask("DBSIZE"):
            pass
        assert [] == node.ask("KEYS", "*")


def test_a_store_that_is_down_is_one_error(unused_port: int) -> None:
    """Nothing else is asked of it."""
    found = examined(f"redis://127.0.0.1:{unused_port}")
    assert ["store.reachable"] == [check for check in found if check.startswith("store")]
    expected = (
        Level.ERROR,
        "the store is unavailable (connection refused)",
        "check host and port, and that it runs",
    )
    assert expected == told(found["store.reachable"])


@pytest.fixture
def unused_port() -> int:
    """A port that nobody listens on."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_name_that_is_not_resolved_is_said() -> None:
    """The cause, and not that no connection came about."""
    found = examined("redis://store.invalid")
    assert "the store is unavailable (its name is not resolved)" == found["store.reachable"].said


def test_a_store_that_hangs_is_one_error(binary: str, tmp_path: Path) -> None:
    """It takes connections and answers nothing: one time-out, and the doctor goes on."""
    with running(binary, tmp_path) as node:
        node.suspend()
        found = examined(f"redis://{node.place}?socket_timeout=0.2")
        node.resume()
    assert ["store.reachable"] == [check for check in found if check.startswith("store")]
    assert "the store is unavailable (timed_out)" == found["store.reachable"].said
    assert "unknown" == found["upstream"].level


def test_a_wrong_password_is_said(binary: str, tmp_path: Path) -> None:
    """And nothing of the one that was given."""
    with running(binary, tmp_path) as node:
        node.ask("CONFIG", "SET", "requirepass", "right")
        found = examined(f"redis://:canary@{node.place}")
    assert "the store is unavailable (authentication_failed)" == found["store.reachable"].said
    assert "canary" not in str(found)


def test_a_certificate_of_nobody_is_said(tmp_path: Path) -> None:
    """TLS with a certificate that no known authority signed."""
    certificates = Certificates(tmp_path)
    with tls_server(certificates.bad["a self-signed certificate"]) as port:
        found = examined(f"rediss://127.0.0.1:{port}?ssl_ca_certs={certificates.bundle}")
    assert "its certificate is not trusted" in found["store.reachable"].said
    assert "give the CA that signed it, such as ?ssl_ca_certs=/path/ca.pem" == found["store.reachable"].remedy


@contextmanager
def tls_server(context: ssl.SSLContext) -> Iterator[int]:
    """Listens, and ends each connection after the handshake; gives its port."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:

        def serve() -> None:
            try:
                while True:
                    connection, _ = listener.accept()
                    try:
                        context.wrap_socket(connection, server_side=True).close()
                    except OSError:
                        connection.close()
            except OSError:
                return

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_a_server_that_may_evict_is_an_error(binary: str, tmp_path: Path, policy: str) -> None:
    """All our keys have a TTL: a policy of volatile keys drops them as one of all keys does."""
    with running(binary, tmp_path, "maxmemory 64mb", f"maxmemory-policy {policy}") as node:
        found = examined(f"redis://{node.place}")
    assert ["store.eviction"] == bad(found)
    lost = "all our keys have a TTL, so it may drop them, and with them windows (R1) and sessions"
    said = f"maxmemory-policy is {policy} with maxmemory 64 MB: {lost}"
    assert (Level.ERROR, said, "set maxmemory-policy noeviction") == told(found["store.eviction"])


def test_a_policy_without_a_limit_is_a_warning(binary: str, tmp_path: Path) -> None:
    """Nothing is dropped as long as nobody sets maxmemory."""
    with running(binary, tmp_path, "maxmemory-policy allkeys-lru") as node:
        found = examined(f"redis://{node.place}")
    assert (["store.eviction"], Level.WARNING) == (bad(found), found["store.eviction"].level)


def test_a_server_that_is_almost_full_is_a_warning() -> None:
    """With noeviction it will refuse writes."""
    info = {"maxmemory_policy": "noeviction", "maxmemory": 100_000_000, "used_memory": 95_000_000}
    finding = found_in(info)["store.eviction"]
    assert (Level.WARNING, "95% of maxmemory 95 MB is used: writes will be refused") == told(finding)[:2]


def found_in(info: dict[str, object]) -> dict[str, Finding]:
    """What is found of a server that tells this, by what was looked at."""
    return {finding.check: finding for finding in check_info(Told("", True, info))}


def test_snapshots_alone_are_a_warning_and_nothing_is_an_error(binary: str, tmp_path: Path) -> None:
    """What a restart forgets, the window among it (R1)."""
    with running(binary, tmp_path / "one", "appendonly no", "save 3600 1") as node:
        some = examined(f"redis://{node.place}")
    with running(binary, tmp_path / "two", "appendonly no") as node:
        none = examined(f"redis://{node.place}")
    assert (["store.persistence"], Level.WARNING) == (bad(some), some["store.persistence"].level)
    assert "snapshots only (save 3600 1)" in some["store.persistence"].said
    assert (["store.persistence"], Level.ERROR) == (bad(none), none["store.persistence"].level)
    assert "set appendonly yes" == none["store.persistence"].remedy


@pytest.mark.parametrize("name", ["aof_last_write_status", "rdb_last_bgsave_status"])
def test_a_file_that_could_not_be_written_is_an_error(name: str) -> None:
    """Redis then refuses writes."""
    finding = found_in({"aof_enabled": 1, name: "err"})["store.persistence"]
    assert (Level.ERROR, True) == (finding.level, "could not be written" in finding.said)


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({"redis_version": "6.0.16"}, (Level.ERROR, "Redis 6.0.16 is too old")),
        ({"redis_version": "6.2.0"}, (Level.OK, "Redis 6.2.0")),
        ({"redis_version": "7.2.4", "valkey_version": "8.1.0"}, (Level.OK, "Valkey 8.1.0")),
        ({}, (Level.UNKNOWN, "it does not tell its version")),
    ],
)
def test_versions(info: dict[str, object], expected: tuple[Level, str]) -> None:
    """Redis from 6.2 on, and Valkey, which gives itself out for the Redis that it began as."""
    assert expected == told(found_in(info)["store.server"])[:2]


def test_a_replica_takes_no_writes(binary: str, tmp_path: Path) -> None:
    """Connected to a replica: the role and the write say so."""
    with running(binary, tmp_path / "primary") as primary, running(binary, tmp_path / "replica") as replica:
        replica.ask("REPLICAOF", "127.0.0.1", primary.port)
        while replica.ask("INFO", "replication")["master_link_status"] != "up":
            pass
        found = examined(f"redis://{replica.place}")
    said = f"connected to a replica of {primary.place}: it takes no writes"
    assert (Level.ERROR, said, "connect to the primary") == told(found["store.role"])
    assert "the store is unavailable (read_only)" == found["store.write"].said
    assert "ok" == found["store.acl"].level


def test_a_client_that_knows_no_clusters_is_said(fleets) -> None:
    """One node of a cluster, asked as if it were alone."""
    found = examined(f"redis://{LOGIN}{fleets.cluster().nodes[0].place}")
    assert "the store is unavailable (needs_a_cluster_client)" in {finding.said for finding in found.values()}
    assert "use redis+cluster:// in place of redis://" in {finding.remedy for finding in found.values()}


# What the user may do.


def test_the_least_user_may_do_all_and_tells_nothing_of_the_server(binary: str, tmp_path: Path) -> None:
    """INFO and CONFIG are not for the store: what they would tell is not known, which is no fault."""
    node = with_users(binary, tmp_path)
    found = examined(f"redis://{LOGIN}{node.place}")
    node.kill()
    assert [] == bad(found)
    assert "the store's user may do all that the store does" == found["store.acl"].said
    said = "version, eviction, persistence and role: INFO is forbidden"
    assert (Level.UNKNOWN, said) == told(found["store.server"])[:2]


@pytest.mark.parametrize("command", sorted({*COMMANDS} - {"cluster|slots", "command", "asking", "role", "wait"}))
def test_what_the_user_lacks_is_named(server, command: str) -> None:
    """Each command of the rule in turn, forbidden."""
    name = "lacks-one"
    with closing(server.client()) as client:
        client.execute_command(*f"ACL SETUSER {name} on >secret ~phr:* resetchannels -@all".split(), *_but(command))
        found = examined(f"redis://{name}:secret@127.0.0.1:{server.port}")
        client.execute_command("ACL", "DELUSER", name)
    # Up to Redis 6.2 a refusal does not name the subcommand.
    named = command.partition("|")[0] if server.kind.startswith("redis-6") else command
    assert (Level.ERROR, f"the store's user lacks +{named}") == told(found["store.acl"])[:2]
    assert "store.write" in found or Level.ERROR == found["store.reachable"].level


def _but(command: str) -> list[str]:
    return [f"+{name}" for name in COMMANDS if command != name]


def test_keys_that_the_user_may_not_touch_are_named(server) -> None:
    """The pattern that is missing: the store's prefix is another than the rule's."""
    with closing(server.client()) as client:
        client.execute_command(*acl_rule(user=USER, password=PASSWORD).replace("user ", "ACL SETUSER ", 1).split())
        found = examined(f"redis://{LOGIN}127.0.0.1:{server.port}?prefix=other")
        client.execute_command("ACL", "DELUSER", USER)
    assert (Level.ERROR, "the store's user lacks ~other:*") == told(found["store.acl"])[:2]


def test_every_command_of_the_rule_is_tried() -> None:
    """By itself, but for those that connecting takes: they are met by connecting."""
    tried = {command: trial.partition(" ")[0].lower() for command, (_, trial) in COMMANDS.items() if trial}
    assert {command: command for command in COMMANDS.keys() - {"client|setname", "cluster|slots"}} == tried


# Several servers.


@pytest.mark.once
def test_a_cluster_is_examined_node_by_node(binary: str, tmp_path: Path) -> None:
    """A user whom one node does not know, and a node that may evict, are named with the node."""
    cluster = Cluster(binary, tmp_path, lines=["appendonly yes"])
    cluster.start()
    try:
        first, second, third = cluster.nodes
        everybody = cluster.url.replace(LOGIN, "")
        assert ["store.replicas"] == bad(examined(everybody))
        assert "3 servers agree" in examined(everybody)["store.clocks"].said
        for node in (first, second):
            node.ask("CONFIG", "SET", "maxmemory-policy", "volatile-lru")
        third.ask("ACL", "SETUSER", USER, "-zadd")
        found = list(examine(environ={}, store_url=everybody))
        assert [first.place, second.place] == sorted(
            (finding.said.partition(": ")[0] for finding in found if finding.check == "store.eviction"),
            key=[first.place, second.place].index,
        )
        lacking = [f for f in examine(environ={}, store_url=cluster.url) if f.check == "store.acl" and f.remedy]
        assert [f"{third.place}: the store's user lacks +zadd"] == [finding.said for finding in lacking]
        third.kill()
        assert f"{third.place} does not answer" == examined(everybody)["store.nodes"].said
    finally:
        cluster.stop()


@pytest.mark.once
def test_sentinels_and_replicas_are_counted(binary: str, tmp_path: Path) -> None:
    """All there: fine. A claim that wants more replicas than there are, and a sentinel that is gone, are found."""
    watched = Watched(binary, tmp_path, sentinels=3, lines=["appendonly yes"])
    watched.start()
    try:
        url = watched.url.replace(LOGIN, "")
        found = examined(url)
        assert [] == bad(found)
        assert "3 of 3 sentinels answer" == found["store.sentinels"].said
        assert "1 or more for each primary" == found["store.replicas"].said
        wanting = examined(url, Policy(claim_replicas=2))["store.replicas"]
        said = "1 replicas, and Policy.claim_replicas wants 2: no kick-off will be sent"
        assert (Level.ERROR, said) == told(wanting)[:2]
        watched.sentinels[0].kill()
        assert (Level.WARNING, "2 of 3 sentinels answer") == told(examined(url)["store.sentinels"])[:2]
        watched.sentinels[1].kill()
        assert Level.ERROR == examined(url)["store.sentinels"].level
    finally:
        watched.stop()


def test_servers_whose_clocks_differ_are_an_error() -> None:
    """A failover to the one ahead would open a window early."""
    assert [Level.ERROR] == [finding.level for finding in check_clocks([0.1, 2.5])]
    assert [Level.OK] == [finding.level for finding in check_clocks([0.1, 0.2])]
    assert [] == [*check_clocks([0.1])]


# Time.


def test_a_host_whose_clock_is_off_is_told(server) -> None:
    """By how much, and in which direction: frozen far in the past, this host is behind."""
    with freeze_time("2020-01-01T00:00:00Z"):
        found = examined(server.url)
    assert Level.WARNING == found["store.clock"].level
    assert found["store.clock"].said.endswith(" s behind the store's: times in its logs mislead")


@pytest.mark.parametrize(
    ("heard", "expected"),
    [
        (Heard(0.001, 0.5), Level.OK),
        (Heard(0.001, -3.0), Level.WARNING),
        (Heard(4.0, 3.0), Level.OK),
    ],
)
def test_what_a_slow_answer_leaves_open_is_no_difference(heard: Heard, expected: Level) -> None:
    """The clock was read somewhere within the round trip."""
    assert expected == check_clock(heard).level


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [([0.001] * 20, Level.OK), ([0.001] * 19 + [0.2], Level.WARNING), ([0.06] * 20, Level.ERROR)],
)
def test_latency_is_compared_with_the_budget(seconds: list[float], expected: Level) -> None:
    """A median above it defers every login, one load above it some."""
    assert expected == check_latency(seconds, Policy()).level


# A store in a file, and one in memory.


def test_a_file_as_it_should_be_has_nothing_wrong(tmp_path: Path) -> None:
    """It is there, private, in WAL mode, and can be written."""
    url = f"sqlite:///{tmp_path / 'store.db'}"
    with closing(open_store(url)) as store:
        store.call(ListDue(1))
        found = examined(url)
    assert [] == [check for check in bad(found) if check != "store.filesystem"]
    assert ("wal", "answered 20 loads") == (found["store.journal"].said, found["store.reachable"].said)


def test_a_file_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    """It would belong to who runs the doctor."""
    found = examined(f"sqlite:///{tmp_path / 'store.db'}")
    assert f"{tmp_path / 'store.db'} will be made at the first login" == found["store.file"].said
    assert [] == list(tmp_path.iterdir())


def test_a_file_that_is_no_database_is_an_error(tmp_path: Path) -> None:
    """What lies there is something else."""
    (tmp_path / "store.db").write_text("no database, " * 100)
    found = examined(f"sqlite:///{tmp_path / 'store.db'}")
    assert (Level.ERROR, "it cannot be opened (SQLITE_NOTADB)") == told(found["store.journal"])[:2]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_file_that_may_not_be_written_is_an_error(tmp_path: Path) -> None:
    """Nor its directory: SQLite makes files beside it."""
    (tmp_path / "store.db").touch(mode=0o400)
    assert Level.ERROR == examined(f"sqlite:///{tmp_path / 'store.db'}")["store.file"].level


def test_tokens_that_others_may_read_are_a_warning(tmp_path: Path) -> None:
    """Unless they are sealed."""
    url = f"sqlite:///{tmp_path / 'store.db'}"
    with closing(open_store(url)) as store:
        store.call(ListDue(1))
    (tmp_path / "store.db").chmod(0o640)
    plain = examined(url, PHR_REFRESH_SEAL_KEYS="")
    assert "others may read the session tokens in it (mode 640)" == plain["store.mode"].said
    assert "store.mode" not in examined(url)


MOUNTS = """
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
40 22 0:38 / /srv rw - tmpfs tmpfs rw
41 40 0:39 / /srv/shared\\040files rw shared:1 - nfs4 files:/export rw,vers=4.2
42 22 0:40 / /data rw - fuse.sshfs host:/data rw
"""


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/var/lib/store.db", (Level.OK, "ext4")),
        ("/srv/store.db", (Level.WARNING, "it lies on tmpfs: a restart forgets all windows (R1)")),
        (
            "/srv/shared files/store.db",
            (Level.ERROR, "it lies on nfs4: SQLite's locks do not hold over a network (R1)"),
        ),
        ("/database/store.db", (Level.OK, "ext4")),
        ("/data/store.db", (Level.ERROR, "it lies on fuse.sshfs: SQLite's locks do not hold over a network (R1)")),
    ],
)
def test_file_systems(path: str, expected: tuple[Level, str]) -> None:
    """A network does not keep SQLite's locks, and memory nothing at all."""
    assert expected == told(check_place(Path(path), MOUNTS))[:2]


def test_a_file_system_that_nobody_tells_of_is_not_known() -> None:
    """As on systems without /proc."""
    assert Level.UNKNOWN == check_place(Path("/store.db"), None).level


def test_the_memory_of_each_process_is_a_warning() -> None:
    """With several processes each has its own truth."""
    assert Level.WARNING == examined("memory://")["store"].level


def test_a_malformed_url_is_an_error_that_does_not_show_it() -> None:
    """Nothing of what may be a password."""
    found = examined("redis://user:canary@host:port")
    assert (Level.ERROR, True) == (found["store"].level, "port" in found["store"].said)
    assert "canary" not in str(found)


# The upstream.


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    """An upstream."""
    with Simulator() as running:
        yield running


def settings(url: str, **changes: object) -> MhvSettings:
    """Settings for an upstream at `url`."""
    fields = {"base_url": url, "app_token": "canary-token", "authorization_key": "canary-key"}
    return MhvSettings(**fields | changes)


def test_an_upstream_that_answers_is_fine_and_is_asked_nothing(simulator: Simulator) -> None:
    """Any answer will do: no login, no kick-off, no status, and no key goes out."""
    found = {finding.check: finding for finding in check_upstream(settings(simulator.url), store_skew=0.0)}
    assert ["ok", "ok"] == [finding.level.value for finding in found.values()]
    assert {"login": 0, "refresh": 0, "status": 0, "fhir": 0} == simulator.calls()["totals"]


def test_an_upstream_that_is_down_is_an_error(unused_port: int) -> None:
    """With what to check."""
    [finding] = check_upstream(settings(f"http://127.0.0.1:{unused_port}"))
    said = f"127.0.0.1:{unused_port} cannot be reached (connection_refused)"
    assert (Level.ERROR, said, "check host and port in PHR_REFRESH_MHV_URL, and that it runs") == told(finding)


def test_an_upstream_with_a_bad_certificate_is_an_error(tmp_path: Path) -> None:
    """Whatever is wrong with it."""
    certificates = Certificates(tmp_path)
    for what, context in certificates.bad.items():
        if context is None:
            continue
        with tls_server(context) as port:
            [finding] = check_upstream(settings(f"https://127.0.0.1:{port}", verify=certificates.bundle))
        assert (Level.ERROR, f"127.0.0.1:{port} cannot be reached (tls_failed)") == told(finding)[:2], what


def test_every_host_of_the_upstream_is_asked_once(simulator: Simulator, unused_port: int) -> None:
    """The refresh service and the FHIR server, where they are others than the session's."""
    mhv = settings(simulator.url, phrmgr_url=f"http://127.0.0.1:{unused_port}", fhir_url=f"{simulator.url}/fhir")
    assert ["upstream", "upstream.phrmgr"] == [finding.check for finding in check_upstream(mhv)]


def test_an_upstream_in_the_clear_is_an_error(monkeypatch: pytest.MonkeyPatch, simulator: Simulator) -> None:
    """Plain HTTP to anywhere but this host."""
    port = simulator.url.rpartition(":")[2]
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest, **more: real("127.0.0.1", *rest, **more))
    found = {finding.check: finding for finding in check_upstream(settings(f"http://upstream.example:{port}"))}
    assert (Level.ERROR, "identifiers and tokens travel in the clear") == told(found["upstream.tls"])[:2]


def test_an_upstream_whose_clock_is_off_is_a_warning(simulator: Simulator) -> None:
    """By what it says in the header `Date`, against the store's clock."""
    found = {finding.check: finding for finding in check_upstream(settings(simulator.url), store_skew=600.0)}
    assert Level.WARNING == found["upstream.clock"].level
    assert "its clock and the store's are" in found["upstream.clock"].said


# Settings.


def upstream_env(simulator: Simulator, **changes: str) -> dict[str, str]:
    """An environment with an upstream."""
    return {
        "PHR_REFRESH_MHV_URL": simulator.url,
        "PHR_REFRESH_APP_TOKEN": "canary-token",
        "PHR_REFRESH_AUTHORIZATION_KEY": "canary-key",
    } | changes


def test_secrets_are_said_to_be_there_and_not_shown(simulator: Simulator, tmp_path: Path) -> None:
    """Given as text or in a file; one that cannot be read, or is empty, is an error."""
    (tmp_path / "token").write_text("canary-in-a-file\n")
    (tmp_path / "empty").write_text("\n")
    environ = upstream_env(
        simulator,
        PHR_REFRESH_APP_TOKEN=f"file:{tmp_path / 'token'}",
        PHR_REFRESH_API_KEY=f"file:{tmp_path / 'nowhere'}",
        PHR_REFRESH_PSEUDONYM_KEY=f"file:{tmp_path / 'empty'}",
    )
    found = [finding for finding in examine(environ=environ, store_url="memory://") if finding.check == "secrets"]
    assert [
        (Level.ERROR, "PHR_REFRESH_API_KEY: its file cannot be read (FileNotFoundError)"),
        (Level.ERROR, "PHR_REFRESH_PSEUDONYM_KEY is empty where it points to"),
        (Level.OK, "APP_TOKEN, AUTHORIZATION_KEY can be read"),
    ] == [told(finding)[:2] for finding in found]
    assert "canary" not in str(found)


def test_an_upstream_that_is_set_in_part_is_an_error(simulator: Simulator) -> None:
    """What is missing is named. An environment without any is that of no service: not known."""
    environ = upstream_env(simulator)
    del environ["PHR_REFRESH_AUTHORIZATION_KEY"]
    assert "PHR_REFRESH_AUTHORIZATION_KEY" in examined("memory://", **environ)["upstream"].said
    assert Level.UNKNOWN == examined("memory://")["upstream"].level


def test_a_policy_whose_claims_lapse_too_early_is_an_error(simulator: Simulator) -> None:
    """A call could outlive its claim (R1, R2)."""
    policy = Policy(session_claim=timedelta(seconds=10))
    found = examined("memory://", policy, **upstream_env(simulator))
    assert (Level.ERROR, True) == (found["policy"].level, "Policy.session_claim" in found["policy"].said)
    assert Level.OK == examined("memory://", **upstream_env(simulator))["policy"].level


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("", (Level.WARNING, "off: who can read the store can read the session tokens in it")),
        ("canary", (Level.ERROR, "FernetSeal.keys: key number 1 is malformed")),
        (SEAL_KEY, (Level.OK, "on, with 1 key; the first one seals")),
        (f"{SEAL_KEY}, {OTHER_KEY}", (Level.OK, "on, with 2 keys; the first one seals")),
    ],
)
def test_sealing(keys: str, expected: tuple[Level, str]) -> None:
    """Off is a warning; a malformed key is named by its number."""
    assert expected == told(examined("memory://", PHR_REFRESH_SEAL_KEYS=keys)["sealing"])[:2]


def test_a_missing_extra_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what to install."""
    monkeypatch.setitem(__import__("sys").modules, "prometheus_client", None)
    finding = examined("memory://", PHR_REFRESH_METRICS="prometheus")["metrics"]
    assert (Level.ERROR, "pip install 'phr-refresh[prometheus]'") == (finding.level, finding.remedy)


def test_unknown_metrics_are_an_error() -> None:
    """With what there is."""
    finding = examined("memory://", PHR_REFRESH_METRICS="statsd")["metrics"]
    assert (Level.ERROR, "use prometheus or opentelemetry") == (finding.level, finding.remedy)


def test_a_check_that_fails_itself_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are made all the same."""

    def fails(url: str) -> object:
        raise LookupError(ICN)

    monkeypatch.setattr("phr_refresh.doctor.open_store", fails)
    found = examined("redis://localhost")
    assert (Level.ERROR, "a check itself failed: LookupError: <withheld>") == told(found["doctor"])[:2]
    assert "upstream" in found


def test_findings_can_be_printed_as_json() -> None:
    """Each is a plain value."""
    from phr_refresh.cli.views import as_json

    findings = [finding for _, finding in sorted(examined("memory://").items())]
    assert ["sealing", "store", "upstream"] == [found["check"] for found in json.loads(json.dumps(as_json(findings)))]


def test_a_store_that_the_host_opens_is_not_known() -> None:
    """A callable in the settings block has no URL to look at."""
    block = {"patient_of": "support.samples.everybody_is_ada", "upstream": UnconnectedUpstream(), "store": MemoryStore}
    found = {finding.check: finding for finding in examine(block, environ={})}
    assert (Level.UNKNOWN, Level.UNKNOWN) == (found["store"].level, found["upstream"].level)


def test_a_hosts_settings_block_is_examined(simulator: Simulator, tmp_path: Path) -> None:
    """Its store, its keys, its policy and its upstream, with the environment for what it leaves out."""
    block = {
        "patient_of": "support.samples.everybody_is_ada",
        "store": f"sqlite:///{tmp_path / 'store.db'}",
        "seal_keys": SEAL_KEY,
        "policy": {"session_claim": 10},
        "upstream": {"base_url": simulator.url, "app_token": "canary-token", "authorization_key": "canary-key"},
    }
    found = {finding.check: finding for finding in examine(block, environ={"PHR_REFRESH_METRICS": "prometheus"})}
    assert ("prometheus", "on, with 1 key; the first one seals") == (found["metrics"].said, found["sealing"].said)
    assert (Level.OK, Level.OK, Level.ERROR) == tuple(
        found[check].level for check in ("store.file", "upstream", "policy")
    )


def test_each_reason_of_a_redis_that_fails_has_a_remedy() -> None:
    """Nobody is told what is wrong without being told what to do; a value of another type is no outage."""
    reasons = {reason for _, reason in _REASONS_BY_CLASS} | set(_REASONS_BY_WORD.values())
    assert set() == reasons - {"wrong_type"} - _REMEDIES.keys()
