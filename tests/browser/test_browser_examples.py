"""The example portals, each as one command starts it, used in a real browser against a simulated upstream."""

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from phr_refresh.adapters.simulator import Fault, Simulator
from support.browser import PATIENCE_MS, open_browser
from support.fleet import eventually

pytestmark = pytest.mark.once

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
MODULES = {
    "django": ["django"],
    "flask": ["flask", "flask_login", "flask_wtf"],
    "starlette": ["starlette", "fastapi", "uvicorn", "itsdangerous", "multipart"],
}
BOB = "1098765432V654321"
#: A refresh takes a minute by the upstream's clock, which the test sets forward once it has seen what it wants.
SPEED = 0.1
MORE_THAN_A_REFRESH_SECONDS = 100.0


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One browser for this file."""
    with open_browser() as running:
        yield running


class Clock:
    """The upstream's clock."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self._ahead

    def set_forward(self) -> None:
        """Have refreshes end that run now."""
        self._ahead += MORE_THAN_A_REFRESH_SECONDS


def until_begun(simulator: Simulator, refreshes: int) -> None:
    """Wait until the upstream has begun so many refreshes: a page shows one as soon as it is to be asked for."""

    def begun() -> int:
        return sum(call.endpoint == "refresh" and call.outcome == "http_200" for call in simulator.history())

    eventually(lambda: begun() == refreshes)


@pytest.fixture
def clock() -> Clock:
    """The upstream's clock."""
    return Clock()


@pytest.fixture
def simulator(clock: Clock) -> Iterator[Simulator]:
    """The upstream."""
    with Simulator(speed=SPEED, clock=clock) as running:
        yield running


def require(name: str) -> None:
    """Skip a portal whose framework is not here; in CI all are."""
    missing = [module for module in MODULES[name] if importlib.util.find_spec(module) is None]
    if missing and os.environ.get("CI"):
        pytest.fail(f"{', '.join(missing)} is missing: in CI all portals are tested")
    if missing:
        pytest.skip(f"no {', '.join(missing)} here")


@pytest.fixture(params=list(MODULES))
def portal(request: pytest.FixtureRequest, simulator: Simulator, tmp_path: Path) -> Iterator[str]:
    """The URL of a portal whose upstream is the simulator."""
    require(request.param)
    environ = os.environ | {
        "PHR_REFRESH_STORE": f"sqlite:///{tmp_path / 'store.db'}",
        "PHR_REFRESH_MHV_URL": simulator.url,
        "PHR_REFRESH_FHIR_URL": f"{simulator.url}/fhir",
        "PHR_REFRESH_APP_TOKEN": simulator.app_token,
        "PHR_REFRESH_AUTHORIZATION_KEY": simulator.authorization_key,
    }
    log = tmp_path / "log.txt"
    command = [sys.executable, str(EXAMPLES / request.param / "portal.py"), "--port", "0"]
    with log.open("wb") as errors:
        process = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=errors, text=True)
    assert process.stdout is not None
    with closing(process.stdout):
        try:
            lines = iter(process.stdout.readline, "")
            said = next((line for line in lines if line.startswith("listening on ")), None)
            assert said, f"it did not start:\n{log.read_text()}"
            yield said.removeprefix("listening on ").strip()
        finally:
            process.terminate()
            process.wait(30)


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page of a browser profile of this test's own, in which no script fails."""
    errors: list[str] = []
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    context.close()
    assert [] == errors


def log_in(page: Any, portal: str, user: str) -> None:
    """Choose a person on the login page, and send it."""
    page.goto(f"{portal}/login")
    page.get_by_label("Sign in as").select_option(user)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/records")


def until_summary(page: Any, text: str) -> None:
    """Wait until the element says so."""
    page.locator("phr-refresh-status").get_by_role("status").filter(has_text=text).wait_for()


def until_notice(page: Any, kind: str) -> str:
    """Wait until the notice above the table is of this kind; gives its text."""
    page.locator(f"#notice[data-kind={kind}]").wait_for()
    return str(page.locator("#notice").inner_text())


def names(page: Any) -> set[str]:
    """What the table lists."""
    page.locator("#vitals tbody tr").first.wait_for()
    return {row.locator("td").first.inner_text() for row in page.locator("#vitals tbody tr").all()}


def test_a_visit(page: Any, portal: str, simulator: Simulator, clock: Clock) -> None:
    """Log in, see progress, see vital signs; log out, and in as somebody whose refresh fails: it says so."""
    log_in(page, portal, "ada")
    assert "Your vital signs are on their way." == until_notice(page, "on-their-way")
    page.locator("phr-refresh-status").get_by_role("progressbar").wait_for()
    until_begun(simulator, 1)
    clock.set_forward()
    until_summary(page, "Your records are up to date.")
    assert until_notice(page, "current").startswith("As of ")
    assert {"Systolic blood pressure", "Heart rate", "Body weight", "Body temperature"} <= names(page)
    assert 1 == simulator.calls()["totals"]["refresh"]

    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url("**/login*")
    assert 401 == page.evaluate("fetch('/phr/status').then(({ status }) => status)")

    # Bob's records were loaded long ago; today's refresh fails.
    simulator.completed_earlier(BOB, 3 * 24 * 3600)
    simulator.script(Fault("refresh", "all_failed", icn=BOB))
    log_in(page, portal, "bob")
    until_summary(page, "Getting your newest records…")
    until_begun(simulator, 2)
    clock.set_forward()
    until_summary(page, "Your newest records could not be loaded.")
    assert "Newer ones are missing: none of them could be loaded." in until_notice(page, "stale")
    assert "Heart rate" in names(page)

    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url("**/login*")
    log_in(page, portal, "guest")
    until_summary(page, "You have no health record account.")
    assert "There are no records for you here: you have no health record account." == until_notice(page, "not-eligible")
