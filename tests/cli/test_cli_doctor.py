"""`phr-refresh doctor`: what it prints where, and its exit codes."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from phr_refresh.adapters.simulator import Simulator
from phr_refresh.adapters.stores import open_store
from phr_refresh.statemachine.effects import ListDue

SEAL_KEY = "c3ludGhldGljLWtleS1mb3ItdGVzdHMtb25seS0wMDA="


@pytest.fixture
def environ(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Of a service in which nothing is wrong that can be told apart from where its file lies."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PHR_REFRESH_")}
    store = f"sqlite:///{tmp_path / 'store.db'}"
    opened = open_store(store)
    opened.call(ListDue(1))
    opened.close()
    with Simulator() as simulator:
        yield kept | {
            "PHR_REFRESH_STORE": store,
            "PHR_REFRESH_MHV_URL": simulator.url,
            "PHR_REFRESH_APP_TOKEN": "canary-token",
            "PHR_REFRESH_AUTHORIZATION_KEY": "canary-key",
            "PHR_REFRESH_SEAL_KEYS": SEAL_KEY,
            "COLUMNS": "60",
        }


def run(environ: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the doctor in a process of its own, its output piped."""
    command = [sys.executable, "-m", "phr_refresh", "doctor", *arguments]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)


def test_all_fine_is_zero_and_a_line_for_each_finding(environ: dict[str, str]) -> None:
    """Piped, a line is whole however narrow the terminal is, and has no colours."""
    done = run(environ)
    assert (0, "") == (done.returncode, done.stderr)
    *lines, last = done.stdout.splitlines()
    assert last.startswith(f"{len(lines)} findings: ")
    assert last.endswith("0 error.")
    assert "\x1b" not in done.stdout
    assert "ok      sealing           on, with 1 key; the first one seals" in lines
    assert "canary" not in done.stdout


def test_something_wrong_is_one_with_its_remedy(environ: dict[str, str]) -> None:
    """A line says what is wrong, and after an arrow what to do."""
    done = run(environ, "--store", "redis://127.0.0.1:1")
    assert 1 == done.returncode
    expected = (
        "ERROR   store.reachable   the store is unavailable (connection refused)"
        " -> check host and port, and that it runs"
    )
    assert expected in done.stdout.splitlines()


def test_warnings_count_where_that_is_asked_for(environ: dict[str, str]) -> None:
    """`--strict`: a container that gates on the doctor may be as strict as it likes."""
    warned = environ | {"PHR_REFRESH_SEAL_KEYS": ""}
    assert (0, 1) == (run(warned).returncode, run(warned, "--strict").returncode)


def test_json_is_one_object(environ: dict[str, str]) -> None:
    """All findings with their levels, and how many there are of each."""
    done = run(environ, "--json", "--store", "memory://")
    printed = json.loads(done.stdout)
    assert 0 == done.returncode
    assert {"ok", "unknown", "warning", "error"} == set(printed["counts"])
    assert len(printed["findings"]) == sum(printed["counts"].values())
    store = next(finding for finding in printed["findings"] if finding["check"] == "store")
    assert {"check", "level", "said", "remedy"} == set(store)
    assert "warning" == store["level"]


def test_a_wrong_option_is_two(environ: dict[str, str]) -> None:
    """Usage, as with every command."""
    assert 2 == run(environ, "--nonsense").returncode


def test_help_has_an_example(environ: dict[str, str]) -> None:
    """And says what is not done."""
    assert "Example: phr-refresh doctor --store" in run(environ, "--help").stdout


def test_a_terminal_gets_columns_and_colours(environ: dict[str, str]) -> None:
    """What is said wraps within its column, and the remedy stands in a line of its own."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "phr_refresh", "doctor", "--store", "memory://"]
    with os.fdopen(ours, "rb", buffering=0) as screen:
        with subprocess.Popen(command, env=environ | {"TERM": "xterm", "COLUMNS": "60"}, stdout=theirs) as process:
            os.close(theirs)
            shown = b""
            try:
                while part := screen.read(4096):
                    shown += part
            except OSError:
                # So a terminal says that its other end is closed.
                pass
        assert 0 == process.returncode
    text = shown.decode()
    assert "\x1b[" in text
    assert "-> use sqlite:///file on one" in text
    assert max(len(line) for line in _plain(text).splitlines()) <= 60


def _plain(text: str) -> str:
    import re

    return re.sub(r"\x1b\[[0-9;]*m", "", text)
