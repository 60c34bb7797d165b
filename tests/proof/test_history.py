"""Histories: what is recorded, and what the check finds in them."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from phr_refresh import AsyncPhrRefresh, ConfigurationError, PhrRefresh, StoreUnavailable
from phr_refresh.adapters.ports import Change
from phr_refresh.adapters.simulator import Simulator
from phr_refresh.adapters.stores import open_async_store
from phr_refresh.adapters.stores.memory import MemoryStore
from phr_refresh.adapters.workers.inline import InlineWorker
from phr_refresh.testing.history import HistoryFile, RecordedStore, Verdict, check, read_history
from support.fakes import ScriptedUpstream
from support.samples import ADA, BOB, HOUR, ICN, JWT, NOON, UNHURRIED
from support.values import replace

KEY = b"of the tests"
PROGRAMS = Path(__file__).parents[1] / "programs"


def recorded(store: object, lines: list[dict[str, Any]], **options: Any) -> RecordedStore:
    """A recorded store whose clock ticks once per look."""
    ticks = count()
    return RecordedStore(store, lines.append, pseudonym_key=KEY, clock=lambda: next(ticks), **options)


def visit(store: RecordedStore, *patients: Any) -> None:
    """Refresh each patient, see it complete, log out."""
    worker = InlineWorker()
    with closing(PhrRefresh(store=store, upstream=ScriptedUpstream(jwt=JWT), worker=worker, policy=UNHURRIED)) as phr:
        for patient in patients:
            phr.refresh(patient)
            phr.status(patient)
            phr.logout(patient)


def found(lines: list[dict[str, Any]], **options: Any) -> Verdict:
    """What the check says of these lines."""
    return check(enumerate(lines, start=1), **options)


def test_a_visit_is_one_order() -> None:
    """Every load and write is a line, and the check has nothing against them."""
    lines: list[dict[str, Any]] = []
    visit(recorded(MemoryStore(), lines), ADA, BOB)
    verdict = found(lines)
    writes = sum(line["outcome"] == "written" for line in lines)
    assert (2, len(lines), writes, ()) == (verdict.patients, verdict.calls, verdict.writes, verdict.flaws)
    assert writes >= 6


def test_an_asynchronous_visit_is_one_order() -> None:
    """The same store records awaited calls."""
    lines: list[dict[str, Any]] = []

    async def work() -> None:
        store = recorded(open_async_store("memory://"), lines)
        async with AsyncPhrRefresh(store=store, upstream=ScriptedUpstream()) as phr:
            await asyncio.gather(*(phr.refresh(ADA) for _ in range(5)))
            await phr.logout(ADA)

    asyncio.run(work())
    assert (1, ()) == (found(lines).patients, found(lines).flaws)
    assert {"read", "written"} <= {line["outcome"] for line in lines}


def test_a_history_shows_no_identifier() -> None:
    """Neither the patient's key nor any identifier or token (R7)."""
    lines: list[dict[str, Any]] = []
    visit(recorded(MemoryStore(), lines), ADA)
    text = json.dumps(lines)
    assert [] == [secret for secret in (ADA.user_id, ADA.key, ICN, JWT) if secret in text]


def test_of_a_share_of_patients_each_is_whole_or_absent() -> None:
    """A share of none records nobody; half of many records some, each with all of their calls."""
    nobody: list[dict[str, Any]] = []
    visit(recorded(MemoryStore(), nobody, share=0.0), ADA)
    everybody: list[dict[str, Any]] = []
    half: list[dict[str, Any]] = []
    people = [replace(ADA, user_id=f"user-{number}") for number in range(40)]
    visit(recorded(MemoryStore(), everybody), *people)
    visit(recorded(MemoryStore(), half, share=0.5), *people)

    def calls(lines: list[dict[str, Any]]) -> dict[str, int]:
        names = [line["patient"] for line in lines]
        return {name: names.count(name) for name in names}

    assert [] == nobody
    assert 0 < len(calls(half)) < 40
    assert {name: calls(everybody)[name] for name in calls(half)} == calls(half)


def test_a_call_that_fails_has_an_unknown_outcome() -> None:
    """A write whose answer is lost may have taken effect; the line says that nobody knows."""

    class Down(MemoryStore):
        def call(self, request: Any) -> Any:
            reply = super().call(request)
            if not isinstance(request, Change):
                return reply
            raise StoreUnavailable("of the records", "reset")

    lines: list[dict[str, Any]] = []
    with pytest.raises(StoreUnavailable):
        visit(recorded(Down(), lines), ADA)
    assert {"unknown"} == {line["outcome"] for line in lines if line["op"] == "write"}
    assert () == found(lines).flaws


def test_writes_can_be_announced() -> None:
    """A process that is killed has noted what it was about to write; what it noted twice counts once."""
    lines: list[dict[str, Any]] = []
    visit(RecordedStore(MemoryStore(), lines.append, pseudonym_key=KEY, announces=True), ADA)
    outcomes = [line["outcome"] for line in lines if line["op"] == "write"]
    assert outcomes.count("begun") == outcomes.count("written") > 0
    verdict = found(lines)
    assert ((), 0, outcomes.count("written")) == (verdict.flaws, verdict.unknown, verdict.writes)
    assert 1 == found(lines[:-1]).unknown


def line(op: str, *, at: int, outcome: str, version: str = "", expected: str = "", **record: Any) -> dict[str, Any]:
    """A line of one patient, whose call took from `at` to `at + 1`."""
    essence = {
        "state": "refreshing",
        "refresh_id": "r1",
        "claimed_at": NOON,
        "window_opens_at": NOON + HOUR,
        "logouts": 0,
    }
    found = {"v": 1, "patient": "p", "op": op, "began": at, "ended": at + 1, "outcome": outcome, "now": NOON + at}
    found |= {"version": version} if version else {}
    return found | ({"expected": expected, "record": essence | record} if op == "write" else {})


def write(version: str, expected: str, at: int, **record: Any) -> dict[str, Any]:
    """An acknowledged write."""
    return line("write", at=at, outcome="written", version=version, expected=expected, **record)


def read(version: str, at: int) -> dict[str, Any]:
    """A load."""
    return line("load", at=at, outcome="read", version=version)


FLAWED = {
    "a version replaced twice": ("one order", (2, 3), [write("a", "", 0), write("b", "a", 10), write("c", "a", 20)]),
    "a version from nowhere": ("one order", (2, 3), [write("a", "", 0), read("x", 10), read("y", 20)]),
    "an old version read": ("real time", (2, 3), [write("a", "", 0), write("b", "a", 10), read("a", 20)]),
    "an older version than another read": (
        "real time",
        (3, 4),
        [write("a", "", 0), {**write("b", "a", 10), "ended": 90}, read("b", 20), read("a", 30)],
    ),
    "a second refresh inside the window": (
        "R1",
        (1, 2),
        [write("a", "", 0), write("b", "a", 10, refresh_id="r2", claimed_at=NOON + HOUR - 1)],
    ),
    "a refresh born complete": (
        "R3",
        (1, 2),
        [write("a", "", 0), write("b", "a", 10, refresh_id="r2", claimed_at=NOON + HOUR, state="complete")],
    ),
    "a logout forgotten": ("logout", (1, 2), [write("a", "", 0, logouts=2), write("b", "a", 10, logouts=1)]),
}


@pytest.mark.parametrize("case", FLAWED)
def test_a_flaw_is_found(case: str) -> None:
    """Each flaw is named by its rule, with the two lines that show it."""
    rule, numbers, lines = FLAWED[case]
    assert [(rule, numbers)] == [(flaw.rule, flaw.lines) for flaw in found(lines).flaws]


SOUND = {
    "calls that overlap": [
        write("a", "", 0),
        {**write("b", "a", 10), "ended": 90},
        read("b", 20),
        {**read("a", 15), "ended": 80},
    ],
    "a history that begins in the middle": [read("x", 0), write("a", "x", 10), read("a", 20)],
    "a write with an unknown outcome that took effect": [
        write("a", "", 0),
        line("write", at=10, outcome="unknown", expected="a"),
        read("x", 20),
        write("b", "x", 30),
        read("b", 40),
    ],
    "the last write of a process that was killed": [
        write("a", "", 0),
        line("write", at=10, outcome="begun", expected="a"),
        read("x", 20),
        write("b", "x", 30),
        read("b", 40),
    ],
    "a refresh in the next window": [write("a", "", 0), write("b", "a", 10, refresh_id="r2", claimed_at=NOON + HOUR)],
    "a patient whom the store forgot": [write("a", "", 0), write("b", "", 10)],
}


@pytest.mark.parametrize("case", SOUND)
def test_what_an_order_explains_is_no_flaw(case: str) -> None:
    """Overlapping calls, gaps and beginnings are explained."""
    assert () == found(SOUND[case]).flaws


def test_hosts_whose_clocks_differ_are_compared_with_a_tolerance() -> None:
    """A read that seems to come too late by less than the tolerance is no flaw."""
    lines = [write("a", "", 0), write("b", "a", 10), read("a", 20)]
    assert [1, 0] == [len(found(lines, tolerance=seconds).flaws) for seconds in (0, 20e-9)]


@pytest.mark.parametrize("text", ["no json", "[]", '{"v": 2}', "{}"])
def test_what_is_no_history_is_refused(tmp_path: Path, text: str) -> None:
    """The error names the file and the line."""
    (tmp_path / "history.jsonl").write_text(f"{text}\n", encoding="utf-8")
    with pytest.raises(ConfigurationError) as caught:
        list(read_history(tmp_path / "history.jsonl"))
    assert "line 1 is no line of a history of schema 1; give a file that RecordedStore wrote." in str(caught.value)


@pytest.fixture(params=["sqlite", "valkey"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A store that processes share."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'store.db'}"
    else:
        yield request.getfixturevalue("shared_server")("valkey").url


def test_processes_at_once_have_one_order(url: str, tmp_path: Path) -> None:
    """Six processes that refresh, poll and log out the same five patients leave a history without a flaw."""
    history = tmp_path / "history.jsonl"
    program = [sys.executable, str(PROGRAMS / "make_history.py"), url, str(history)]
    with ExitStack() as stack:
        simulator = stack.enter_context(Simulator(speed=100))
        environ = os.environ | {
            "PYTHONPATH": os.pathsep.join(sys.path),
            "PHR_REFRESH_MHV_URL": simulator.url,
            "PHR_REFRESH_APP_TOKEN": simulator.app_token,
            "PHR_REFRESH_AUTHORIZATION_KEY": simulator.authorization_key,
        }
        processes = [
            stack.enter_context(
                subprocess.Popen([*program, str(seed)], env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            )
            for seed in range(6)
        ]
        assert [b"ready\n"] * 6 == [process.stdout.readline() for process in processes]
        for process in processes:
            process.stdin.write(b"go\n")
            process.stdin.flush()
        for process in processes:
            process.communicate(timeout=120)
    assert [0] * 6 == [process.returncode for process in processes]
    lines = list(read_history(history))
    verdict = check(lines)
    assert (5, ()) == (verdict.patients, verdict.flaws)
    assert 6 == len({line["process"] for _, line in lines})
    assert any(line["outcome"] == "conflict" for _, line in lines)


def test_the_command_checks_a_history(tmp_path: Path) -> None:
    """`check-history` ends with 0 for a sound history and with 1 for a flawed one, whose flaws it prints."""
    sound, flawed = tmp_path / "sound.jsonl", tmp_path / "flawed.jsonl"
    file = HistoryFile(sound)
    with closing(file):
        visit(RecordedStore(MemoryStore(), file, pseudonym_key=KEY), ADA)
    flawed.write_text("".join(f"{json.dumps(item)}\n" for item in FLAWED["an old version read"][2]), encoding="utf-8")

    def command(*arguments: str) -> tuple[int, str]:
        run = [sys.executable, "-m", "phr_refresh", "check-history", *arguments]
        environ = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(run, capture_output=True, text=True, env=environ, timeout=60, check=False)
        return done.returncode, done.stdout

    assert 0 == command(str(sound))[0]
    assert "no flaw" in command(str(sound))[1]
    code, said = command(str(flawed), "--json")
    assert (1, ["real time"]) == (code, [flaw["rule"] for flaw in json.loads(said)["flaws"]])
    assert "lines 2 and 3" in command(str(flawed))[1]
