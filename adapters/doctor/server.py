"""Checks of Redis or Valkey servers: version, eviction, persistence, roles, clocks, and what the ACL user may do."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from redis.exceptions import NoPermissionError

from ...statemachine.policy import Policy
from ..stores.inspection import Ask, Inspection, Server
from ..stores.redis_errors import REDIS_ERRORS
from .acl import check_acl
from .findings import Finding, Findings, Level, error, ok, unknown, warning

Info = Mapping[str, Any]

_OLDEST: Final = (6, 2)
_FULL: Final = 0.9
#: A failover to a server whose clock is ahead opens windows early, by so much.
_NODES_SECONDS: Final = 1.0
_MEGABYTE: Final = 1_048_576


@dataclass(frozen=True, slots=True)
class Looked:
    """One server, what it says of itself, and its clock less this host's in seconds. None: it may not tell."""

    server: Server
    info: Info | None
    skew: float | None
    saves: str | None


def check_servers(url: str, policy: Policy) -> Findings:
    """All checks of the servers behind `url`, which is one of Redis. Those that do not answer are named."""
    try:
        inspection = Inspection.of(url)
    except REDIS_ERRORS:
        # The store has just told why.
        return
    looked: list[Looked] = []
    for server in inspection.servers:
        try:
            with inspection.connected(server) as ask:
                looked.append(_look(ask, server))
                if server.is_primary:
                    yield from _named(inspection, server, check_acl(ask, inspection, server, policy))
        except REDIS_ERRORS:
            if inspection.target.kind == "server":
                # The store has told why.
                return
            said = f"{server.place} does not answer"
            yield error("store.nodes", said, "bring it back, or take it out of the arrangement")
    yield from _judged(inspection, looked, policy)


def _look(ask: Ask, server: Server) -> Looked:
    return Looked(server, _asked(ask, "INFO"), _skew(ask), _saves(ask))


def _asked(ask: Ask, *command: str) -> Any:
    try:
        return ask(*command)
    except NoPermissionError:
        return None
    except REDIS_ERRORS as failure:
        # A command that was renamed away, as managed servers do: not known is no fault.
        if "unknown command" in str(failure).lower():
            return None
        raise


def _skew(ask: Ask) -> float | None:
    began = time.time()
    asked = _asked(ask, "TIME")
    if asked is None:
        return None
    seconds, microseconds = asked
    return float(seconds + microseconds / 1e6 - (began + time.time()) / 2)


def _saves(ask: Ask) -> str | None:
    found = _asked(ask, "CONFIG GET", "save")
    return None if found is None else str(found.get("save", ""))


def _named(inspection: Inspection, server: Server, findings: Findings) -> Findings:
    for finding in findings:
        if len(inspection.servers) == 1 or finding.level is Level.OK:
            yield finding
        else:
            yield Finding(finding.check, finding.level, f"{server.place}: {finding.said}", finding.remedy)


def _judged(inspection: Inspection, looked: list[Looked], policy: Policy) -> Findings:
    told = [one for one in looked if one.info is not None]
    primaries = [one for one in told if one.server.is_primary]
    if len(told) < len(looked):
        remedy = "grant +info to the ACL user, or look with another"
        yield unknown("store.server", "version, eviction, persistence and role: INFO is forbidden", remedy)
    for check in (_version, _role, _eviction, _persistence, _connections):
        yield from _worst(inspection, primaries, check)
    if primaries:
        yield from _replicas(inspection, primaries, policy)
    yield from _clocks(looked)
    answering, all_of_them = inspection.sentinels
    if all_of_them:
        yield _sentinels(answering, all_of_them)


def _worst(inspection: Inspection, looked: list[Looked], check: Callable[[Looked], Finding]) -> Findings:
    """One finding where all servers are fine, else one for each that is not."""
    found = [(one.server, check(one)) for one in looked]
    bad = [(server, finding) for server, finding in found if finding.level is not Level.OK]
    for server, finding in bad:
        yield from _named(inspection, server, iter((finding,)))
    if found and not bad:
        yield found[0][1]


def _version(looked: Looked) -> Finding:
    info = looked.info or {}
    if "valkey_version" in info:
        return ok("store.server", f"Valkey {info['valkey_version']}")
    version = str(info.get("redis_version", ""))
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if not numbers:
        return unknown("store.server", "it does not tell its version", "see that it is Redis 6.2 or later, or Valkey")
    if numbers < _OLDEST:
        return error("store.server", f"Redis {version} is too old", "run Redis 6.2 or later, or Valkey")
    return ok("store.server", f"Redis {version}")


def _role(looked: Looked) -> Finding:
    info = looked.info or {}
    if info.get("role") == "slave":
        of = f"{info.get('master_host')}:{info.get('master_port')}"
        return error("store.role", f"connected to a replica of {of}: it takes no writes", "connect to the primary")
    return ok("store.role", "connected to the primary")


def _eviction(looked: Looked) -> Finding:
    info = looked.info or {}
    policy, limit, used = info.get("maxmemory_policy"), info.get("maxmemory"), info.get("used_memory")
    if policy is None or limit is None:
        return unknown("store.eviction", "it does not tell maxmemory-policy", "see that it is noeviction")
    size = f"maxmemory {limit // _MEGABYTE} MB" if limit else "no maxmemory"
    if policy != "noeviction":
        said = f"maxmemory-policy is {policy} with {size}"
        lost = "all our keys have a TTL, so it may drop them, and with them windows (R1) and sessions"
        level = error if limit else warning
        return level("store.eviction", f"{said}: {lost}", "set maxmemory-policy noeviction")
    if limit and used and used > _FULL * limit:
        said = f"{used / limit:.0%} of {size} is used: writes will be refused"
        return warning("store.eviction", said, "give it more memory, or keep what else it holds elsewhere")
    return ok("store.eviction", f"noeviction, {size}")


def _persistence(looked: Looked) -> Finding:
    info = looked.info or {}
    if "aof_enabled" not in info:
        return unknown("store.persistence", "it does not tell", "see that appendonly is yes")
    for name, what in (("aof_last_write_status", "append-only file"), ("rdb_last_bgsave_status", "last snapshot")):
        if info.get(name) == "err":
            said = f"its {what} could not be written: it may refuse writes"
            return error("store.persistence", said, "look at the server's log and at the space on its disk")
    if info["aof_enabled"]:
        return ok("store.persistence", "append-only file")
    remedy = "set appendonly yes"
    if looked.saves:
        said = f"snapshots only (save {looked.saves}): a restart forgets the windows since the last one (R1)"
        return warning("store.persistence", said, remedy)
    if looked.saves is None:
        return warning("store.persistence", "no append-only file: a restart may forget windows (R1)", remedy)
    return error("store.persistence", "neither append-only file nor snapshots: a restart forgets all (R1)", remedy)


def _connections(looked: Looked) -> Finding:
    info = looked.info or {}
    used, most = info.get("connected_clients"), info.get("maxclients")
    if used is None or most is None:
        return ok("store.connections", f"{used or 'some'} connections")
    if used > _FULL * most:
        said = f"{used} of {most} connections are taken"
        return warning("store.connections", said, "raise maxclients, or lower ?max_connections of the processes")
    return ok("store.connections", f"{used} of {most} connections are taken")


def _replicas(inspection: Inspection, primaries: list[Looked], policy: Policy) -> Findings:
    fewest = min(int((one.info or {}).get("connected_slaves", 0)) for one in primaries)
    if fewest < policy.claim_replicas:
        said = f"{fewest} replicas, and Policy.claim_replicas wants {policy.claim_replicas}: no kick-off will be sent"
        yield error("store.replicas", said, "bring the replicas back, or lower Policy.claim_replicas")
    elif inspection.target.kind != "server" and not fewest:
        yield warning("store.replicas", "a primary has no replica: nothing takes over for it", "add one")
    elif fewest:
        yield ok("store.replicas", f"{fewest} or more for each primary")


def _clocks(looked: list[Looked]) -> Findings:
    skews = [one.skew for one in looked if one.skew is not None]
    if len(skews) < 2:
        return
    spread = max(skews) - min(skews)
    if spread > _NODES_SECONDS:
        said = f"the servers' clocks are {spread:.1f} s apart: a failover may open a window that much early (R1)"
        yield error("store.clocks", said, "keep them by NTP")
    else:
        yield ok("store.clocks", f"{len(skews)} servers agree within {max(spread, 0.1):.1f} s")


def _sentinels(answering: int, all_of_them: int) -> Finding:
    said = f"{answering} of {all_of_them} sentinels answer"
    if answering <= all_of_them // 2:
        return error("store.sentinels", f"{said}: no majority, no failover", "bring them back")
    if answering < all_of_them:
        return warning("store.sentinels", said, "bring them back")
    return ok("store.sentinels", said)
