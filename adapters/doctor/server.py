"""Checks of Redis or Valkey servers: what the ACL user may do, version, role, eviction, persistence, clocks."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from redis import exceptions

from ...statemachine.policy import Policy
from ..stores.inspection import Ask, Inspection, Server
from ..stores.redis_acl import COMMANDS
from ..stores.redis_errors import REDIS_ERRORS
from .findings import Findings, Level, error, ok, unknown, warning
from .store import forbidden_command, trial_key

_OLDEST: Final = (6, 2)
_FULL: Final = 0.9
#: A failover to a server whose clock is ahead opens windows early, by so much.
_NODES_SECONDS: Final = 1.0
_MEGABYTE: Final = 1_048_576


@dataclass(frozen=True, slots=True)
class Told:
    """What one server tells. `info`: INFO with the setting `save`; empty if the store's user may not ask for it.

    `name` is empty where it is the only server. `skew`: its clock less this host's in seconds, None if it may not tell.
    `lacking`: the ACL rules that the store's user needs and has not.
    """

    name: str
    is_primary: bool
    info: Mapping[str, Any]
    skew: float | None = None
    lacking: tuple[str, ...] = ()


def check_servers(url: str, policy: Policy) -> Findings:
    """All checks of the servers behind `url`, which is one of Redis. Those that do not answer are named."""
    try:
        inspection = Inspection.of(url)
    except REDIS_ERRORS:
        # The store has just told why.
        return
    servers: list[Told] = []
    for server in inspection.servers:
        try:
            with inspection.connected(server) as ask:
                servers.append(_told(ask, inspection, server, policy))
        except REDIS_ERRORS:
            # Of one alone the store has told why.
            if inspection.target.kind != "server":
                said = f"{server.place} does not answer"
                yield error("store.nodes", said, "bring it back, or take it out of the arrangement")
    primaries = [one for one in servers if one.is_primary]
    yield from _one_or_each(primaries, check_acl)
    if not all(one.info for one in servers):
        remedy = "grant +info to the ACL user, or look with another"
        yield unknown("store.server", "version, eviction, persistence and role: INFO is forbidden", remedy)
    told = [one for one in primaries if one.info]
    yield from _one_or_each(told, check_info)
    if told:
        fewest = min(int(one.info.get("connected_slaves", 0)) for one in told)
        yield from _check_replicas(fewest, policy.claim_replicas, is_alone=inspection.target.kind == "server")
    yield from check_clocks([one.skew for one in servers if one.skew is not None])
    yield from _check_sentinels(*inspection.sentinels)


def _told(ask: Ask, inspection: Inspection, server: Server, policy: Policy) -> Told:
    info = _asked(ask, "INFO") or {}
    saves = info and (_asked(ask, "CONFIG GET", "save") or {})
    began = time.time()
    clock = _asked(ask, "TIME")
    skew = None if clock is None else clock[0] + clock[1] / 1e6 - (began + time.time()) / 2
    lacking = tuple(_lacking(ask, inspection, server, policy)) if server.is_primary else ()
    return Told(server.place if len(inspection.servers) > 1 else "", server.is_primary, info | saves, skew, lacking)


def _asked(ask: Ask, *command: str) -> Any:
    try:
        return ask(*command)
    except exceptions.ResponseError as refused:
        # Or renamed away, as managed servers do: not known is no fault.
        if isinstance(refused, exceptions.NoPermissionError) or "unknown command" in str(refused).lower():
            return None
        raise


def _lacking(ask: Ask, inspection: Inspection, server: Server, policy: Policy) -> Iterator[str]:
    """Try each command of the rule, under a key that no patient has."""
    index, head = inspection.shard_at(server)
    key = trial_key()
    names = {"index": index, "key": key, "record": f"{head}{key}", "token": f"{index.removesuffix('due')}t:{key}"}
    kind = inspection.target.kind
    needed = {"wait": policy.claim_replicas > 0, "asking": kind == "cluster", "role": kind == "sentinel"}
    for command, (_, trial) in COMMANDS.items():
        try:
            if trial and needed.get(command, True):
                ask(*trial.format_map(names).split())
        except exceptions.NoPermissionError as refused:
            named = forbidden_command(refused)
            yield f"+{named or command}" if named or "key" not in str(refused) else f"~{inspection.target.prefix}:*"
        except (exceptions.ConnectionError, exceptions.TimeoutError):
            raise
        except REDIS_ERRORS:
            # A replica's READONLY, a script unknown: whatever it is, the ACL has let it pass.
            continue


def _one_or_each(servers: Sequence[Told], check: Callable[[Told], Findings]) -> Findings:
    """Of each thing that `check` looks at: one finding where all servers are fine, else one for each that is not."""
    for found in zip(*map(check, servers), strict=True):
        bad = [each for each in zip(servers, found, strict=True) if each[1].level is not Level.OK]
        for server, finding in bad:
            yield replace(finding, said=f"{server.name}: {finding.said}") if server.name else finding
        if not bad:
            yield found[0]


def check_acl(server: Told) -> Findings:
    """Whether all that the store does is allowed."""
    if server.lacking:
        remedy = "add that to its ACL rule; acl_rule() of adapters.stores.redis_acl gives a whole one"
        yield error("store.acl", f"the store's user lacks {' '.join(dict.fromkeys(server.lacking))}", remedy)
    else:
        yield ok("store.acl", "the store's user may do all that the store does")


def check_info(server: Told) -> Findings:
    """One finding each: version, role, eviction, persistence, connections."""
    info = server.info
    yield from (*_check_role(info), *_check_memory(info), *_check_persistence(info))
    used, most = info.get("connected_clients"), info.get("maxclients")
    if used is None or most is None:
        yield ok("store.connections", f"{used or 'some'} connections")
    elif used > _FULL * most:
        remedy = "raise maxclients, or lower ?max_connections of the processes"
        yield warning("store.connections", f"{used} of {most} connections are taken", remedy)
    else:
        yield ok("store.connections", f"{used} of {most} connections are taken")


def _check_role(info: Mapping[str, Any]) -> Findings:
    version = str(info.get("redis_version", ""))
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if "valkey_version" in info:
        yield ok("store.server", f"Valkey {info['valkey_version']}")
    elif not numbers:
        yield unknown("store.server", "it does not tell its version", "see that it is Redis 6.2 or later, or Valkey")
    elif numbers < _OLDEST:
        yield error("store.server", f"Redis {version} is too old", "run Redis 6.2 or later, or Valkey")
    else:
        yield ok("store.server", f"Redis {version}")
    if info.get("role") == "slave":
        of = f"{info.get('master_host')}:{info.get('master_port')}"
        yield error("store.role", f"connected to a replica of {of}: it takes no writes", "connect to the primary")
    else:
        yield ok("store.role", "connected to the primary")


def _check_memory(info: Mapping[str, Any]) -> Findings:
    policy, limit, used = info.get("maxmemory_policy"), info.get("maxmemory"), info.get("used_memory") or 0
    size = f"maxmemory {limit // _MEGABYTE} MB" if limit else "no maxmemory"
    if policy is None or limit is None:
        yield unknown("store.eviction", "it does not tell maxmemory-policy", "see that it is noeviction")
    elif policy != "noeviction":
        lost = "all our keys have a TTL, so it may drop them, and with them windows (R1) and sessions"
        said = f"maxmemory-policy is {policy} with {size}: {lost}"
        yield (error if limit else warning)("store.eviction", said, "set maxmemory-policy noeviction")
    elif limit and used > _FULL * limit:
        said = f"{used / limit:.0%} of {size} is used: writes will be refused"
        yield warning("store.eviction", said, "give it more memory, or keep what else it holds elsewhere")
    else:
        yield ok("store.eviction", f"noeviction, {size}")


def _check_persistence(info: Mapping[str, Any]) -> Findings:
    saves = info.get("save")
    files = {"aof_last_write_status": "append-only file", "rdb_last_bgsave_status": "last snapshot"}
    broken = [file for name, file in files.items() if info.get(name) == "err"]
    if "aof_enabled" not in info:
        yield unknown("store.persistence", "it does not tell", "see that appendonly is yes")
    elif broken:
        said = f"its {broken[0]} could not be written: it may refuse writes"
        yield error("store.persistence", said, "look at the server's log and at the space on its disk")
    elif info["aof_enabled"]:
        yield ok("store.persistence", "append-only file")
    elif saves:
        said = f"snapshots only (save {saves}): a restart forgets the windows since the last one (R1)"
        yield warning("store.persistence", said, "set appendonly yes")
    elif saves is None:
        said = "no append-only file: a restart may forget windows (R1)"
        yield warning("store.persistence", said, "set appendonly yes")
    else:
        said = "neither append-only file nor snapshots: a restart forgets all (R1)"
        yield error("store.persistence", said, "set appendonly yes")


def _check_replicas(fewest: int, wanted: int, *, is_alone: bool) -> Findings:
    if fewest < wanted:
        said = f"{fewest} replicas, and Policy.claim_replicas wants {wanted}: no kick-off will be sent"
        yield error("store.replicas", said, "bring the replicas back, or lower Policy.claim_replicas")
    elif fewest:
        yield ok("store.replicas", f"{fewest} or more for each primary")
    elif not is_alone:
        yield warning("store.replicas", "a primary has no replica: nothing takes over for it", "add one")


def check_clocks(skews: Sequence[float]) -> Findings:
    """How far the servers' clocks are apart, by how far each is ahead of this host's."""
    spread = max(skews) - min(skews) if len(skews) > 1 else None
    if spread is not None and spread > _NODES_SECONDS:
        said = f"the servers' clocks are {spread:.1f} s apart: a failover may open a window that much early (R1)"
        yield error("store.clocks", said, "keep them by NTP")
    elif spread is not None:
        yield ok("store.clocks", f"{len(skews)} servers agree within {max(spread, 0.1):.1f} s")


def _check_sentinels(answering: int, of: int) -> Findings:
    said = f"{answering} of {of} sentinels answer"
    if 2 * answering <= of and of:
        yield error("store.sentinels", f"{said}: no majority, no failover", "bring them back")
    elif answering < of:
        yield warning("store.sentinels", said, "bring them back")
    elif of:
        yield ok("store.sentinels", said)
