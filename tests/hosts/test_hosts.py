"""Every host on a real server, over real requests: the same verbs, and the same answers to browsers."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from phr_refresh.adapters.simulator import Fault
from support.fleet import Fleet, Store, eventually, until_refreshing
from support.host_django import HOST as DJANGO
from support.host_flask import HOST as FLASK
from support.host_own import HOST as OWN
from support.host_starlette import HOST as STARLETTE
from support.hosts import Browser, HostUnderTest, RunningHost
from support.portal import LOGIN_BUDGET_SECONDS, correlation_id_of, icn_of

pytestmark = pytest.mark.once

HOSTS = {host.name: host for host in (DJANGO, FLASK, STARLETTE, OWN)}
#: A login whose store does not answer takes its budget. What a busy machine may add to that.
GENEROUS_SECONDS = 20
PROBLEM = "application/problem+json"
PRIVATE = ("status", "events", "records/vitals")


@pytest.fixture(scope="session")
def running_fleet(tmp_path_factory: pytest.TempPathFactory, shared_server: Callable[..., object]) -> Iterator[Fleet]:
    """The hosts that all tests of this process share."""
    fleet = Fleet(tmp_path_factory.mktemp("hosts"), lambda: shared_server("valkey").port)
    yield fleet
    fleet.close()


@pytest.fixture
def fleet(running_fleet: Fleet) -> Iterator[Fleet]:
    """The same, with nothing broken before and after."""
    yield running_fleet
    running_fleet.let_end()


@pytest.fixture(params=HOSTS)
def host(request: pytest.FixtureRequest) -> HostUnderTest:
    """Each host in turn."""
    return HOSTS[request.param]


@pytest.fixture
def portal(fleet: Fleet, host: HostUnderTest) -> RunningHost:
    """A process of the host."""
    return fleet.host(host)


@pytest.fixture
def browser(portal: RunningHost) -> Iterator[Browser]:
    """Somebody's browser there."""
    with Browser(portal) as opened:
        yield opened


def test_a_login_is_handed_over_and_followed_to_the_end(fleet: Fleet, browser: Browser) -> None:
    """A login starts one refresh: 202 with progress while it runs, 200 when it is complete, and then its records."""
    user = fleet.user()
    fleet.keep_refreshing(user)

    assert browser.log_in(user).status_code < 400
    headers = until_refreshing(browser)
    assert int(headers["Retry-After"]) >= 1
    assert headers["X-Progress"]
    assert 202 == browser.get("records/vitals").status_code
    fleet.let_end()
    status = browser.settled()

    assert ("complete", False, False) == (status["state"], status["stale"], status["under_way"])
    vitals = browser.get("records/vitals")
    assert (200, "application/fhir+json") == (vitals.status_code, vitals.headers["Content-Type"])
    assert ("Bundle", "?0") == (vitals.json()["resourceType"], vitals.headers["PHR-Stale"])
    assert vitals.json()["entry"]
    assert 1 == fleet.kick_offs(user)


def test_the_hook_runs_once_the_user_is_logged_in(fleet: Fleet, portal: RunningHost, browser: Browser) -> None:
    """When the host is asked who the user is, the framework's login has taken effect."""
    user = fleet.user()
    browser.log_in(user)
    assert "True" == portal.journal(user)[0]


def test_a_double_signal_starts_one_refresh(fleet: Fleet, portal: RunningHost, browser: Browser) -> None:
    """One who logs in again, in this browser or in another, joins the refresh that runs."""
    user = fleet.user()
    fleet.keep_refreshing(user)
    with Browser(portal) as other:
        for who in (browser, browser, other):
            assert who.log_in(user).status_code < 400
        until_refreshing(browser)
        fleet.let_end()
        assert browser.settled()["refresh_id"] == other.settled()["refresh_id"]
    assert 1 == fleet.kick_offs(user)


def test_a_hook_that_raises_does_not_break_the_login(fleet: Fleet, portal: RunningHost, browser: Browser) -> None:
    """Whatever the host's `patient_of` raises, users log in and out; one event each tells, and shows no identifier."""
    user = fleet.user("raises")
    before = portal.log().count("phr_refresh.hook_failed")

    assert browser.log_in(user).status_code < 400
    after_login = portal.log().count("phr_refresh.hook_failed")
    assert browser.log_out().status_code < 400

    assert (1, 2) == (after_login - before, portal.log().count("phr_refresh.hook_failed") - before)
    assert "LookupError" in portal.log()
    assert [] == [value for value in (icn_of(user), correlation_id_of(user)) if value in portal.log()]


def test_a_hook_that_takes_a_while_is_waited_for(fleet: Fleet, browser: Browser) -> None:
    """A `patient_of` that is slow costs the login that time and no more, and the refresh starts."""
    user = fleet.user("slow")
    assert browser.log_in(user).status_code < 400
    assert "complete" == fleet.finished(user, browser)["state"]


@pytest.mark.parametrize("fault", ["hang", "cut"])
def test_a_store_that_is_down_does_not_break_the_login(fleet: Fleet, host: HostUnderTest, fault: str) -> None:
    """With a store that hangs or resets, users log in and out in bounded time; later they can ask for the refresh."""
    user = fleet.user()
    with Browser(fleet.host(host, "valkey")) as browser:
        getattr(fleet.wire, fault)()
        try:
            began = time.monotonic()
            assert browser.log_in(user).status_code < 400
            assert time.monotonic() - began < LOGIN_BUDGET_SECONDS + GENEROUS_SECONDS
            answer = browser.get("status")
            assert (503, PROBLEM) == (answer.status_code, answer.headers["Content-Type"])
            assert ("store_unavailable", 0) == (answer.json()["code"], fleet.kick_offs(user))
            assert int(answer.headers["Retry-After"]) >= 1
            assert browser.log_out().status_code < 400
            assert browser.log_in(user).status_code < 400
        finally:
            fleet.wire.restore()
        assert 202 == browser.post("refresh").status_code
        assert "complete" == fleet.finished(user, browser)["state"]
    assert 1 == fleet.kick_offs(user)


def test_an_upstream_that_is_down_does_not_break_the_login(fleet: Fleet, browser: Browser) -> None:
    """With an upstream that resets every connection users log in and out, and the status says what is wrong."""
    user = fleet.user()
    fleet.simulator.script(Fault("login", "reset", icn=icn_of(user)))
    assert browser.log_in(user).status_code < 400
    told = eventually(lambda: (found := browser.get("status").json())["failure"] and found)
    assert ("no_session", True, "connection_reset") == (told["state"], told["stale"], told["failure"]["code"])
    assert 503 == browser.get("records/vitals").status_code
    assert browser.log_out().status_code < 400
    assert 0 == fleet.kick_offs(user)


def test_a_logout_ends_the_session_and_keeps_the_window(fleet: Fleet, portal: RunningHost, browser: Browser) -> None:
    """After a logout there is no session, as another browser of the user sees; a second login starts no refresh."""
    user = fleet.user()
    with Browser(portal) as other:
        other.log_in(user)
        assert browser.log_in(user).status_code < 400
        first = fleet.finished(user, browser)
        assert browser.log_out().status_code < 400
        assert 401 == browser.get("status").status_code
        assert "no_session" == other.get("status").json()["state"]

        assert browser.log_in(user).status_code < 400
        again = browser.settled()
        assert (1, first["refresh_id"]) == (fleet.kick_offs(user), again["refresh_id"])


@pytest.mark.parametrize("store", ["sqlite", "valkey"])
def test_two_processes_start_one_refresh(fleet: Fleet, host: HostUnderTest, store: Store) -> None:
    """Somebody who logs in at two processes of the host at the same moment has one refresh, which both see."""
    user = fleet.user()
    places = [fleet.host(host, store, number) for number in (1, 2)]
    together = threading.Barrier(len(places))

    with ExitStack() as stack:
        browsers = [stack.enter_context(Browser(place)) for place in places]

        def visit(browser: Browser) -> object:
            together.wait()
            assert browser.log_in(user).status_code < 400
            return fleet.finished(user, browser)["refresh_id"]

        with ThreadPoolExecutor(len(places)) as pool:
            refreshes = set(pool.map(visit, browsers))
    calls = fleet.simulator.calls()
    assert (1, 1, 0) == (len(refreshes), fleet.kick_offs(user), calls["simultaneous_logins"])


@pytest.mark.parametrize("path", PRIVATE)
def test_nobody_is_told_anything(browser: Browser, path: str) -> None:
    """Without a login each endpoint answers 401, as a problem."""
    answer = browser.get(path)
    assert (401, PROBLEM) == (answer.status_code, answer.headers["Content-Type"])
    assert ("not_logged_in", True) == (answer.json()["code"], "WWW-Authenticate" in answer.headers)


def test_nobody_starts_anything(browser: Browser) -> None:
    """Without a login POST refresh answers 401, too."""
    answer = browser.post("refresh")
    assert (401, "not_logged_in") == (answer.status_code, answer.json()["code"])


@pytest.mark.parametrize("behaviour", ["guest", "nobody"])
def test_who_has_no_account_is_not_eligible(fleet: Fleet, browser: Browser, behaviour: str) -> None:
    """A user without an MHV account, or who is no patient, logs in and out; every endpoint answers 403."""
    user = fleet.user(behaviour)
    assert browser.log_in(user).status_code < 400
    answers = [*(browser.get(path) for path in PRIVATE), browser.post("refresh")]
    assert {(403, PROBLEM, "not_eligible")} == {
        (answer.status_code, answer.headers["Content-Type"], answer.json()["code"]) for answer in answers
    }
    assert browser.log_out().status_code < 400
    pseudonym = fleet.simulator.pseudonym(icn_of(user))
    assert pseudonym not in fleet.simulator.calls()["patients"]


def test_a_refresh_can_be_asked_for_once_in_a_window(fleet: Fleet, browser: Browser) -> None:
    """While the window is closed POST refresh answers 429, with the time when it opens."""
    user = fleet.user()
    browser.log_in(user)
    fleet.finished(user, browser)
    answer = browser.post("refresh")
    assert (429, PROBLEM, "window_closed") == (
        answer.status_code,
        answer.headers["Content-Type"],
        answer.json()["code"],
    )
    assert 3000 < int(answer.headers["Retry-After"]) <= 3600
    assert 1 == fleet.kick_offs(user)


@pytest.mark.parametrize("host", [name for name in HOSTS if HOSTS[name].refused_without_csrf], indirect=True)
def test_another_sites_page_starts_nothing(fleet: Fleet, host: HostUnderTest, browser: Browser) -> None:
    """A POST without what the host's protection against cross-site requests asks for never reaches the contract."""
    browser.log_in(fleet.user("guest"))
    assert 403 == browser.post("refresh").status_code
    assert "not_eligible" == browser.post("refresh").json()["code"]
    refused = browser.post("refresh", csrf=False)
    assert (host.refused_without_csrf, True) == (refused.status_code, "not_eligible" not in refused.text)


def test_events_come_while_the_refresh_goes_on(fleet: Fleet, browser: Browser) -> None:
    """The stream tells of a refresh that runs, then of its end, and ends with it; who saw that is sent away."""
    user = fleet.user()
    fleet.keep_refreshing(user)
    browser.log_in(user)
    until_refreshing(browser)

    with browser.stream("events") as lines:
        first = next(line for line in lines if line.startswith("data: "))
        fleet.let_end()
        rest = list(lines)

    assert "refreshing" == json.loads(first.removeprefix("data: "))["state"]
    told = [json.loads(line.removeprefix("data: ")) for line in rest if line.startswith("data: ")]
    assert "complete" == told[-1]["state"]
    last_id = next(line.removeprefix("id: ") for line in reversed(rest) if line.startswith("id: "))
    seen = browser.get("events", Last_Event_ID=last_id)
    assert (204, b"", None) == (seen.status_code, seen.content, seen.headers.get("Content-Type"))


def test_what_is_public_is_served_to_everybody(browser: Browser) -> None:
    """The browser module and the OpenAPI document need no login."""
    module, document = browser.get("phr-refresh.js"), browser.get("openapi.json")
    assert (200, 200) == (module.status_code, document.status_code)
    assert module.headers["Content-Type"].startswith("text/javascript")
    assert "phr-refresh-status" in module.text
    assert document.json()["openapi"].startswith("3.1")


def test_nobody_can_ask_for_another_users_state(fleet: Fleet, portal: RunningHost, browser: Browser) -> None:
    """Whatever a browser sends, the state is that of the user whom its session names."""
    ada, bob = fleet.user(), fleet.user()
    with Browser(portal) as hers:
        hers.log_in(ada)
        known = fleet.finished(ada, hers)
    fleet.simulator.script(Fault("login", "http_error", icn=icn_of(bob)))
    browser.log_in(bob)

    tries = [
        browser.get(f"status?user={ada}&user_id={ada}"),
        browser.get("status", X_User=ada, Remote_User=ada, X_Forwarded_User=ada, Cookie2=f"user={ada}"),
    ]
    assert known["refresh_id"]
    assert [None] * len(tries) == [answer.json()["refresh_id"] for answer in tries]
    assert [404, 404] == [browser.get(path).status_code for path in (f"status/{ada}", f"records/vitals/{ada}")]


def test_validators_methods_and_preferences_pass_through(fleet: Fleet, browser: Browser) -> None:
    """Nothing of the contract is lost in the framework: ETag and 304, HEAD, 404 and 405 as problems, Prefer."""
    user = fleet.user()
    browser.log_in(user)
    fleet.finished(user, browser)
    found = browser.get("status", Prefer="wait=0")
    assert (200, "no-store") == (found.status_code, found.headers["Cache-Control"])
    assert "Prefer" in found.headers["Vary"]

    unchanged = browser.get("status", If_None_Match=found.headers["ETag"])
    assert (304, b"") == (unchanged.status_code, unchanged.content)
    # As it is: what a host compresses, it does not compress for HEAD.
    document = browser.get("openapi.json", Accept_Encoding="identity")
    head = browser.head("openapi.json")
    assert (200, b"") == (head.status_code, head.content)
    assert document.headers["Content-Length"] == head.headers["Content-Length"]
    missing, not_allowed = browser.get("nothing"), browser.post("status")
    assert (404, PROBLEM) == (missing.status_code, missing.headers["Content-Type"])
    assert (405, PROBLEM, "GET, HEAD") == (
        not_allowed.status_code,
        not_allowed.headers["Content-Type"],
        not_allowed.headers["Allow"],
    )


def test_logs_show_no_identifier(fleet: Fleet, portal: RunningHost, browser: Browser) -> None:
    """A whole visit, its logs at INFO, leaves neither an identifier nor the upstream's keys in them."""
    user = fleet.user()
    browser.log_in(user)
    fleet.finished(user, browser)
    browser.get("records/vitals")
    browser.log_out()
    log = portal.log()
    assert "phr_refresh.refresh_completed" in log
    secrets = (icn_of(user), correlation_id_of(user), fleet.simulator.app_token, fleet.simulator.authorization_key)
    assert [] == [secret for secret in secrets if secret in log]
