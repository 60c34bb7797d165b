"""`<phr-refresh-status>` in a real browser: what it says, to whom, and that it keeps its place."""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from support.browser import PATIENCE_MS, Reply, ScriptedServer, extracts, open_browser, problem, told

pytestmark = pytest.mark.once

NOON = "2030-01-01T12:00:00.000Z"
HEAD = """
<style>
  :root { color-scheme: light dark; font: 16px/1.5 sans-serif }
  body { container-type: inline-size }
  phr-refresh-status:not(:defined) { display: block; min-block-size: 8.2rem }
  @container (width < 48rem) { phr-refresh-status:not(:defined) { min-block-size: 9.65rem } }
  @container (width < 34rem) { phr-refresh-status:not(:defined) { min-block-size: 12.55rem } }
  @container (width < 24rem) { phr-refresh-status:not(:defined) { min-block-size: 14rem } }
</style>
<script type="module" src="/phr/phr-refresh.js"></script>
"""
BELOW = "<p id=below>What comes below the element.</p>"
CHECKED = """[...document.querySelectorAll("phr-refresh-status")].every(
  ({ shadowRoot }) => shadowRoot && shadowRoot.querySelector(".box").dataset.view !== "checking")"""
SHADOW = "document.querySelector('phr-refresh-status').shadowRoot"
SUMMARY = f"{SHADOW}.querySelector('[role=status]').textContent"
WORDS = f"{SHADOW}.querySelector('.words').textContent"

LOADED = {"VPR": "current", "Allergy": "current"}
VIEWS = {
    "opening": told("no_session", under_way=True, after="3600"),
    "refreshing": told("refreshing", after="3600", as_of=NOON, extracts=extracts(VPR="in_progress", Allergy="current")),
    "complete": told("complete", as_of=NOON, extracts=extracts(**LOADED)),
    "partial": told("complete", partial=True, as_of=NOON, extracts=extracts(VPR="current", Allergy="failed")),
    "stale": told("stale", as_of=NOON, extracts=extracts(**LOADED)),
    "not_eligible": problem(403, "not_eligible"),
    "logged_out": problem(401, "not_logged_in"),
    "missing": Reply(404, "<html>"),
}


def failed(code: str = "timed_out", *, minutes: int = 40, **changes: Any) -> Reply:
    """A refresh that failed just now, and can be tried again in so many minutes."""
    now = datetime.now(UTC)
    failure = {"code": code, "at": now.isoformat(), "retry_at": (now + timedelta(minutes=minutes)).isoformat()}
    return told("stale", failure=failure, **({"as_of": NOON} | changes))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One browser for this file."""
    with open_browser() as running:
        yield running


@pytest.fixture(scope="module")
def plain_page(browser: Any) -> Any:
    """The page of all tests here that need no browser profile of their own: navigating leaves nothing behind."""
    return browser.new_page(timezone_id="UTC")


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    """A server to be scripted."""
    running = ScriptedServer()
    yield running
    running.close()


OpenPage = Callable[..., Any]


@pytest.fixture
def open_page(browser: Any, plain_page: Any, server: ScriptedServer) -> Iterator[OpenPage]:
    """Opens a page with an element; none of its scripts may fail."""
    contexts: list[Any] = []
    errors: list[str] = []

    def note(error: object) -> None:
        errors.append(str(error))

    def open_page(element: str = "<phr-refresh-status src=/phr/ lang=en></phr-refresh-status>", **options: Any) -> Any:
        page = plain_page
        if options:
            contexts.append(browser.new_context(**{"timezone_id": "UTC"} | options))
            page = contexts[-1].new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("pageerror", note)
        server.page = HEAD + element + BELOW
        page.goto(f"{server.url}/")
        ends_at = time.monotonic() + PATIENCE_MS / 1000
        # Not `wait_for_function`: inside a page a policy may forbid what that evaluates again and again.
        while not page.evaluate(CHECKED):
            assert time.monotonic() < ends_at, "the element shows nothing"
        return page

    yield open_page
    for context in contexts:
        context.close()
    plain_page.goto("about:blank")
    if not contexts:
        plain_page.remove_listener("pageerror", note)
    assert [] == errors


def show(page: Any, server: ScriptedServer, reply: Reply) -> None:
    """Have the element show what `reply` says."""
    server.script(reply)
    page.evaluate("document.querySelector('phr-refresh-status').poller.check()")


def test_it_says_in_plain_words_how_things_stand(open_page: OpenPage, server: ScriptedServer) -> None:
    """Each state has one sentence in the live region, and what else there is to say beside it."""
    as_of, in_vain = "Records as of Jan 1, 2030, 12:00 PM.", "Your newest records could not be loaded."
    replies = VIEWS | {
        "idle": told("no_session", refresh_id=None),
        "timed_out": failed("timed_out", minutes=-1, as_of=None),
        "all_failed": failed("all_extracts_failed", minutes=-1, as_of=None),
        "http_503": failed("http_503", minutes=-1),
        "forbidden": Reply(403, "<html>"),
    }
    expected = {
        "opening": ["Connecting to your health records…", "This may take a few minutes."],
        "refreshing": ["Getting your newest records…", f"{as_of} 1 of 2 parts are loaded."],
        "complete": ["Your records are up to date.", as_of],
        "partial": ["Part of your records is up to date.", f"{as_of} 1 of 2 parts are missing."],
        "stale": ["Your records may be out of date.", as_of],
        "idle": ["Your newest records have not been loaded yet.", ""],
        "timed_out": [in_vain, "It took too long."],
        "all_failed": [in_vain, "None of the parts could be loaded."],
        "http_503": [in_vain, f"{as_of} The records system did not answer as it should."],
        "not_eligible": ["You have no health record account.", "There are no records of yours to load."],
        "logged_out": ["You are signed out.", "Sign in again to see your records."],
        "forbidden": ["You may not see the state of these records.", ""],
        "missing": ["The state of your records cannot be shown here.", ""],
    }
    server.answer = lambda asked: replies[asked.path.split("/")[2]]
    found = said_of(
        open_page("".join(f'<phr-refresh-status src="/phr/{name}" lang=en></phr-refresh-status>' for name in expected))
    )
    assert list(expected.values()) == [[text.replace("\u202f", " ") for text in texts] for texts in found]


def test_a_strict_content_security_policy_does_not_break_it(open_page: OpenPage, server: ScriptedServer) -> None:
    """Without inline styles, and with no text that becomes markup (Trusted Types), it shows what it always shows."""
    server.page_headers = {
        "Content-Security-Policy": "default-src 'none'; connect-src 'self'; script-src 'self'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    }
    server.script(VIEWS["complete"])
    page = open_page()
    assert [["Your records are up to date.", "Records as of Jan 1, 2030, 12:00 PM."]] == [
        [text.replace("\u202f", " ") for text in texts] for texts in said_of(page)
    ]
    assert "grid" == page.evaluate(f"getComputedStyle({SHADOW}.querySelector('.box')).display")


def said_of(page: Any) -> list[list[str]]:
    """The two texts of every element in a page."""
    return page.evaluate(
        """[...document.querySelectorAll("phr-refresh-status")].map(({ shadowRoot }) =>
          [".summary", ".words"].map((name) => shadowRoot.querySelector(name).textContent))"""
    )


def test_a_wrong_source_is_a_sentence(open_page: OpenPage) -> None:
    """Not an error in the page's scripts, and no button that does nothing."""
    sources = ["", "http://[", "https://portal.example/phr/", "/elsewhere/"]
    page = open_page("".join(f'<phr-refresh-status src="{src}"></phr-refresh-status>' for src in sources))
    assert [["The state of your records cannot be shown here.", ""]] * 4 == said_of(page)
    assert 0 == page.get_by_role("button").count()


def test_an_outage_is_told_beside_what_is_known(open_page: OpenPage, server: ScriptedServer) -> None:
    """Not at the first failure; and there is no button for a server that does not answer."""
    server.script(Reply(500))
    page = open_page()
    assert "Your records cannot be checked just now." == page.evaluate(SUMMARY)
    assert "It will be tried again automatically." == page.evaluate(WORDS)


def test_the_live_region_is_not_chatty(open_page: OpenPage, server: ScriptedServer) -> None:
    """It is written to when the state changes, not when a part of the record is loaded: that is the progress bar's."""
    states = ["in_progress"] * 4
    server.script(told("refreshing", after="3600", extracts=extracts(A="in_progress")))
    page = open_page()
    page.evaluate(
        f"""window.announced = [];
        const region = {SHADOW}.querySelector("[role=status]");
        new MutationObserver(() => announced.push(region.textContent))
          .observe(region, {{ childList: true, characterData: true, subtree: true }});"""
    )
    for place in range(4):
        states[place] = "current"
        parts = extracts(**dict(zip("ABCD", states, strict=True)))
        show(page, server, told("refreshing", after="3600", extracts=parts))
        bar = page.get_by_role("progressbar")
        assert (place + 1, 4) == (bar.evaluate("bar => bar.value"), bar.evaluate("bar => bar.max"))
    assert [] == page.evaluate("announced")
    show(page, server, VIEWS["complete"])
    assert ["New records have arrived."] == page.evaluate("announced")
    assert 0 == page.get_by_role("progressbar").count()


def test_the_progress_of_a_refresh_whose_parts_are_not_known(open_page: OpenPage, server: ScriptedServer) -> None:
    """The bar says that something goes on, not how much of it is done."""
    server.script(told("refreshing", after="3600"))
    page = open_page()
    bar = page.get_by_role("progressbar", name="Getting your newest records…")
    assert bar.evaluate("bar => bar.matches(':indeterminate')")


def test_the_parts_are_listed(open_page: OpenPage, server: ScriptedServer) -> None:
    """By names that people know, each with its state; the list opens by keyboard."""
    parts = extracts(VPR="current", ChemistryHematology="in_progress", SomethingNew="failed")
    server.script(told("refreshing", after="3600", extracts=parts))
    page = open_page()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    rows = [row.inner_text().split("\n") for row in page.get_by_role("listitem").all()]
    assert [["Health summary", "up to date"], ["Lab results", "loading"], ["Something New", "not loaded"]] == rows


def test_the_time_is_the_readers(open_page: OpenPage, server: ScriptedServer) -> None:
    """A <time> with the instant, and its text by the page's language and the browser's zone."""
    server.script(VIEWS["stale"])
    german = "<div lang=de><phr-refresh-status src=/phr/></phr-refresh-status></div>"
    page = open_page(german, timezone_id="America/New_York")
    time = page.locator("phr-refresh-status time")
    assert (NOON, "1. Jan. 2030, 7:00") == (time.get_attribute("datetime"), time.inner_text())


def test_refresh_by_keyboard(open_page: OpenPage, server: ScriptedServer) -> None:
    """The button is reached and pressed by keyboard, its focus is seen, and it is not lost when the button goes."""
    page_of = VIEWS["stale"]
    running = told("refreshing", after="3600", refresh_id="r2")
    accepted = Reply(202, {"result": "started", "status": running.body}, {"Content-Type": "application/json"})
    server.answer = lambda asked: accepted if asked.method == "POST" else page_of
    page = open_page("<phr-refresh-status src=/phr/ csrf-header=X-CSRFToken csrf-token=masked></phr-refresh-status>")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    focused = f"{SHADOW}.activeElement"
    assert "Refresh now" == page.evaluate(f"{focused}.textContent")
    assert "3px" == page.evaluate(f"getComputedStyle({focused}).outlineWidth")
    server.answer = lambda asked: accepted if asked.method == "POST" else running
    page.keyboard.press("Enter")
    page.wait_for_function(f"{SUMMARY} === 'Getting your newest records…'")
    assert "masked" == server.asked("refresh")[0].headers["x-csrftoken"]
    assert 0 == page.get_by_role("button").count()
    assert "status" == page.evaluate(f"{focused}.getAttribute('role')")


def test_there_is_no_button_while_the_window_is_closed(open_page: OpenPage, server: ScriptedServer) -> None:
    """It says when the refresh can be tried again; the button comes by itself."""
    server.script(failed(minutes=40))
    page = open_page()
    assert "You can try again after" in page.evaluate(WORDS)
    assert 0 == page.get_by_role("button").count()
    show(page, server, failed(minutes=-1))
    assert 1 == page.get_by_role("button", name="Refresh now").count()


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (problem(429, "window_closed", Retry_After="1200"), "You can try again after"),
        (Reply(503), "That did not work. Try again in a moment."),
        (Reply(403, "<html>"), "That did not work. Reload the page first."),
    ],
)
def test_a_refresh_in_vain(open_page: OpenPage, server: ScriptedServer, reply: Reply, words: str) -> None:
    """What came of pressing the button is said beside it."""
    stale = VIEWS["stale"]
    server.answer = lambda asked: reply if asked.method == "POST" else stale
    page = open_page()
    page.get_by_role("button", name="Refresh now").click()
    page.wait_for_function(f"{WORDS}.includes({words!r})")
    assert (1 if reply.status != 429 else 0) == page.get_by_role("button", name="Refresh now").count()


def test_new_data(open_page: OpenPage, server: ScriptedServer) -> None:
    """They are announced with a button that reloads the page; a page that prevents an event does it by itself."""
    server.script(VIEWS["refreshing"])
    page = open_page()
    page.evaluate("window.stays = true; addEventListener('reload', (event) => stays && event.preventDefault())")
    show(page, server, VIEWS["complete"])
    assert "New records have arrived." == page.evaluate(SUMMARY)
    page.get_by_role("button", name="Show new records").click()
    assert "Your records are up to date." == page.evaluate(SUMMARY)
    page.evaluate("addEventListener('new-data', (event) => (window.asOf = event.detail.asOf, event.preventDefault()))")
    show(page, server, told("complete", refresh_id="r2", as_of="2030-01-01T13:00:00.000Z"))
    assert ("Your records are up to date.", 0) == (page.evaluate(SUMMARY), page.get_by_role("button").count())
    assert "2030-01-01T13:00:00.000Z" == page.evaluate("asOf")


def test_the_button_for_new_data_reloads_the_page(open_page: OpenPage, server: ScriptedServer) -> None:
    """Without any script of the page's own."""
    server.script(VIEWS["refreshing"])
    page = open_page()
    show(page, server, VIEWS["complete"])
    with page.expect_navigation():
        page.get_by_role("button", name="Show new records").click()


@pytest.mark.parametrize("width", [320, 600, 1000])
def test_nothing_below_it_jumps(open_page: OpenPage, server: ScriptedServer, width: int) -> None:
    """From the first byte to the last state the element is as high, and what is in it does not move."""
    server.script(VIEWS["opening"])
    page = open_page(viewport={"width": width, "height": 700})
    page.evaluate(
        """window.shifts = [];
        new PerformanceObserver((list) => list.getEntries().forEach(({ value }) => shifts.push(value)))
          .observe({ type: "layout-shift", buffered: true });"""
    )
    box = "[document.querySelector('phr-refresh-status').offsetHeight, below.offsetTop]"
    places = {"opening": page.evaluate(box)}
    for name, reply in [*VIEWS.items(), ("failed", failed())]:
        if name not in ("not_eligible", "logged_out", "missing"):
            show(page, server, reply)
            places[name] = page.evaluate(box)
    show(page, server, VIEWS["not_eligible"])
    places["not_eligible"] = page.evaluate(box)
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert dict.fromkeys(places, places["opening"]) == places
    assert [] == page.evaluate("shifts")


CONTRAST = """() => {
  const root = document.querySelector("phr-refresh-status").shadowRoot;
  const channels = (color) => color.match(/[\\d.]+/g).slice(0, 3).map(Number).map((value) => value / 255);
  const linear = (value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
  const light = (color) => {
    const [red, green, blue] = channels(color).map(linear);
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const ratio = (one, other) => {
    const [dark, bright] = [light(one), light(other)].sort((a, b) => a - b);
    return (bright + 0.05) / (dark + 0.05);
  };
  const ground = (element) => {
    for (; element; element = element.parentElement) {
      const color = getComputedStyle(element).backgroundColor;
      if (color !== "rgba(0, 0, 0, 0)") return color;
    }
  };
  const found = {};
  for (const element of root.querySelectorAll("p, summary, li span, button:not([data-off])")) {
    const name = element.className || element.parentElement.dataset.state || element.localName;
    found[name] = Math.min(found[name] ?? 99, ratio(getComputedStyle(element).color, ground(element)));
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(open_page: OpenPage, server: ScriptedServer, scheme: str) -> None:
    """Every text stands out at least 4.5 to 1, as WCAG 2.2 AA asks (1.4.3), in the light and in the dark."""
    server.script(told("stale", as_of=NOON, extracts=extracts(A="current", B="failed", C="in_progress")))
    found = open_page(color_scheme=scheme).evaluate(CONTRAST)
    assert {"summary", "words", "current", "failed", "in_progress", "refresh"} == set(found)
    assert {} == {name: ratio for name, ratio in found.items() if ratio < 4.5}


@pytest.mark.parametrize(("motion", "animation"), [("reduce", "none"), ("no-preference", "turn")])
def test_motion(open_page: OpenPage, server: ScriptedServer, motion: str, animation: str) -> None:
    """Nothing turns for those who asked for less motion."""
    server.script(VIEWS["opening"])
    page = open_page(reduced_motion=motion)
    assert animation == page.evaluate(f"getComputedStyle({SHADOW}.querySelector('.busy')).animationName")


def test_texts_can_be_replaced(open_page: OpenPage, server: ScriptedServer) -> None:
    """Some of them, at any time; the others stay."""
    server.script(told("stale", as_of=NOON, extracts=extracts(VPR="current")))
    page = open_page()
    page.evaluate(
        """document.querySelector("phr-refresh-status").strings = {
          stale: "Veraltet", asOf: "Stand {time}", refresh: "Neu laden", extracts: { VPR: "Zusammenfassung" } }"""
    )
    assert ("Veraltet", "Stand Jan 1") == (page.evaluate(SUMMARY), page.evaluate(WORDS)[:11])
    assert 1 == page.get_by_role("button", name="Neu laden").count()
    assert "Zusammenfassung" == page.evaluate(f"{SHADOW}.querySelector('li span').textContent")


def test_an_element_that_is_taken_out_asks_no_more(open_page: OpenPage, server: ScriptedServer) -> None:
    """It has no poller any more; put in again, or given another source, it begins anew."""
    server.script(VIEWS["complete"])
    page = open_page()
    page.evaluate("window.element = document.querySelector('phr-refresh-status'); element.remove()")
    assert page.evaluate("element.poller === null")
    page.evaluate("document.body.append(element)")
    server.wait_for(2)
    page.evaluate("element.setAttribute('src', '/phr/other/')")
    server.wait_for(1, "other/status")
