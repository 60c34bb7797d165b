"""How few requests a browser needs for a whole refresh, against the contract's own host."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from phr_refresh import Patient, PhrRefresh, Policy, open_store
from phr_refresh.adapters.browser import Host
from phr_refresh.adapters.simulator import Simulator
from phr_refresh.adapters.upstream.mhv import MhvUpstream
from phr_refresh.adapters.upstream.settings import MhvSettings
from support.browser import PATIENCE_MS, Portal, open_browser
from support.samples import ADA

pytestmark = pytest.mark.once

POLICY = Policy(poll_schedule=(), poll_interval=timedelta(milliseconds=200), login_budget=timedelta(seconds=30))
START = """async (progress) => {
  const { StatusPoller } = await import("/phr/phr-refresh.js");
  window.poller = new StatusPoller("/phr/", { progress });
  await poller.start();
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One browser for this file."""
    with open_browser() as running:
        yield running


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    """The upstream, as fast as it was recorded: a refresh takes four to six seconds."""
    with Simulator() as running:
        yield running


@pytest.fixture
def phr(simulator: Simulator) -> Iterator[PhrRefresh]:
    """The library as a host embeds it."""
    settings = MhvSettings(
        base_url=simulator.url, app_token=simulator.app_token, authorization_key=simulator.authorization_key
    )
    with PhrRefresh(store=open_store("memory://"), upstream=MhvUpstream(settings), policy=POLICY) as running:
        yield running


@pytest.fixture
def portal(phr: PhrRefresh) -> Iterator[Portal]:
    """A portal where Ada can log in."""
    people: dict[str, Patient] = {"ada": ADA}
    running = Portal(Host(phr), people)
    yield running
    running.close()


def test_a_refresh_costs_two_requests(browser: Any, portal: Portal, phr: PhrRefresh, simulator: Simulator) -> None:
    """A tab that waits for the end: one request that finds the refresh under way, and one that is held."""
    phr.refresh(ADA)
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.goto(f"{portal.url}/as/ada")
    page.evaluate(START, False)
    page.wait_for_function("poller.snapshot.status?.state === 'complete'")
    context.close()
    assert 2 == portal.asked.count("status")
    assert 1 == simulator.calls()["totals"]["refresh"]


def test_two_tabs_that_show_progress_share_their_requests(
    browser: Any, portal: Portal, phr: PhrRefresh, simulator: Simulator
) -> None:
    """One request a second at most, for both of them, and the same end."""
    phr.refresh(ADA)
    context = browser.new_context()
    pages = [context.new_page(), context.new_page()]
    for page in pages:
        page.set_default_timeout(PATIENCE_MS)
        page.goto(f"{portal.url}/as/ada")
        page.evaluate(START, True)
    for page in pages:
        page.wait_for_function("poller.snapshot.status?.state === 'complete'")
    status = phr.status(ADA)
    context.close()
    assert status.since is not None
    assert status.claimed_at is not None
    # The first of each tab, which believes nothing that it has not checked, and one for each second.
    longest = 2 + (status.since - status.claimed_at).total_seconds() + 2
    assert portal.asked.count("status") <= longest
