"""docs/faults.md: what is seen of each fault, as the tests see it.

The page is made of what the tests observe and is compared with it. After a change that is meant, write it anew:
``PHR_REFRESH_WRITE_DOCS=1 pytest tests/proof/test_edges_redis.py tests/proof/test_edges_upstream.py``.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Final

from . import edges_redis, edges_upstream_cases

PAGE: Final = Path(__file__).parents[2] / "docs" / "faults.md"
#: Whether this run writes the page anew.
IS_WRITTEN: Final = bool(os.environ.get("PHR_REFRESH_WRITE_DOCS"))
_HEAD: Final = "| fault | login | status | refresh | warnings in the log | afterwards |"
_RULE: Final = "|---|---|---|---|---|---|"
_TITLES: Final = {
    "store": "Redis",
    "session": "The upstream, when a session is asked for",
    "kick-off": "The upstream, at the kick-off",
    "status": "The upstream, when the status is asked for",
}
_INTRODUCTION: Final = """\
# Faults at the edges

What a login, a status and a refresh say while something at the edge of phr-refresh is broken, what the log says, and
what becomes of the patients afterwards. **This page is written by the tests**, from what they see on real sockets; they
fail if it is out of date. To write it anew:

    PHR_REFRESH_WRITE_DOCS=1 pytest tests/proof/test_edges_redis.py tests/proof/test_edges_upstream.py

How to read it:

- A login never raises. Whatever is here, it returned a receipt: its kind, and the reason in parentheses.
- "raises StoreUnavailable (read_only)" is the error's type and its `reason`. The text of such an error is
  "the store redis://host:port is unavailable (read_only); check that it runs and can be reached.", that of
  SessionUnavailable "no upstream session (http_500); try again after ...". Nothing but this library's own errors came
  out of any verb.
- Each event of the log has the prefix `phr_refresh.`; in parentheses is its reason, or that of the error it quotes.
  Only warnings are listed, those of login, worker, status and refresh together. No record of any logger at any level,
  no error and no answer held an identifier, a token or a key.
- "Afterwards" is what it took to get the data once the fault had gone, and how many kick-offs had arrived upstream by
  then. Where there are two, at least an hour lies between them.
- With Redis, the login is that of a patient never seen, the status that of a patient whose refresh began before, the
  refresh that of a third, called directly. `PhrRefresh` and `AsyncPhrRefresh` gave the same answers. Where Redis hangs
  or is late, the login had its usual budget of 50 ms, and returned by then; elsewhere it had all the time it wanted.
- The Redis here is one server. In a cluster, or behind Sentinel, what is not on a login's path may wait for several
  time-outs where several servers hang: up to a second for each of them, see [Redis](redis.md#cluster).
- With the upstream, the login and the status are those of one patient, before and after the worker's step; the refresh
  is that of another. Where the status is what is asked for, their refresh began before.
"""


@dataclass(frozen=True)
class Seen:
    """What was seen of one fault: a row of the page, without the fault's name."""

    login: str
    status: str
    refresh: str
    log: str
    afterwards: str


Rows = Mapping[tuple[str, str], Seen]


def names() -> dict[str, tuple[str, ...]]:
    """The faults of each section, in the order of the page."""
    return {"store": tuple(case.fault for case in edges_redis.CASES)} | {
        place: tuple(case.fault for case in edges_upstream_cases.CASES if case.place == place)
        for place in ("session", "kick-off", "status")
    }


def check(section: str, fault: str, seen: Seen) -> None:
    """Hold what was seen against the page; or put it there, where the environment says so."""
    if IS_WRITTEN:
        with _alone():
            rows = {**(read(PAGE.read_text()) if PAGE.exists() else {}), (section, fault): seen}
            PAGE.parent.mkdir(exist_ok=True)
            PAGE.write_text(written(rows))
    assert read(PAGE.read_text()).get((section, fault)) == seen


def written(rows: Rows) -> str:
    """The page with those of `rows` that there is a case for."""
    parts = [_INTRODUCTION]
    for section, faults in names().items():
        lines = [f"## {_TITLES[section]}", "", _HEAD, _RULE]
        for fault in faults:
            if seen := rows.get((section, fault)):
                lines.append(f"| {' | '.join([fault, *astuple(seen)])} |")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def read(page: str) -> dict[tuple[str, str], Seen]:
    """The rows of the page."""
    sections = {title: section for section, title in _TITLES.items()}
    rows, section = {}, ""
    for line in page.splitlines():
        if line.startswith("## "):
            section = sections.get(line[3:], "")
        elif line.startswith("| ") and line != _HEAD:
            fault, *cells = line[2:-2].split(" | ")
            rows[section, fault] = Seen(*cells)
    return rows


@contextmanager
def _alone() -> Iterator[None]:
    """Tests of several processes write one after the other."""
    import fcntl

    with open(Path(__file__)) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
