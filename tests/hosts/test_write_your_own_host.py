"""The page docs/write-your-own-host.md: it fits a screen, and its code is a host. `test_hosts` holds it to the rest."""

import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from phr_refresh.adapters.simulator import Simulator
from support.fleet import eventually
from support.host_own import HOST
from support.hosts import Browser, RunningHost, environment
from support.portal import icn_of

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "write-your-own-host.md").read_text(encoding="utf-8")
CODE = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
ADA = "member-1"


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    """The upstream, fifty times as fast as recorded."""
    with Simulator(speed=50) as running:
        yield running


@pytest.fixture
def portal(simulator: Simulator, tmp_path: Path) -> Iterator[RunningHost]:
    """The page's code on wsgiref."""
    with closing(HOST.start(environment(simulator, f"sqlite:///{tmp_path / 'store.db'}"))) as running:
        yield running


def test_the_page_fits_a_screen() -> None:
    """At most 45 lines of at most 120 characters; the code in it has at most twenty."""
    assert len(PAGE.splitlines()) <= 45
    assert [] == [line for line in PAGE.splitlines() if len(line) > 120]
    assert [True] == [len([line for line in code.splitlines() if line]) <= 20 for code in CODE]


def test_the_code_uses_what_the_page_is_about() -> None:
    """Host, HttpRequest, Hooks and Embedding, and the names by which the sentences below call them."""
    for name in ("Host(", "HttpRequest(", "Hooks(", "Embedding.of("):
        assert name in CODE[0]
    program = HOST.program.read_text(encoding="utf-8")
    for hook in ("logged_in", "logged_out"):
        assert f"hooks.{hook}(lambda: embedding.patient_of(user))" in PAGE
        assert f'OWN["hooks"].{hook}(lambda: OWN["embedding"].patient_of(user))' in program


def test_what_the_page_refers_to_is_there() -> None:
    """Each link leads to a file, and each file in backticks exists."""
    root = Path(__file__).resolve().parents[2]
    links = re.findall(r"\]\(([^)]+)\)", PAGE)
    assert links
    assert [] == [link for link in links if not (root / "docs" / link).exists()]
    assert [] == [path for path in re.findall(r"`(tests/[\w./]+)`", PAGE) if not (root / path).exists()]


def test_a_visit(portal: RunningHost, simulator: Simulator) -> None:
    """Nobody is told anything, a login starts the refresh, its records can be read, and after the logout nothing."""
    with Browser(portal) as browser:
        assert 401 == browser.get("status").status_code
        assert 204 == browser.log_in(ADA).status_code
        assert eventually(lambda: browser.settled()["state"] == "complete")
        vitals = browser.get("records/vitals")
        assert (200, "Bundle") == (vitals.status_code, vitals.json()["resourceType"])
        assert 429 == browser.post("refresh").status_code
        assert browser.get("phr-refresh.js").ok
        with browser.stream("events") as lines:
            assert "event: status" in list(lines)
        assert 204 == browser.log_out().status_code
        assert 401 == browser.get("records/vitals").status_code
    assert 1 == simulator.calls()["patients"][simulator.pseudonym(icn_of(ADA))]["refresh"]
