"""The user who may do the least: the rule is enough, nothing in it is too much, and what is beyond it is refused."""

from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
import redis
from phr_refresh.adapters.ports import Change, Row, Store, Written
from phr_refresh.adapters.stores import open_store
from phr_refresh.adapters.stores.keys import RedisKeys
from phr_refresh.adapters.stores.redis_acl import COMMANDS, acl_rule
from phr_refresh.statemachine.effects import ListDue, Load, LoadAll, TokenChange
from phr_refresh.statemachine.errors import ConfigurationError, StoreUnavailable
from phr_refresh.statemachine.patient import key_of
from support.redis_servers import PASSWORD, USER, Node
from support.store_load import next_number, some_keys

KEY = key_of("ada")
KEYS = RedisKeys()
MINUTE = 60_000
LESSER = "lesser"
ELSEWHERE = {"cluster|slots", "asking", "role"}


@pytest.fixture
def restrict(server) -> Iterator[Callable[[str], str]]:
    """Makes a user of the rule, with one more word, and gives the URL of that one; they are gone afterwards."""
    with closing(server.client()) as client:

        def make(word: str) -> str:
            _, name, *rule = acl_rule(user=LESSER, password=PASSWORD).split()
            client.execute_command("ACL", "SETUSER", name, *rule, word)
            return server.url.replace("redis://", f"redis://{LESSER}:p%2Fw%40%3A%25@")

        yield make
        client.execute_command("ACL", "DELUSER", LESSER)


def all_of_it(store: Store) -> list[object]:
    """Everything that a store can be asked, each branch of its scripts; the answers that a lack of rights may bend."""
    now = store.call(Load(KEY)).now
    forgotten = Change(
        key=key_of("forgotten"),
        value=b"",
        expected_version="",
        decided_at=now,
        max_age=MINUTE,
        due_at=now - 2,
        keep_until=now - 1,
    )
    store.call(forgotten)
    token = {"token_change": TokenChange.PUT, "token": b"t", "token_expires_at": now + MINUTE}
    written = store.call(next_number(KEY, Row(None, "", now), **token))
    due = tuple(store.call(ListDue(5)))
    row = store.call(Load(KEY, with_token=True))
    done = store.call(
        Change(
            key=KEY,
            value=b"2",
            expected_version=row.version,
            decided_at=now,
            max_age=MINUTE,
            due_at=None,
            keep_until=now + MINUTE,
            token_change=TokenChange.DROP,
        )
    )
    last = store.call(next_number(KEY, store.call(Load(KEY)), replicas=0, replicas_wait=1))
    return [type(written), due, row.token, type(done), type(last), store.call(LoadAll(tuple(some_keys(2))))[0].value]


def test_the_rule_is_enough(restrict):
    """As that user, everything works."""
    with closing(open_store(restrict(f"~{KEYS.prefix}:*"))) as store:
        assert [Written, (KEY,), b"t", Written, Written, None] == all_of_it(store)


@pytest.mark.parametrize("command", sorted(COMMANDS.keys() - ELSEWHERE - {"wait"}))
def test_nothing_in_the_rule_is_too_much(restrict, server, command):
    """Without any one of its commands something is refused, and the reason says so."""
    with closing(server.client()) as client:
        client.script_flush()
    # Redis 6.2 takes back no part of a command.
    with closing(open_store(restrict(f"-{command.partition('|')[0]}"))) as store:
        with pytest.raises(StoreUnavailable) as raised:
            all_of_it(store)

    assert "not_permitted" == raised.value.reason, repr(raised.value.__cause__)


def test_who_may_not_wait_is_told_of_no_replicas(restrict):
    """The write has taken effect; that it is on a replica cannot be said."""
    with closing(open_store(restrict("-wait"))) as store:
        answer = store.call(next_number(KEY, store.call(Load(KEY)), replicas=1, replicas_wait=10))

        assert (Written, False) == (type(answer), answer.is_replicated)
        assert b"1" == store.call(Load(KEY)).value


@pytest.mark.parametrize("command", ["cluster|slots", "asking"])
def test_a_cluster_needs_two_more(fleets, command):
    """Without them nothing is found, or a patient whose slot is on its way is not."""
    cluster = fleets.cluster()
    _, name, *rule = acl_rule(user=LESSER, password=PASSWORD).split()
    for node in cluster.nodes:
        node.ask("ACL", "SETUSER", name, *rule, f"-{command}")
    reasons = []

    def look() -> None:
        with closing(open_store(cluster.url.replace(USER, LESSER))) as store, pytest.raises(StoreUnavailable) as raised:
            store.call(Load(KEY))
        reasons.append(raised.value.reason)

    with closing(open_store(cluster.url)) as store:
        store.call(next_number(KEY, store.call(Load(KEY))))
    source = cluster.owner(slot := redis.crc.key_slot(KEYS.record(KEY).encode()))
    cluster.move(slot, next(node for node in cluster.nodes if node is not source), halfway=look)
    _drop_user(cluster.nodes)

    assert ["not_permitted"] == reasons


def _drop_user(nodes: list[Node]) -> None:
    for node in nodes:
        node.ask("ACL", "DELUSER", LESSER)


@pytest.mark.parametrize(
    "command",
    [
        ("GET", "other:key"),
        ("SET", "other:key", "1"),
        ("EVAL", "return redis.call('GET', 'other:key')", 0),
        ("FLUSHALL",),
        ("KEYS", "*"),
        ("SCAN", 0),
        ("CONFIG", "GET", "*"),
        ("ACL", "LIST"),
        ("CLIENT", "LIST"),
        ("SHUTDOWN",),
        ("REPLICAOF", "NO", "ONE"),
    ],
    ids=lambda command: command[0],
)
def test_what_is_beyond_the_rule_is_refused(restrict, command):
    """Keys of others, and whatever is about the server."""
    with closing(redis.Redis.from_url(restrict("-ping"))) as client:
        with pytest.raises(redis.ResponseError, match=r"permission|can't access"):
            client.execute_command(*command)


def test_the_rule_holds_no_password():
    """It may lie in a file that others read: the password's hash, or none at all."""
    assert " #" in acl_rule(password="hunter2")
    assert "hunter2" not in acl_rule(password="hunter2")
    assert acl_rule().startswith("user phr-refresh on resetpass resetchannels resetkeys ~phr:* -@all +evalsha ")


def test_the_rule_is_for_one_prefix():
    """Two services on one server do not reach each other's keys."""
    assert " ~login:* " in acl_rule(prefix="login")
    with pytest.raises(ConfigurationError, match="the prefix of the store's keys"):
        acl_rule(prefix="a b")
