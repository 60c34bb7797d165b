"""TLS: who is let in, who is not, and what is said; to one server, to a cluster and behind Sentinel."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from phr_refresh.adapters.stores import open_async_store, open_store
from phr_refresh.statemachine.effects import ListDue, Load
from phr_refresh.statemachine.errors import ConfigurationError, StoreUnavailable
from phr_refresh.statemachine.patient import key_of
from support.edges_upstream_cases import Certificates
from support.redis_servers import LOGIN, SERVICE, SLOTS, Node, free_port, wait_until, with_tls
from support.store_load import next_number

KEY = key_of("ada")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """An authority, and a certificate that both sides use."""
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def own(certificates: Certificates) -> str:
    """The file with the certificate and its key."""
    return str(Path(certificates.bundle).parent / "good.pem")


@pytest.fixture
def node(binary_for: Callable[[str], str], tmp_path: Path, certificates: Certificates, own: str) -> Iterator[Node]:
    """A server that speaks TLS and wants a certificate of its clients."""
    made = with_tls(binary_for("tls"), tmp_path / "server", authority=certificates.bundle, certificate=own)
    yield made
    made.kill()


@pytest.fixture
def options(certificates: Certificates, own: str) -> str:
    """What a URL needs."""
    return f"ssl_ca_certs={certificates.bundle}&ssl_certfile={own}&ssl_keyfile={own}"


def tls_lines(port: int, certificates: Certificates, own: str) -> list[str]:
    """TLS on `port`, for clients and for other servers. The plain port is where tests look behind the store's back."""
    return [
        *(f"tls-port {port}", f"tls-ca-cert-file {certificates.bundle}", "tls-replication yes"),
        *(f"tls-cert-file {own}", f"tls-key-file {own}"),
    ]


def failure_of(url: str) -> StoreUnavailable:
    """What a load from there raises."""
    with closing(open_store(url)) as store, pytest.raises(StoreUnavailable) as raised:
        store.call(Load(KEY))
    return raised.value


def test_a_client_with_a_certificate_is_let_in(node, options):
    """rediss:// with a CA and a client certificate, as the user who may do the least."""
    with closing(open_store(f"rediss://{LOGIN}127.0.0.1:{node.other_port}?{options}")) as store:
        store.call(next_number(KEY, store.call(Load(KEY))))

        assert b"1" == store.call(Load(KEY)).value


@pytest.mark.parametrize("wrong", ["no client certificate", "unknown authority", "another host", "no TLS"])
def test_whoever_is_not_let_in_is_told_that_it_is_tls(node, certificates, own, options, wrong):
    """The reason is one of its own, and no file name or password is shown."""
    host = f"{LOGIN}127.0.0.1:{node.other_port}"
    url = {
        "no client certificate": f"rediss://{host}?ssl_ca_certs={certificates.bundle}",
        "unknown authority": f"rediss://{host}?ssl_certfile={own}&ssl_keyfile={own}",
        "another host": f"rediss://{LOGIN}localhost:{node.other_port}?{options}",
        "no TLS": f"rediss://{LOGIN}127.0.0.1:{node.port}?{options}",
    }[wrong]

    error = failure_of(url)

    expected = {
        # With TLS 1.3 the server says no after the handshake, and may hang up before that word is read.
        "no client certificate": ("tls_failed", "connection_failed"),
        # A server without TLS takes the client's greeting for the beginning of something longer.
        "no TLS": ("timed_out",),
    }
    assert error.reason in expected.get(wrong, ("tls_failed",))
    assert own not in str(error)


def test_a_plain_client_of_a_tls_port_is_not_let_in(node):
    """redis:// to a port that speaks TLS ends at once."""
    assert failure_of(f"redis://{LOGIN}127.0.0.1:{node.other_port}").reason in ("connection_failed", "protocol_error")


def test_a_missing_file_is_noticed_at_the_first_call(node, options):
    """A certificate that is not there is no reason to bring down a login service that starts."""
    url = f"rediss://{LOGIN}127.0.0.1:{node.other_port}?{options.replace('good.pem', 'gone.pem')}"

    assert failure_of(url).reason in ("connection_failed", "tls_failed")


def test_options_of_tls_are_for_tls():
    """They would be without effect elsewhere."""
    with pytest.raises(ConfigurationError, match="it has an option that is not known"):
        open_store("redis+sentinel://h/s?ssl_ca_certs=ca.pem")


@pytest.mark.once
def test_a_cluster_with_tls(binary_for, tmp_path, certificates, own, options, runner):
    """rediss+cluster://: the ports that the nodes name to each other's clients are those that speak TLS."""
    tls_port = free_port()
    config = ["cluster-enabled yes", "cluster-port {other}", "tls-cluster yes"]
    node = Node(binary_for("tls"), tmp_path / "node", [*config, *tls_lines(tls_port, certificates, own)])
    node.start()
    try:
        node.ask("CLUSTER", "ADDSLOTSRANGE", 0, SLOTS - 1)
        wait_until(lambda: b"cluster_state:ok" in node.ask("CLUSTER", "INFO"), what="it serves its slots")
        url = f"rediss+cluster://127.0.0.1:{tls_port}?{options}"
        with closing(open_store(url)) as store:
            store.call(next_number(KEY, store.call(Load(KEY))))
            assert (KEY,) == store.call(ListDue(5))

        async def value() -> bytes | None:
            async_store = open_async_store(url)
            try:
                return (await async_store.call(Load(KEY))).value
            finally:
                await async_store.close()

        assert b"1" == runner.run(value())
    finally:
        node.kill()


@pytest.mark.once
def test_sentinel_with_tls(binary_for, tmp_path, certificates, own, options):
    """rediss+sentinel://: the sentinels speak TLS, and so does the primary that they name."""
    primary_port, sentinel_port = free_port(), free_port()
    primary = Node(binary_for("tls"), tmp_path / "primary", tls_lines(primary_port, certificates, own))
    primary.start()
    watching = [
        *tls_lines(sentinel_port, certificates, own),
        f"sentinel monitor {SERVICE} 127.0.0.1 {primary_port} 1",
    ]
    sentinel = Node(binary_for("tls"), tmp_path / "sentinel", watching, is_sentinel=True)
    try:
        sentinel.start()
        with closing(open_store(f"rediss+sentinel://127.0.0.1:{sentinel_port}/{SERVICE}?{options}")) as store:
            store.call(next_number(KEY, store.call(Load(KEY))))

            assert b"1" == store.call(Load(KEY)).value
    finally:
        sentinel.kill()
        primary.kill()
