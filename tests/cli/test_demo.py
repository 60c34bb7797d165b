"""The demo is the main job: it runs the whole sequence over real HTTP and keeps its promises."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.once


def demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    """One run of the demo in a process of its own."""
    command = [sys.executable, "-m", "phr_refresh", "demo", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_demo_keeps_its_promises_in_time() -> None:
    """Five patients, three tabs each: all complete, one in part, nobody refreshed twice, in under 15 seconds."""
    done = demo("--json")
    said = json.loads(done.stdout)
    assert (0, "") == (done.returncode, done.stderr)
    assert (5, 5, 1, 1) == (said["patients"], said["completed"], said["partial"], said["not_eligible"])
    assert (5, 5, 10) == tuple(said["upstream_calls"][endpoint] for endpoint in ("login", "refresh", "fhir"))
    assert 5 <= said["upstream_calls"]["status"] <= 5 * (said["seconds"] + 1)
    assert (0, 0, []) == (said["duplicate_refreshes"], said["simultaneous_logins"], said["broken_promises"])
    assert said["seconds"] < 15


@pytest.mark.parametrize("kind", ["sqlite", "valkey"])
def test_a_second_demo_on_the_same_store_starts_nothing(kind: str, tmp_path: Path, shared_server) -> None:
    """A second run inside the window finds everybody fresh: no session is created, no refresh is kicked off."""
    url = f"sqlite:///{tmp_path / 'demo.db'}" if kind == "sqlite" else shared_server(kind).url
    first, second = (json.loads(demo("--patients", "2", "--store", url, "--json").stdout) for _ in range(2))
    assert (2, 2) == (first["upstream_calls"]["login"], first["upstream_calls"]["refresh"])
    assert (0, 0) == (second["upstream_calls"]["login"], second["upstream_calls"]["refresh"])
    assert (2, 2, []) == (second["completed"], second["already_fresh"], second["broken_promises"])


def test_the_demo_prints_plain_lines_when_piped() -> None:
    """Piped, the demo prints a line per change, one patient's sequence diagram and a summary, without escape codes."""
    done = demo("--patients", "1", "--tabs", "1")
    lines = done.stdout.splitlines()
    assert 0 == done.returncode
    assert "\x1b" not in done.stdout
    assert "patient 1: refreshing" in lines
    assert "sequenceDiagram" in lines
    assert "Duplicate refreshes: 0." in lines
    assert "Every promise was kept." == lines[-1]
