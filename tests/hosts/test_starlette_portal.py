"""The example portal on FastAPI, started as its docstring says."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

PORTAL = Path(__file__).resolve().parents[2] / "examples" / "starlette" / "portal.py"
PATIENCE_SECONDS = 60


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Where the portal listens, with a simulator and a store of its own."""
    command = [sys.executable, str(PORTAL), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said, found = process.stdout.readline().strip().split("listening on ")
        assert "" == said
        yield found
        process.terminate()


@pytest.fixture
def browser() -> Iterator[requests.Session]:
    """Keeps cookies and follows redirects."""
    with requests.Session() as session:
        session.trust_env = False
        yield session


def test_a_visit(url: str, browser: requests.Session) -> None:
    """Login leads to the records page, whose script finds the status and, once it is complete, the vitals."""
    assert f"{url}/login" == browser.get(f"{url}/", timeout=PATIENCE_SECONDS).url
    page = browser.post(f"{url}/login", data={"user": "ada"}, timeout=PATIENCE_SECONDS)
    assert (f"{url}/records", True) == (page.url, "<phr-refresh-status" in page.text)
    assert "$" not in page.text.partition("<script")[0]
    while (vitals := browser.get(f"{url}/phr/records/vitals", timeout=PATIENCE_SECONDS)).status_code == 202:
        browser.get(f"{url}/phr/status", headers={"Prefer": "wait=10"}, timeout=PATIENCE_SECONDS)
    assert "?0" == vitals.headers["PHR-Stale"]
    assert f"{url}/login" == browser.post(f"{url}/logout", timeout=PATIENCE_SECONDS).url
    assert 401 == browser.get(f"{url}/phr/status", timeout=PATIENCE_SECONDS).status_code


def test_who_has_no_account_gets_the_page(url: str, browser: requests.Session) -> None:
    """The guest logs in; the endpoints say that there is nothing. Nobody unknown is let in."""
    assert f"{url}/login" == browser.post(f"{url}/login", data={"user": "eve"}, timeout=PATIENCE_SECONDS).url
    assert f"{url}/records" == browser.post(f"{url}/login", data={"user": "guest"}, timeout=PATIENCE_SECONDS).url
    assert "not_eligible" == browser.get(f"{url}/phr/status", timeout=PATIENCE_SECONDS).json()["code"]


def test_other_sites_cannot_log_in_or_out(url: str, browser: requests.Session) -> None:
    """A form on another site's page logs nobody in and nobody out."""
    elsewhere = {"Origin": "https://evil.example"}
    for path in ("login", "logout"):
        answer = browser.post(f"{url}/{path}", data={"user": "bob"}, headers=elsewhere, timeout=PATIENCE_SECONDS)
        assert 403 == answer.status_code
