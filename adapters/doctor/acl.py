"""Which commands the store's user may not run: each is tried, under a key that no patient has."""

import re
import time
from collections.abc import Iterator
from typing import Final

from redis import exceptions

from ...statemachine.policy import Policy
from ..stores.inspection import Ask, Inspection, Server
from ..stores.redis_commands import Script
from ..stores.redis_errors import REDIS_ERRORS
from ..stores.redis_urls import RedisTarget
from .findings import Findings, error, ok
from .store import trial_key

Command = tuple[str | int, ...]

_SECONDS: Final = 30
_NAMED: Final = re.compile(r"the '([a-z|_-]+)' command")


def check_acl(ask: Ask, inspection: Inspection, server: Server, policy: Policy) -> Findings:
    """Whether all that the store does is allowed at `server`. Nothing is left behind."""
    index, head = inspection.shard_at(server)
    missing: dict[str, None] = {}
    for command in (*_commands(ask, index, head), *_others(inspection.target, policy)):
        try:
            ask(*command)
        except exceptions.NoPermissionError as refused:
            missing |= dict.fromkeys(_rules(refused, command, head))
        except (exceptions.ConnectionError, exceptions.TimeoutError):
            raise
        except REDIS_ERRORS as failure:
            # A replica's READONLY, a script unknown: whatever it is, the ACL has let it pass.
            if "NOPERM" in str(failure):
                missing |= dict.fromkeys(_rules(failure, command, head))
    if missing:
        remedy = "add that to its ACL rule; acl_rule() of adapters.stores.redis_acl gives a whole one"
        yield error("store.acl", f"the store's user lacks {' '.join(missing)}", remedy)
    else:
        yield ok("store.acl", "the store's user may do all that the store does")


def _commands(ask: Ask, index: str, head: str) -> Iterator[Command]:
    """What the scripts do, in an order that leaves nothing behind."""
    key = trial_key()
    record, token = f"{head}{key}", f"{index.removesuffix('due')}t:{key}"
    seconds = _seconds(ask)
    ends_at = (seconds + _SECONDS) * 1000
    yield ("TIME",)
    yield "EVAL", "return 1", 1, record
    yield "EVALSHA", Script.named("load").sha, 1, record
    yield "SET", record, "trial", "PXAT", ends_at
    yield "GET", record
    yield "EXISTS", record
    yield "SET", token, "trial", "PXAT", ends_at
    yield "DEL", token
    # After its record, as the store's own: whoever finds it without one takes it out.
    yield "ZADD", index, ends_at, key
    yield "ZRANGEBYSCORE", index, "-inf", "-inf", "WITHSCORES", "LIMIT", 0, 1
    yield "ZREM", index, key
    # An interval that nothing lies in.
    yield "ZREMRANGEBYSCORE", index, "+inf", "-inf"
    yield "DEL", record


def _others(target: RedisTarget, policy: Policy) -> Iterator[Command]:
    if policy.claim_replicas:
        yield "WAIT", 0, 1
    if target.kind == "cluster":
        yield ("ASKING",)
    if target.kind == "sentinel":
        yield ("ROLE",)


def _seconds(ask: Ask) -> int:
    try:
        return int(ask("TIME")[0])
    except REDIS_ERRORS:
        return int(time.time())


def _rules(refused: Exception, command: Command, head: str) -> Iterator[str]:
    """The ACL rules that would have let `command` pass."""
    text = str(refused)
    named = _NAMED.search(text)
    if named:
        yield f"+{named[1]}"
    elif "key" in text:
        yield f"~{head.partition('{')[0]}*"
    else:
        yield f"+{str(command[0]).lower()}"
