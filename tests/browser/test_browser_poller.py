"""The browser module's poller, in a real browser, against a server whose answers are scripted.

The page's clock stands still but for `run_for`; what the page has fetched is counted in the page, when it does so.
"""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.browser import PATIENCE_MS, Asked, Reply, ScriptedServer, open_browser, problem, told

pytestmark = pytest.mark.once

RUNNING = told("refreshing", etag='W/"a"', after="1")
COUNT_FETCHES = """
  const plain = fetch;
  window.fetched = 0;
  window.signals = [];
  window.fetch = (url, how) => {
    fetched++;
    signals.push(how.signal);
    return plain(url, how);
  };
"""
START = """async ([src, options]) => {
  const { StatusPoller } = await import("/phr/phr-refresh.js");
  window.seen = [];
  let news = [];
  window.heard = async (count) => { while (seen.length < count) await new Promise((wake) => news.push(wake)); };
  if (options.random !== undefined) { const dice = options.random; options.random = () => dice; }
  window.poller = new StatusPoller(src, options);
  poller.addEventListener("change", ({ detail }) => {
    seen.push(detail);
    news.splice(0).forEach((wake) => wake());
  });
  await poller.start();
  await leading();
}"""
# Which tab leads is settled by the browser, some moments later than a request may be answered.
LEADING = """
  window.leading = async () => {
    const isOpen = () => ["checking", "following"].includes(poller.snapshot.condition);
    while (!poller.leads && isOpen()) await navigator.locks.query();
  };
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One browser for this file: the others' event loops have to have the thread for themselves."""
    with open_browser() as running:
        yield running


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    """A server to be scripted."""
    running = ScriptedServer()
    yield running
    running.close()


class Tab:
    """A page with a poller, whose clock stands still."""

    def __init__(self, page: Any, server: ScriptedServer, *, src: str = "/phr/", **options: Any) -> None:
        self.page = page
        page.add_init_script(COUNT_FETCHES + LEADING)
        page.clock.install(time=1_800_000_000_000)
        page.goto(f"{server.url}/")
        page.clock.pause_at(1_800_000_010_000)
        page.evaluate(START, [src, {"times": {"settling": []}} | options])

    def heard(self, changes: int) -> dict[str, Any]:
        """The snapshot once there were so many changes."""
        return self.page.evaluate("(count) => heard(count).then(() => seen.at(-1))", changes)

    @property
    def fetched(self) -> int:
        """How many requests this page has made."""
        return self.page.evaluate("fetched")

    def run_for(self, milliseconds: int) -> int:
        """Let the page's clock run; gives how many requests it has made by then."""
        self.page.clock.run_for(milliseconds)
        return self.fetched

    def set_visible(self, is_visible: bool) -> None:
        """Show or hide the tab."""
        show = """async (state) => {
          Object.defineProperty(document, "visibilityState", { configurable: true, get: () => state });
          document.dispatchEvent(new Event("visibilitychange"));
          if (state === "visible") await leading();
        }"""
        self.page.evaluate(show, "visible" if is_visible else "hidden")


OpenTab = Callable[..., Tab]


@pytest.fixture
def open_tab(browser: Any, server: ScriptedServer) -> Iterator[OpenTab]:
    """Opens tabs of one browser profile of this test's own."""
    context = browser.new_context()
    yield lambda **options: Tab(context.new_page(), server, **options)
    context.close()


def test_retry_after(browser: Any, server: ScriptedServer) -> None:
    """Both forms are understood, dates by the clock of the server that wrote them; nothing else is."""
    now, later = "Fri, 13 Feb 2009 23:31:30 GMT", "Fri, 13 Feb 2009 23:31:40 GMT"
    expected = {
        ("120", None): 120_000,
        (" 0 ", None): 0,
        (later, now): 10_000,
        ("Friday, 13-Feb-09 23:31:40 GMT", now): 10_000,
        ("Fri Feb 13 23:31:40 2009", now): 10_000,
        (later, None): 5_000,
        (now, later): 0,
        ("-5", None): None,
        ("1.5", None): None,
        ("soon", None): None,
        ("Fri, 13 Foo 2009 23:31:40 GMT", None): None,
        ("9" * 30, None): 9_007_199_254_740_991,
        (None, None): None,
    }
    script = """async ([cases, now]) => {
      const { retryAfter } = await import("/phr/phr-refresh.js");
      return cases.map(([header, date]) => {
        const headers = new Headers();
        if (header !== null) headers.set("Retry-After", header);
        if (date !== null) headers.set("Date", date);
        return retryAfter(headers, now);
      });
    }"""
    with browser.new_page() as page:
        page.goto(f"{server.url}/")
        found = page.evaluate(script, [[list(case) for case in expected], 1_234_567_895_000])
    assert expected == dict(zip(expected, found, strict=True))


@pytest.mark.parametrize(
    ("header", "milliseconds"),
    [
        ("7", 7_000),
        ("Fri, 13 Feb 2009 23:31:37 GMT", 7_000),
        ("-7", 2_000),
        ("soon", 2_000),
        ("0", 250),
        ("99999999999999999999", 3_600_000),
    ],
)
def test_it_waits_as_long_as_it_is_told(
    open_tab: OpenTab, server: ScriptedServer, header: str, milliseconds: int
) -> None:
    """Not a moment less, and no longer than a window, however wrong the header is."""
    reply = told("refreshing", after=header)
    reply.headers["Date"] = "Fri, 13 Feb 2009 23:31:30 GMT"
    server.script(reply)
    tab = open_tab()
    tab.heard(1)
    assert 1 == tab.run_for(milliseconds - 1)
    assert 2 == tab.run_for(1)


def test_a_request_that_knows_the_state_is_held(open_tab: OpenTab, server: ScriptedServer) -> None:
    """The first request is answered at once; the next say how long they wait and what they know."""
    server.script(RUNNING)
    tab = open_tab()
    tab.heard(1)
    tab.run_for(1_000)
    first, second = (asked.headers for asked in server.wait_for(2))
    assert (None, None) == (first.get("prefer"), first.get("if-none-match"))
    assert ("wait=25", 'W/"a"') == (second.get("prefer"), second.get("if-none-match"))


def test_without_progress_it_waits_for_the_end(open_tab: OpenTab, server: ScriptedServer) -> None:
    """A tab that does not show progress does not say what it knows: it is answered when the refresh has ended."""
    server.script(RUNNING, told("complete", etag='W/"b"'))
    tab = open_tab(progress=False, times={"wait": 5, "settling": []})
    tab.heard(1)
    tab.run_for(1_000)
    assert "complete" == tab.heard(2)["status"]["state"]
    second = server.asked()[1].headers
    assert ("wait=5", None) == (second.get("prefer"), second.get("if-none-match"))


def test_a_hidden_tab_asks_nothing(open_tab: OpenTab, server: ScriptedServer) -> None:
    """It stops at once when it is hidden, and asks at once when it is seen again."""
    server.script(RUNNING)
    tab = open_tab()
    tab.heard(1)
    tab.set_visible(False)
    assert 1 == tab.run_for(3_600_000)
    tab.set_visible(True)
    server.wait_for(2)
    assert 2 == tab.fetched


def test_a_held_request_is_let_go_when_the_tab_is_hidden(open_tab: OpenTab, server: ScriptedServer) -> None:
    """It would keep one of the server's places; and it is no failure."""
    server.script(RUNNING)
    tab = open_tab()
    tab.heard(1)
    held, let_go = threading.Event(), threading.Event()

    def hold(asked: Asked) -> Reply:
        held.set()
        let_go.wait(PATIENCE_MS / 1000)
        return RUNNING

    server.answer = hold
    tab.run_for(1_000)
    assert held.wait(PATIENCE_MS / 1000)
    tab.set_visible(False)
    aborted = tab.page.evaluate("signals.at(-1).aborted")
    let_go.set()
    assert (True, 0) == (aborted, tab.page.evaluate("poller.snapshot.failures"))


def test_a_settled_state_is_not_asked_for_again(open_tab: OpenTab, server: ScriptedServer) -> None:
    """Not by time; when the tab is seen again, only if what it knows is old, and then with what it knows."""
    server.script(told("complete", etag='W/"a"'), Reply(304, headers={"ETag": 'W/"a"'}))
    tab = open_tab()
    tab.heard(1)
    assert 1 == tab.run_for(20_000)
    tab.set_visible(False)
    tab.set_visible(True)
    assert 1 == tab.run_for(5_000)
    tab.set_visible(False)
    assert 1 == tab.run_for(6_000)
    tab.set_visible(True)
    assert "complete" == tab.heard(2)["status"]["state"]
    assert 'W/"a"' == server.asked()[1].headers["if-none-match"]
    assert 2 == tab.run_for(3_600_000)


def test_a_login_may_be_one_moment_ahead(open_tab: OpenTab, server: ScriptedServer) -> None:
    """Where nothing is under way yet after a login it asks a few times more, and then no more."""
    server.script(told("no_session", refresh_id=None))
    tab = open_tab(times={"settling": [1_000, 2_000]})
    tab.heard(1)
    assert 1 == tab.run_for(999)
    assert 2 == tab.run_for(1)
    tab.heard(2)
    assert 3 == tab.run_for(2_000)
    tab.heard(3)
    assert 3 == tab.run_for(3_600_000)


@pytest.mark.parametrize("reply", [Reply(500), Reply(502, "<html>"), Reply(cut=True)])
def test_failures_back_off(open_tab: OpenTab, server: ScriptedServer, reply: Reply) -> None:
    """Each failure in a row doubles what is waited at most, up to a cap."""
    server.script(reply)
    tab = open_tab(random=1, times={"settling": [], "backoff": 1_000, "backoffMax": 3_000})
    for failures, pause in [(1, 1_000), (2, 2_000), (3, 3_000), (4, 3_000)]:
        assert failures == tab.heard(failures)["failures"]
        assert failures == tab.run_for(pause - 1)
        assert failures + 1 == tab.run_for(1)


def test_the_jitter_is_full(open_tab: OpenTab, server: ScriptedServer) -> None:
    """What is waited is random from (next to) nothing on."""
    server.script(Reply(500))
    tab = open_tab(random=0)
    tab.heard(1)
    assert 2 == tab.run_for(250)


def test_a_server_that_is_down_says_when_to_come_back(open_tab: OpenTab, server: ScriptedServer) -> None:
    """Retry-After of a failure is a least, to which the jitter is added; a success forgets the failures."""
    server.script(problem(503, "store_unavailable", Retry_After="30"), RUNNING)
    tab = open_tab(random=0.5)
    tab.heard(1)
    assert 1 == tab.run_for(30_499)
    assert 2 == tab.run_for(1)
    assert 0 == tab.heard(2)["failures"]


@pytest.mark.parametrize(
    ("reply", "condition"),
    [
        (problem(401, "not_logged_in"), "logged_out"),
        (Reply(302, headers={"Location": "/login"}), "logged_out"),
        (problem(403, "not_eligible"), "not_eligible"),
        (Reply(403, "<html>"), "forbidden"),
        (Reply(404, "<html>"), "missing"),
        (Reply(200, "<html>"), "missing"),
        (Reply(200, "null"), "missing"),
    ],
)
def test_answers_that_end_it(open_tab: OpenTab, server: ScriptedServer, reply: Reply, condition: str) -> None:
    """It says why, forgets what it knew, and asks no more, seen again or not."""
    server.script(told("refreshing", after="1"), reply)
    tab = open_tab()
    tab.heard(1)
    tab.run_for(1_000)
    snapshot = tab.heard(2)
    assert (condition, None) == (snapshot["condition"], snapshot["status"])
    tab.set_visible(False)
    tab.set_visible(True)
    assert 2 == tab.run_for(3_600_000)


@pytest.mark.parametrize("src", ["http://[", "https://portal.example/phr/", "data:,"])
def test_a_source_that_cannot_be(open_tab: OpenTab, src: str) -> None:
    """Nothing is asked of what is no URL, or another origin's."""
    tab = open_tab(src=src)
    assert "missing" == tab.heard(1)["condition"]
    assert "missing" == tab.page.evaluate("poller.refresh()")["result"]
    assert 0 == tab.fetched


def test_a_refresh_is_followed_until_it_shows(open_tab: OpenTab, server: ScriptedServer) -> None:
    """The POST carries the host's CSRF header; the old state is asked away, and the new refresh is followed."""
    old = told("stale", refresh_id="r1", etag='W/"a"')
    accepted = Reply(202, {"result": "started", "status": old.body}, {"Content-Type": "application/json"})
    replies = iter([old, old, told("refreshing", refresh_id="r2", after="1")])
    server.answer = lambda asked: accepted if asked.method == "POST" else next(replies)
    tab = open_tab(csrfHeader="X-CSRFToken", csrfToken="masked")
    tab.heard(1)
    assert 0 == tab.page.evaluate("poller.refreshableFrom")
    assert {"result": "started"} == tab.page.evaluate("poller.refresh()")
    assert tab.heard(2)["requested"]
    assert ("POST", "masked") == (server.asked("refresh")[0].method, server.asked("refresh")[0].headers["x-csrftoken"])
    assert 3 == tab.run_for(250)
    assert tab.heard(3)["requested"]
    assert 4 == tab.run_for(500)
    snapshot = tab.heard(4)
    assert (False, "r2") == (snapshot["requested"], snapshot["status"]["refresh_id"])


def test_a_refresh_that_never_shows_is_given_up(open_tab: OpenTab, server: ScriptedServer) -> None:
    """A started refresh that does not show is asked for so many times, and no more."""
    old = told("stale")
    accepted = Reply(202, {"result": "started", "status": old.body}, {"Content-Type": "application/json"})
    server.answer = lambda asked: accepted if asked.method == "POST" else old
    tab = open_tab(times={"settling": [], "expecting": [300, 300]})
    tab.heard(1)
    tab.page.evaluate("poller.refresh()")
    for changes, requests in [(2, 3), (3, 4), (4, 5)]:
        assert tab.heard(changes)["requested"]
        assert requests == tab.run_for(300)
    assert not tab.heard(5)["requested"]
    assert 5 == tab.run_for(3_600_000)


@pytest.mark.parametrize(
    ("reply", "result", "closed_for"),
    [
        (problem(429, "window_closed", Retry_After="600"), "window_closed", 600_000),
        (problem(503, "store_unavailable", Retry_After="5"), "unavailable", 5_000),
        (Reply(500), "unavailable", 0),
        (Reply(cut=True), "unavailable", 0),
        (Reply(403, "<html>"), "refused", 0),
        (Reply(400, "<html>"), "refused", 0),
    ],
)
def test_a_refresh_that_is_refused(
    open_tab: OpenTab, server: ScriptedServer, reply: Reply, result: str, closed_for: int
) -> None:
    """It is sent once, and says why it was in vain, and from when on it can be tried again."""
    stale = told("stale")
    stale.headers["Date"] = "Fri, 15 Jan 2027 08:00:10 GMT"
    reply.headers["Date"] = "Fri, 15 Jan 2027 08:00:10 GMT"
    server.answer = lambda asked: reply if asked.method == "POST" else stale
    tab = open_tab()
    tab.heard(1)
    assert {"result": result} == tab.page.evaluate("poller.refresh()")
    now = tab.page.evaluate("poller.now")
    assert closed_for == max(tab.page.evaluate("poller.refreshableFrom") - now, 0)
    assert 2 == tab.run_for(3_600_000)


def test_a_window_that_is_closed_is_known_beforehand(open_tab: OpenTab, server: ScriptedServer) -> None:
    """The time of a failure's next try is by the server's clock, which may not be this one's."""
    failure = {"code": "timed_out", "at": "2009-02-13T23:31:00.000Z", "retry_at": "2009-02-13T23:32:00.000Z"}
    failed = told("stale", failure=failure)
    failed.headers["Date"] = "Fri, 13 Feb 2009 23:31:30 GMT"
    server.script(failed)
    tab = open_tab()
    tab.heard(1)
    assert 30_000 == tab.page.evaluate("poller.refreshableFrom - poller.now")
