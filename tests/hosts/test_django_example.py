"""The example portal on Django: started by its one command, used as a browser without scripts would."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

pytest.importorskip("django")

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 60
TOKEN = re.compile(r'name="csrfmiddlewaretoken" value="(\w+)"')


@pytest.fixture
def portal() -> Iterator[str]:
    """The address of the portal, which brings its own simulator and store."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PHR_REFRESH_")}
    command = [sys.executable, str(ROOT / "examples" / "django" / "portal.py"), "--port", "0"]
    with subprocess.Popen(
        command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        said = process.stdout.readline()
        assert said.startswith("listening on http://127.0.0.1:")
        yield said.split()[-1]
        process.terminate()
        assert 0 == process.wait(PATIENCE_SECONDS)


@pytest.fixture
def browser() -> Iterator[requests.Session]:
    """Somebody's browser."""
    with requests.Session() as session:
        session.trust_env = False
        yield session


def log_in(browser: requests.Session, portal: str, user: str) -> requests.Response:
    """Fill in the login form; the page that comes of it."""
    form = browser.get(f"{portal}/", timeout=PATIENCE_SECONDS)
    assert f"{portal}/login?next=/records" == form.url
    data = {"user": user, "csrfmiddlewaretoken": TOKEN.search(form.text)[1]}
    return browser.post(f"{portal}/login", data=data, timeout=PATIENCE_SECONDS)


def test_a_visit(portal: str, browser: requests.Session) -> None:
    """Ada logs in, her vital signs come, she asks for more too early, and logs out."""
    page = log_in(browser, portal, "ada")
    assert f"{portal}/records" == page.url
    assert '<phr-refresh-status src="/phr/"' in page.text
    while (vitals := browser.get(f"{portal}/phr/records/vitals", timeout=PATIENCE_SECONDS)).status_code != 200:
        browser.get(f"{portal}/phr/status", headers={"Prefer": "wait=5"}, timeout=PATIENCE_SECONDS)
    assert vitals.json()["entry"]
    token = TOKEN.search(page.text)[1]
    refresh = f"{portal}/phr/refresh"
    assert 403 == browser.post(refresh, timeout=PATIENCE_SECONDS).status_code
    asked = browser.post(refresh, headers={"X-CSRFToken": token}, timeout=PATIENCE_SECONDS)
    assert asked.status_code in (202, 429)
    left = browser.post(f"{portal}/logout", data={"csrfmiddlewaretoken": token}, timeout=PATIENCE_SECONDS)
    assert f"{portal}/login" == left.url
    assert 401 == browser.get(f"{portal}/phr/status", timeout=PATIENCE_SECONDS).status_code


def test_a_guest_is_let_in_and_not_eligible(portal: str, browser: requests.Session) -> None:
    """Somebody without an MHV account logs in, and is told that there is nothing; a stranger is not let in."""
    assert f"{portal}/login" == log_in(browser, portal, "mallory").url
    assert f"{portal}/records" == log_in(browser, portal, "guest").url
    answer = browser.get(f"{portal}/phr/status", timeout=PATIENCE_SECONDS)
    assert (403, "not_eligible") == (answer.status_code, answer.json()["code"])
