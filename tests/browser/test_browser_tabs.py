"""The tabs of one browser share one poll, and nothing else: in a real browser, with several pages."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.browser import PATIENCE_MS, Asked, Reply, ScriptedServer, extracts, open_browser, problem, told

pytestmark = pytest.mark.once

QUICK = {"shortest": 10, "settling": [], "expecting": [50, 50], "leader": 20_000}
START = """async (options) => {
  const { StatusPoller } = await import("/phr/phr-refresh.js");
  window.poller = new StatusPoller("/phr/", options);
  window.known = new Set();
  poller.addEventListener("change", ({ detail }) => detail.status && known.add(detail.status.refresh_id));
  await poller.start();
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One browser for this file."""
    with open_browser() as running:
        yield running


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    """A server to be scripted."""
    running = ScriptedServer()
    yield running
    running.close()


class Tab:
    """A page with a poller."""

    def __init__(self, page: Any, server: ScriptedServer, *, script: str = "", **options: Any) -> None:
        self.page = page
        page.set_default_timeout(PATIENCE_MS)
        if script:
            page.add_init_script(script)
        page.goto(f"{server.url}/")
        page.evaluate(START, {"times": QUICK} | options)

    def until(self, condition: str) -> None:
        """Wait until it holds of `snapshot` and `status`."""
        self.page.wait_for_function(
            f"(() => {{ const {{ snapshot }} = poller, {{ status }} = snapshot;{condition} }})()"
        )

    def until_state(self, state: str) -> None:
        """Wait until the status says so."""
        self.until(f"return status?.state === '{state}'")

    @property
    def leads(self) -> bool:
        """Whether this tab asks for all."""
        return self.page.evaluate("poller.leads")

    def until_leading(self) -> "Tab":
        """Wait until this tab asks for all."""
        self.page.wait_for_function("poller.leads")
        return self

    def hide(self) -> None:
        """Have the user look at something else."""
        self.page.evaluate(
            """Object.defineProperty(document, "visibilityState", { configurable: true, get: () => "hidden" });
            document.dispatchEvent(new Event("visibilitychange"));"""
        )


OpenTab = Callable[..., Tab]


@pytest.fixture
def open_tab(browser: Any, server: ScriptedServer) -> Iterator[OpenTab]:
    """Opens tabs of one browser profile of this test's own."""
    context = browser.new_context()
    yield lambda **options: Tab(context.new_page(), server, **options)
    context.close()


class Upstairs:
    """Answers of a refresh that goes on when the test says so: `now` is what anybody is told, held until it is news."""

    def __init__(self, now: Reply) -> None:
        self._now = now
        self._news = threading.Condition()

    def becomes(self, now: Reply) -> None:
        """Answer this from now on, also whoever waits."""
        with self._news:
            self._now = now
            self._news.notify_all()

    def __call__(self, asked: Asked) -> Reply:
        with self._news:
            if "prefer" in asked.headers:
                known = asked.headers.get("if-none-match")
                self._news.wait_for(lambda: self._now.headers.get("ETag") != known, PATIENCE_MS / 1000)
            return self._now


def running(etag: str, **states: str) -> Reply:
    """A refresh under way, its extracts in these states."""
    return told("refreshing", etag=etag, after="0", extracts=extracts(**states))


COMPLETE = told("complete", etag="c", as_of="2030-01-01T12:00:05.000Z")


def test_two_tabs_share_one_poll(open_tab: OpenTab, server: ScriptedServer) -> None:
    """The second one is told all that the first one learns, and asks nothing."""
    server.answer = upstairs = Upstairs(running("a", VPR="in_progress"))
    first = open_tab(userKey="ada").until_leading()
    first.until_state("refreshing")
    server.wait_for(2)
    second = open_tab(userKey="ada")
    second.until_state("refreshing")
    upstairs.becomes(running("b", VPR="current"))
    second.until("return status.extracts[0].state === 'current'")
    upstairs.becomes(COMPLETE)
    for tab in (first, second):
        tab.until_state("complete")
    assert (True, False) == (first.leads, second.leads)
    assert 3 == len(server.asked())


def test_without_a_user_key_each_tab_checks_once(open_tab: OpenTab, server: ScriptedServer) -> None:
    """It believes the others about the refresh that the server has told it of."""
    server.answer = upstairs = Upstairs(running("a"))
    first = open_tab().until_leading()
    server.wait_for(2)
    second = open_tab()
    second.until_state("refreshing")
    assert 3 == len(server.asked())
    upstairs.becomes(COMPLETE)
    for tab in (first, second):
        tab.until_state("complete")
    assert 3 == len(server.asked())


@pytest.mark.parametrize("way", ["closed", "hidden", "stopped"])
def test_another_tab_takes_over(open_tab: OpenTab, server: ScriptedServer, way: str) -> None:
    """The tab that asks for all may go: the next one goes on asking, at once."""
    server.answer = upstairs = Upstairs(running("a"))
    first = open_tab(userKey="ada").until_leading()
    server.wait_for(2)
    second = open_tab(userKey="ada")
    second.until_state("refreshing")
    {"closed": first.page.close, "hidden": first.hide, "stopped": lambda: first.page.evaluate("poller.stop()")}[way]()
    second.until_leading()
    assert "a" == server.wait_for(3)[2].headers["if-none-match"]
    upstairs.becomes(COMPLETE)
    second.until_state("complete")
    assert 3 == len(server.asked())


@pytest.mark.parametrize("missing", ["delete Navigator.prototype.locks", "delete window.BroadcastChannel"])
def test_a_browser_without_shared_polls(open_tab: OpenTab, server: ScriptedServer, missing: str) -> None:
    """Each tab asks for itself."""
    server.script(COMPLETE)
    for _ in range(2):
        tab = open_tab(userKey="ada", script=missing)
        tab.until_state("complete")
        assert tab.leads
    assert 2 == len(server.asked())


def test_a_refresh_that_another_tab_asked_for(open_tab: OpenTab, server: ScriptedServer) -> None:
    """Whichever tab's button was pressed, the one that asks for all follows it, and all are told."""
    stale = told("stale", etag="s")
    server.script(stale)
    first = open_tab(userKey="ada").until_leading()
    first.until_state("stale")
    second = open_tab(userKey="ada")
    second.until_state("stale")
    accepted = Reply(202, {"result": "started", "status": stale.body}, {"Content-Type": "application/json"})
    upstairs = Upstairs(told("refreshing", etag="n", after="0", refresh_id="r2"))
    server.answer = lambda asked: accepted if asked.method == "POST" else upstairs(asked)
    assert {"result": "started"} == second.page.evaluate("poller.refresh()")
    for tab in (first, second):
        tab.until("return status.refresh_id === 'r2' && !snapshot.requested")


def test_a_login_of_somebody_else_ends_the_tabs_of_the_last_one(open_tab: OpenTab, server: ScriptedServer) -> None:
    """No tab is told what another user's tab knows, nor goes on asking with the new user's session."""
    server.script(told("complete", refresh_id="of-ada"))
    ada = open_tab(userKey="ada").until_leading()
    ada.until_state("complete")
    server.script(told("stale", refresh_id="of-bob"))
    bob = open_tab(userKey="bob")
    bob.until("return status !== null")
    assert "of-bob" == bob.page.evaluate("poller.snapshot.status.refresh_id")
    ada.until("return snapshot.condition === 'logged_out' && status === null")


def test_without_a_user_key_nothing_of_somebody_else_is_believed(open_tab: OpenTab, server: ScriptedServer) -> None:
    """What the last user's tab still knows is not taken for the new user's state."""
    server.script(told("complete", refresh_id="of-ada"))
    ada = open_tab().until_leading()
    ada.until_state("complete")
    server.script(told("stale", refresh_id="of-bob"))
    bob = open_tab()
    bob.until_state("stale")
    ada.page.evaluate("new BroadcastChannel('phr-refresh/1 /phr/').postMessage({ type: 'ask', key: '' })")
    ada.until("return status.refresh_id === 'of-bob'")
    assert ["of-bob"] == bob.page.evaluate("[...known]")


def test_a_logout_ends_all_tabs(open_tab: OpenTab, server: ScriptedServer) -> None:
    """Whoever hears of it first tells the others, and all forget what they knew; none asks again and again."""
    server.answer = upstairs = Upstairs(running("a"))
    first = open_tab(userKey="ada").until_leading()
    server.wait_for(2)
    second = open_tab(userKey="ada")
    second.until_state("refreshing")
    upstairs.becomes(problem(401, "not_logged_in"))
    for tab in (first, second):
        tab.until("return snapshot.condition === 'logged_out' && status === null")
    # The lead may reach the second tab before the word does: then it asks, once, for itself.
    assert len(server.asked()) in (2, 3)


def test_nothing_is_stored(open_tab: OpenTab, server: ScriptedServer) -> None:
    """No storage of the browser holds anything afterwards, and no name of a lock tells the user's key."""
    server.script(COMPLETE)
    tab = open_tab(userKey="ada-lovelace").until_leading()
    tab.until_state("complete")
    found = tab.page.evaluate(
        """async () => ({
          stored: localStorage.length + sessionStorage.length + document.cookie.length,
          databases: (await indexedDB.databases()).length,
          caches: (await caches.keys()).length,
          locks: (await navigator.locks.query()).held.map(({ name }) => name).join(),
        })"""
    )
    assert (0, 0, 0) == (found["stored"], found["databases"], found["caches"])
    assert found["locks"].startswith("phr-refresh/1 /phr/ ")
    assert "ada" not in found["locks"]
