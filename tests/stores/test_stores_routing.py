"""Where commands go: the rules of `redis_routing`, followed errand by errand, without a server."""

from typing import Any

import pytest
import redis
from phr_refresh.adapters.stores.keys import RedisKeys
from phr_refresh.adapters.stores.redis_commands import RedisCommands
from phr_refresh.adapters.stores.redis_errors import unavailable
from phr_refresh.adapters.stores.redis_routing import Errand, Pause, Router
from phr_refresh.adapters.stores.redis_topology import ClusterTopology, SentinelTopology
from phr_refresh.statemachine.patient import key_of
from redis.crc import key_slot

A, B, C = "a:1", "b:2", "[::1]:3"
SLOTS = [
    [0, 5000, [b"a", 1, b"id"], [b"replica", 9, b"id"]],
    [5001, 10000, [b"b", 2, b"id"]],
    [10001, 16383, [b"::1", 3, b"id"]],
]
LAST = {A: 5000, B: 10000, C: 16383}
COMMANDS = RedisCommands()


def command_for(place: str, number: int = 0) -> tuple:
    """A load of some patient whose slot lies at `place`."""
    first = {A: 0, B: 5001, C: 10001}[place]
    keys = (key_of(f"user {n}") for n in range(100_000))
    fitting = (key for key in keys if first <= key_slot(RedisKeys().record(key).encode()) <= LAST[place])
    return next(COMMANDS.load(key, with_token=False).by_hash() for index, key in enumerate(fitting) if index == number)


ON_A, ON_B, ON_C, ALSO_ON_A = command_for(A), command_for(B), command_for(C), command_for(A, 1)
WAIT = ("WAIT", 1, 500)


class Net:
    """Answers errands: each place as its script says, one entry for each command; b"ok" beyond. `log` has it all."""

    def __init__(self, **scripts: list[Any]) -> None:
        self.scripts = scripts
        self.log: list[Any] = []

    def run(self, router: Router, *commands: tuple, met: tuple | None = None) -> list:
        """The replies to `commands`."""
        journey = router.deliver(list(commands), met=met)
        try:
            stop = next(journey)
            while True:
                stop = journey.send(self._at(stop))
        except StopIteration as end:
            return end.value

    def _at(self, stop: list[Errand] | Pause) -> list[list]:
        if isinstance(stop, Pause):
            self.log.append(stop.seconds)
            return []
        self.log.append([(errand.place, [command[0] for command in errand.commands]) for errand in stop])
        return [[self._reply(errand.place, command) for command in errand.commands] for errand in stop]

    def _reply(self, place: str, command: tuple) -> Any:
        if command[:2] == ("CLUSTER", "SLOTS"):
            return self.scripts.get("slots", {}).get(place, SLOTS) if "slots" in self.scripts else SLOTS
        script = self.scripts.get({A: "a", B: "b", C: "c"}.get(place, place), [])
        return script.pop(0) if script else b"ok"


@pytest.fixture
def router() -> Router:
    """Of a cluster that has been asked for its slots."""
    made = Router(ClusterTopology([A, B, C]))
    Net().run(made, ON_A)
    return made


def where(log: list) -> list:
    """Of each stop the places, or the pause."""
    return [stop if isinstance(stop, float) else [place for place, _ in stop] for stop in log]


def slot_of(command: tuple) -> int:
    """The slot of its key."""
    return key_slot(command[3].encode())


def moved(command: tuple, place: str) -> redis.exceptions.MovedError:
    """A MOVED for it."""
    return redis.exceptions.MovedError(f"{slot_of(command)} {place}")


def test_the_slots_are_asked_for_once():
    """The first command asks one node where things lie; later ones know."""
    router, net = Router(ClusterTopology([A])), Net()

    assert [b"ok"] == net.run(router, ON_B)
    assert [b"ok"] == net.run(router, ON_C)
    assert [[A], [B], [C]] == where(net.log)


def test_commands_go_together_to_each_node(router):
    """However many patients: one errand for each node, all at the same time, the replies in the order asked for."""
    net = Net(a=[b"1", b"4"], b=[b"3"], c=[b"2"])

    assert [b"1", b"2", b"3", b"4"] == net.run(router, ON_A, ON_C, ON_B, ALSO_ON_A)
    assert [[(A, ["EVALSHA", "EVALSHA"]), (C, ["EVALSHA"]), (B, ["EVALSHA"])]] == net.log


def test_due_asks_all_shards_at_once(router):
    """256 shards over three nodes are three errands of one stop."""
    net = Net()

    net.run(router, *(command.by_hash() for command in COMMANDS.due(5)))

    assert [256] == [sum(len(commands) for _, commands in stop) for stop in net.log]
    assert {A, B, C} == set(where(net.log)[0])


def test_a_slot_that_moved_is_followed_and_remembered(router):
    """MOVED names the new node; the next command goes there at once."""
    net = Net(a=[moved(ON_A, B)])

    assert [b"ok"] == net.run(router, ON_A)
    assert [b"ok"] == net.run(router, ON_A)
    assert [[A], [B], [B]] == where(net.log)


def test_a_move_to_the_same_host_needs_no_name(router):
    """A node that knows no address of its own leaves the host out."""
    net = Net(a=[moved(ON_A, ":7")])

    net.run(router, ON_A)

    assert [[A], ["a:7"]] == where(net.log)


def test_a_key_that_moves_just_now_is_asked_for_once(router):
    """ASK sends one command to the other node, with ASKING before it; the slot stays where it was."""
    net = Net(a=[redis.exceptions.AskError(f"{slot_of(ON_A)} {B}")], b=[b"OK", b"there"])

    assert [b"there"] == net.run(router, ON_A)
    assert [[(A, ["EVALSHA"])], [(B, ["ASKING", "EVALSHA"])]] == net.log
    assert A == router.place_of(ON_A)


def test_endless_redirections_end(router):
    """Two nodes that name each other are believed a few times."""
    net = Net(a=[moved(ON_A, B)] * 50, b=[moved(ON_A, A)] * 50)

    [reply] = net.run(router, ON_A)

    assert isinstance(reply, redis.exceptions.MovedError)
    assert 9 == len(net.log)


def test_a_slot_half_moved_is_waited_for(router):
    """TRYAGAIN is tried again after growing pauses."""
    net = Net(a=[redis.exceptions.TryAgainError("Multiple keys request during rehashing of slot")] * 3)

    assert [b"ok"] == net.run(router, ON_A)
    assert [[A], 0.005, [A], 0.01, [A], 0.02, [A]] == where(net.log)


def test_a_slot_that_stays_half_moved_is_given_up(router):
    """After two thirds of a second the caller learns of it."""
    script_error = redis.ResponseError("Script attempted to access a non local key in a cluster node")
    net = Net(a=[script_error] * 50)

    [reply] = net.run(router, ON_A)

    assert "cluster_resharding" == unavailable("redis", reply).reason
    assert 0.635 == pytest.approx(sum(stop for stop in where(net.log) if isinstance(stop, float)))


def test_a_broken_connection_is_tried_again_where_things_lie_now(router):
    """A dead node's replica has taken over: others know, and the command is sent there."""
    after = [[0, 5000, [b"a2", 1, b"id"]], *SLOTS[1:]]
    net = Net(a=[redis.ConnectionError("refused")], slots={B: after, C: after})

    assert [b"ok"] == net.run(router, ON_A)
    assert [A] == where(net.log)[0]
    assert where(net.log)[1] in ([B], [C])
    assert [["a2:1"]] == where(net.log)[2:]


def test_a_node_that_stays_dead_is_tried_twice(router):
    """Where nobody has taken over, the second refusal is the answer: nobody waits for a failover."""
    net = Net(a=[redis.ConnectionError("refused")] * 9)

    [reply] = net.run(router, ON_A)

    assert "connection_failed" == unavailable("redis", reply).reason
    assert [1, 1, 1] == [len(stop) for stop in net.log]


def test_a_time_out_is_not_tried_again(router):
    """Who waited once has waited enough; the next one asks other nodes first, and what did not time out is known."""
    net = Net(a=[redis.TimeoutError("slow")])

    replies = net.run(router, ON_A, ON_B)
    net.run(router, ON_B)

    assert ["TimeoutError", "bytes"] == [type(reply).__name__ for reply in replies]
    assert [A, B] == where(net.log)[0]
    assert where(net.log)[1] in ([B], [C])
    assert [[B]] == where(net.log)[2:]


def test_of_several_commands_none_is_repeated_after_a_time_out(router):
    """One node hangs and another sends elsewhere: the caller has waited for the first one already."""
    net = Net(a=[redis.TimeoutError("slow")], b=[moved(ON_B, C)])

    net.run(router, ON_A, ON_B)

    assert [[A, B]] == where(net.log)


def test_asking_where_things_lie_ends_with_a_time_out():
    """A second host that hangs would cost a second time-out."""
    slow = redis.TimeoutError("slow")
    router, net = Router(ClusterTopology([A, B, C])), Net(slots={A: slow})

    assert [slow] == net.run(router, ON_A)
    assert [b"ok"] == net.run(router, ON_A)
    assert [[A], [B], [A]] == where(net.log)


def test_hosts_that_refuse_are_passed_over():
    """Of the URL's hosts the first that answers will do; three are asked, at most."""
    refused = redis.ConnectionError("refused")
    router, net = Router(ClusterTopology(["x:1", "y:1", A])), Net(slots={"x:1": refused, "y:1": refused})
    assert [b"ok"] == net.run(router, ON_A)
    assert [["x:1"], ["y:1"], [A], [A]] == where(net.log)

    router, net = Router(ClusterTopology([A, B, C, "x:1"])), Net(slots=dict.fromkeys([A, B, C, "x:1"], refused))
    assert [refused] == net.run(router, ON_A)
    assert [[A], [B], [C]] == where(net.log)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ([], "cluster_unavailable"),
        (SLOTS[1:], "cluster_unavailable"),
        (redis.ResponseError("This instance has cluster support disabled"), "not_a_cluster"),
        (redis.exceptions.NoPermissionError("this user has no permissions"), "not_permitted"),
    ],
    ids=["no slots", "slots missing", "no cluster", "no permission"],
)
def test_a_cluster_that_cannot_be_used_gives_its_reason(reply, reason):
    """A node outside of any cluster, a slot that nobody serves, a user who may not ask."""
    [error] = Net(slots={A: reply}).run(Router(ClusterTopology([A])), ON_A)

    assert reason == unavailable("redis", error).reason


def test_a_wait_follows_its_write(router):
    """WAIT goes to the node of the command before it, and again with it where that one is sent elsewhere."""
    net = Net(a=[moved(ON_A, C), 5], c=[b"again", 1, b"c"])

    assert [b"again", 1, b"ok", b"ok"] == net.run(router, ON_A, WAIT, ON_B, WAIT)
    assert [
        [(A, ["EVALSHA", "WAIT"]), (B, ["EVALSHA", "WAIT"])],
        [(C, ["EVALSHA", "WAIT"])],
    ] == net.log


def test_what_a_direct_call_met_is_not_asked_for_again(router):
    """A redirection met outside goes on from there."""
    net = Net()

    assert [b"ok"] == net.run(router, ON_A, met=(A, moved(ON_A, B)))
    assert [[B]] == where(net.log)


@pytest.mark.parametrize(
    "error",
    [
        redis.exceptions.NoScriptError("No matching script"),
        redis.AuthenticationError("invalid username-password pair"),
        redis.exceptions.MaxConnectionsError("Too many connections"),
        redis.exceptions.BusyLoadingError("Redis is loading the dataset in memory"),
        redis.ResponseError("WRONGTYPE Operation against a key"),
        ValueError("garbage"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_answer_is_an_answer(router, error):
    """What says nothing about where things lie is given back as it is."""
    net = Net(a=[error])

    assert [error] == net.run(router, ON_A)
    assert [[A]] == where(net.log)


# Sentinel.


def sentinels(*names: str) -> Router:
    """A router that asks these sentinels."""
    return Router(SentinelTopology(names, "login"))


def test_a_sentinel_names_the_primary():
    """Asked once; everything goes to the one that it names."""
    router, net = sentinels("s1", "s2"), Net(s1=[[b"a", b"1"]])

    assert [b"ok", b"ok"] == net.run(router, ON_A, ON_B)
    net.run(router, ON_C)
    assert [[("s1", ["SENTINEL"])], [(A, ["EVALSHA", "EVALSHA"])], [(A, ["EVALSHA"])]] == net.log


@pytest.mark.parametrize(
    "error",
    [redis.ConnectionError("broken"), redis.exceptions.ReadOnlyError("this is a replica now")],
    ids=["dead", "demoted"],
)
def test_after_a_failover_the_sentinels_are_asked_again(error):
    """A primary that is gone, or none any more, is tried once more under its new name."""
    router = sentinels("s1")
    net = Net(s1=[[b"a", b"1"], [b"b", b"2"]], a=[error])

    assert [b"ok"] == net.run(router, ON_A)
    assert [["s1"], [A], ["s1"], [B]] == where(net.log)


def test_a_sentinel_that_hangs_is_asked_last():
    """It costs one call a time-out; the next one asks another."""
    router, slow = sentinels("s1", "s2"), redis.TimeoutError("slow")
    net = Net(s1=[slow], s2=[[b"a", b"1"]])

    assert [slow] == net.run(router, ON_A)
    assert [b"ok"] == net.run(router, ON_A)
    assert [["s1"], ["s2"], [A]] == where(net.log)


def test_a_service_that_no_sentinel_knows_is_named():
    """A name mistyped in the URL has a reason of its own."""
    [error] = Net(s1=[None]).run(sentinels("s1"), ON_A)

    assert "service_unknown" == unavailable("redis", error).reason
