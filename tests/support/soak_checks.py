"""What a soak must show, checked over what the upstream saw, what callers were told, and what the store was asked."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from phr_refresh.statemachine.record import RefreshRecord
from phr_refresh.testing.history import check, read_history

from .soak_host import WINDOW_SECONDS

Truth = Mapping[str, Mapping[str, Any]]
_UNDER_WAY = ("in_progress", "joined")
#: Between a kick-off that is claimed and its arrival: `decision_age`, and time to connect.
_ARRIVES_WITHIN = 3000


def violations(truth: Truth, told: list[dict[str, Any]], records: Mapping[str, RefreshRecord]) -> Iterator[str]:
    """A sentence for each broken promise."""
    yield from _too_early(truth)
    yield from _receipts_that_differ(told)
    yield from _late_receipts(told)
    yield from _stuck(records)
    yield from _lost(truth, records)


def _too_early(truth: Truth) -> Iterator[str]:
    for user, seen in truth.items():
        for first, second in zip(seen["kick_offs"], seen["kick_offs"][1:], strict=False):
            if second - first < WINDOW_SECONDS * 1000:
                yield f"R1: {user} was kicked off twice within {second - first} ms"
        if seen["simultaneous"]:
            yield f"R2: {user} had {seen['simultaneous']} sessions created while another was"


def _receipts_that_differ(told: list[dict[str, Any]]) -> Iterator[str]:
    """Receipts of one claim carry one id, and no id has two claims."""
    ids: dict[tuple[str, int], set[str]] = defaultdict(set)
    claims: dict[str, set[int]] = defaultdict(set)
    for line in told:
        if line.get("refresh_id") and line.get("claimed_at"):
            ids[line["user"], line["claimed_at"]].add(line["refresh_id"])
            claims[line["refresh_id"]].add(line["claimed_at"])
    for (user, _), found in ids.items():
        if len(found) > 1:
            yield f"receipts: {user} was told of {sorted(found)} for one claim"
    for name, times in claims.items():
        if len(times) > 1:
            yield f"receipts: {name} was claimed at {sorted(times)}"


def _late_receipts(told: list[dict[str, Any]]) -> Iterator[str]:
    for line in told:
        if line.get("kind") in _UNDER_WAY and line["deadline_at"] < line["began"] * 1000:
            yield f"R4: {line['user']} was told that a refresh is under way after its deadline"


def _stuck(records: Mapping[str, RefreshRecord]) -> Iterator[str]:
    yield from (f"R4: {user} is still refreshing" for user, record in records.items() if record.state == "refreshing")


def _lost(truth: Truth, records: Mapping[str, RefreshRecord]) -> Iterator[str]:
    """At the end, what the upstream completed of the last claim is complete in the store, or was and has become old."""
    for user, seen in truth.items():
        record, kick_offs = records[user], seen["kick_offs"]
        if not kick_offs or record.claimed_at is None or record.claimed_at > kick_offs[-1]:
            continue
        completed = seen["fed_at"] is not None and seen["fed_at"] >= kick_offs[-1]
        if completed and record.completed_at is None:
            yield f"lost: {user}'s last refresh has completed, and the store says {record.state}, {record.failure}"


def figures(history: Path, truth: Truth) -> dict[str, Any]:
    """What happened to all refreshes, whoever saw to them."""
    verdict = check(read_history(history))
    last: dict[str, dict[str, Any]] = {}
    left_late = 0
    for _, line in read_history(history):
        if line["outcome"] == "written" and line["record"]["refresh_id"]:
            record = line["record"]
            before = last.get(record["refresh_id"])
            if before and before["state"] == "refreshing" != record["state"]:
                left_late = max(left_late, line["now"] - record["deadline_at"])
            last[record["refresh_id"]] = record
    sent = sum(len(seen["kick_offs"]) for seen in truth.values())
    completed = sum(record["completed_at"] is not None for record in last.values())
    return {
        "claims": len(last),
        "kick_offs": sent,
        "most_windows_of_a_patient": max((len(seen["kick_offs"]) for seen in truth.values()), default=0),
        "ended_well_at_the_upstream": sum(seen["feeds"] for seen in truth.values()),
        "recorded_as_complete": completed,
        "left_refreshing_after_deadline_by_ms_at_most": max(left_late, 0),
        "polls": sum(len(seen["polls"]) for seen in truth.values()),
        "sessions": sum(seen["logins"] for seen in truth.values()),
        "history": {
            "calls": verdict.calls,
            "writes": verdict.writes,
            "unknown_writes": verdict.unknown,
            "flaws": [f"{flaw.patient} {flaw.rule}: {flaw.what} {flaw.lines}" for flaw in verdict.flaws],
        },
    }


def callers(told: list[dict[str, Any]]) -> dict[str, Any]:
    """What callers saw."""
    logins = [line for line in told if line["verb"] == "login"]
    millis = sorted(line["seconds"] * 1000 for line in logins)
    kinds = Counter(line["reason"] if line["kind"] == "deferred" else line["kind"] for line in logins)
    reads = [line for line in told if line["verb"] != "login"]
    return {
        "logins": len(logins),
        "median_ms": round(millis[len(millis) // 2], 2),
        "p99_ms": round(millis[len(millis) * 99 // 100], 2),
        "max_ms": round(millis[-1], 2),
        "answers": dict(kinds),
        "other_calls": len(reads),
        "other_calls_that_raised": sum("error" in line for line in reads),
    }


def told_in(path: Path) -> list[dict[str, Any]]:
    """What callers noted; a killed one may have left half a line."""
    found = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(text))
        except ValueError:
            continue
    return found
