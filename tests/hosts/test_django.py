"""The Django app on Django's real login view: what a login does, and that nothing keeps anybody from logging in."""

import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("django")

import phr_refresh.django as phr
from django.conf import settings
from django.contrib.auth import get_user_model
from django.db import IntegrityError, connection, transaction
from django.test import RequestFactory, override_settings
from phr_refresh import ConfigurationError, Patient, State
from phr_refresh.adapters.simulator import Fault, Simulator
from support.django_project import AnonymousUser, Browser
from support.samples import CORRELATION_ID, ICN

#: A hook that waited for what hangs would take longer than this, and no other takes so long.
HANGS_SECONDS = 30
#: So many seconds a login may take on a busy machine whose budget is not the subject.
UNHURRIED_SECONDS = 30
SUBJECTS = tuple(f"phr_refresh.{name}" for name in ("hook_", "login_", "logout_", "request_", "session_"))


def patient_of(user: Any) -> Patient | None:
    """Everybody is a patient."""
    return Patient(user.get_username(), ICN, CORRELATION_ID)


def nobody_found(user: Any) -> Patient | None:
    """Fails, and says whom it looked for."""
    raise LookupError(f"no row for {ICN} with {CORRELATION_ID}")


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    """The upstream, fifty times as fast as recorded."""
    with Simulator(speed=50) as running:
        yield running


@pytest.fixture
def block(simulator: Simulator, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """A settings block that is right, in force and to be changed before the first use."""
    given = {
        "patient_of": patient_of,
        "store": f"sqlite:///{tmp_path / 'store.db'}",
        "upstream": {
            "base_url": simulator.url,
            "fhir_url": f"{simulator.url}/fhir",
            "app_token": simulator.app_token,
            "authorization_key": simulator.authorization_key,
        },
        "policy": {"login_budget": UNHURRIED_SECONDS, "poll_interval": 0.02, "poll_schedule": (), "retry_backoff": 300},
    }
    with override_settings(PHR_REFRESH=given):
        yield given


class Warnings(logging.Handler):
    """The names and texts of what the library warns of hooks, requests and sessions.

    Not of polls: on a busy machine one of them may come too late, and be left to the next.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.told: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text.startswith(SUBJECTS):
            self.told.append(text)

    @property
    def names(self) -> list[str]:
        """The names of the events."""
        return [text.split()[0].removeprefix("phr_refresh.") for text in self.told]


@pytest.fixture
def warnings() -> Iterator[Warnings]:
    """What the library warns of during this test."""
    handler = Warnings()
    logger = logging.getLogger("phr_refresh")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


def closed_port() -> str:
    """A port of this machine where nothing listens."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def test_a_login_refreshes_and_a_logout_ends_the_session(block, simulator: Simulator, warnings: Warnings) -> None:
    """One login, one kick-off, whose end the browser sees; logging in again within the hour starts nothing."""
    browser = Browser()
    assert 302 == browser.log_in()
    assert "complete" == browser.settled()["state"]
    assert "Bundle" == browser.get("/phr/records/vitals").json()["resourceType"]
    assert 302 == browser.log_out()
    assert State.NO_SESSION == phr.refresher().status(browser.user).state
    assert (302, "complete") == (browser.log_in(), browser.settled()["state"])
    assert (1, []) == (simulator.calls()["totals"]["refresh"], warnings.told)


def test_a_visitor_learns_nothing(block) -> None:
    """Without a login there is 401, whatever the browser claims; with another user's session, that user's state."""
    browser = Browser()
    assert 401 == browser.get("/phr/status", {"user": "user-1"}, headers={"Remote-User": "user-1"}).status_code
    assert 302 == browser.log_out()


def wrong_block(block: dict[str, Any], simulator: Simulator) -> None:
    """A key that does not exist."""
    block["stroe"] = "memory://"


def no_store(block: dict[str, Any], simulator: Simulator) -> None:
    """Nothing listens where the store should be."""
    block["store"] = f"redis://{closed_port()}"


def no_upstream(block: dict[str, Any], simulator: Simulator) -> None:
    """Nothing listens where the upstream should be."""
    simulator.stop()


def raising_adapter(block: dict[str, Any], simulator: Simulator) -> None:
    """The host's own adapter fails."""
    block["patient_of"] = nobody_found


def missing_adapter(block: dict[str, Any], simulator: Simulator) -> None:
    """The host's own adapter cannot be imported."""
    block["patient_of"] = "nowhere.patient_of"


def no_block(block: dict[str, Any], simulator: Simulator) -> None:
    """There is hardly a setting."""
    block.clear()


TROUBLES = {
    "store down": (no_store, "login_deferred"),
    "upstream down": (no_upstream, "session_failed"),
    "adapter raises": (raising_adapter, "hook_failed"),
    "adapter missing": (missing_adapter, "hook_failed"),
    "unknown key": (wrong_block, "hook_failed"),
    "no settings": (no_block, "hook_failed"),
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_whatever_fails_the_login_succeeds(trouble: str, block, simulator: Simulator, warnings: Warnings) -> None:
    """The first login of the process and the next go through, one warning each, and no warning names the patient."""
    break_it, event = TROUBLES[trouble]
    break_it(block, simulator)
    for number in (1, 2):
        browser = Browser()
        assert 302 == browser.log_in()
        assert browser.user == get_user_model().objects.get(pk=browser.session["_auth_user_id"]).get_username()
        # What the worker does is told when it is done.
        while len(warnings.names) < number:
            pass
        assert [event] * number == warnings.names
    assert [] == [identifier for identifier in (ICN, CORRELATION_ID) if identifier in "\n".join(warnings.told)]


@pytest.mark.parametrize("trouble", ["store down", "adapter raises", "unknown key"])
def test_whatever_fails_the_logout_succeeds(trouble: str, block, simulator: Simulator, warnings: Warnings) -> None:
    """And it is told once."""
    browser = Browser()
    assert 302 == browser.log_in()
    assert "complete" == browser.settled()["state"]
    break_it, _ = TROUBLES[trouble]
    break_it(block, simulator)
    phr.this_process().close()
    assert 302 == browser.log_out()
    assert "_auth_user_id" not in browser.session
    assert ["hook_failed"] == warnings.names


@pytest.fixture
def black_hole() -> Iterator[str]:
    """Connections are taken, and never answered."""
    with closing(socket.create_server(("127.0.0.1", 0), backlog=64)) as server:
        yield f"redis://127.0.0.1:{server.getsockname()[1]}?socket_timeout={HANGS_SECONDS}"


@pytest.mark.parametrize("is_open", [False, True], ids=["first login", "later login"])
def test_a_store_that_hangs_is_not_waited_for(is_open: bool, block, black_hole: str, warnings: Warnings) -> None:
    """Each login comes back after the budget, long before the store's time-out, and is told of once."""
    block.update(store=black_hole, policy={"login_budget": 0.2})
    if is_open:
        phr.refresher()
    began = time.monotonic()
    assert [302, 302] == [Browser().log_in() for _ in range(2)]
    assert time.monotonic() - began < HANGS_SECONDS / 2
    # A first login may be told of by what it has opened, just after it is back.
    while len(warnings.names) < 2:
        pass
    assert ["login_deferred"] * 2 == warnings.names


def test_a_secret_that_hangs_is_not_waited_for(block, simulator: Simulator, tmp_path: Path, warnings: Warnings) -> None:
    """A first login for which reading the settings takes too long comes back, tells once, and is refreshed behind."""
    os.mkfifo(tmp_path / "token")
    block["upstream"]["app_token"] = f"file:{tmp_path / 'token'}"
    block["policy"]["login_budget"] = 0.2
    browser = Browser()
    assert 302 == browser.log_in()
    assert ["login_deferred"] == warnings.names
    (tmp_path / "token").write_text(simulator.app_token)
    block["policy"]["login_budget"] = UNHURRIED_SECONDS
    while not simulator.calls()["totals"]["refresh"]:
        pass
    assert ("complete", ["login_deferred"]) == (browser.settled()["state"], warnings.names)


def test_a_query_that_fails_in_the_hook_leaves_the_transaction_of_the_login_whole(block, warnings: Warnings) -> None:
    """With ATOMIC_REQUESTS, what the host's adapter breaks in the database is undone, and nothing else."""

    def breaks_the_transaction(user: Any) -> Patient | None:
        with transaction.atomic(savepoint=False):
            get_user_model().objects.create(username=user.get_username())
        raise AssertionError("there is such a user already")

    block["patient_of"] = breaks_the_transaction
    browser = Browser()
    with transaction.atomic():
        assert 302 == browser.log_in()
        assert not connection.needs_rollback
    assert get_user_model().objects.filter(username=browser.user).exists()
    assert ["hook_failed"] == warnings.names
    assert IntegrityError.__name__ in warnings.told[0]


def test_an_adapter_that_fails_in_a_request_is_a_problem_without_its_text(block, warnings: Warnings) -> None:
    """The browser gets 500 as problem details, the log the type of the error, and neither the patient."""
    browser = Browser()
    browser.log_in()
    assert "complete" == browser.settled()["state"]
    block["patient_of"] = nobody_found
    phr.this_process().close()
    answer = browser.get("/phr/status")
    assert (500, "application/problem+json") == (answer.status_code, answer["Content-Type"])
    assert ["phr_refresh.request_failed error=LookupError"] == warnings.told


@pytest.mark.parametrize("path", ["phr-refresh.js", "openapi.json"])
def test_what_is_public_touches_no_session(block, path: str) -> None:
    """What any cache may keep does not depend on who asks: Django says so where a session was looked into."""
    browser = Browser()
    browser.log_in()
    answers = [browser.get(f"/phr/{path}"), browser.get("/phr/status")]
    assert [False, True] == ["Cookie" in answer.get("Vary", "") for answer in answers]
    assert 200 == answers[0].status_code


def test_a_post_needs_the_token(block) -> None:
    """Without Django's CSRF token a refresh is refused, with or without the middleware; with it, it is answered."""
    browser = Browser(enforce_csrf_checks=True)
    login = browser.post("/login", {"user": browser.user}, headers=browser.get("/csrf").json())
    assert 302 == login.status_code
    assert 403 == browser.post("/phr/refresh").status_code
    assert browser.post("/phr/refresh", headers=browser.get("/csrf").json()).status_code in (202, 429)
    with override_settings(MIDDLEWARE=[name for name in settings.MIDDLEWARE if "csrf" not in name]):
        unprotected = Browser(enforce_csrf_checks=True)
        unprotected.cookies = browser.cookies
        assert 403 == unprotected.post("/phr/refresh").status_code


def test_middleware_does_not_change_what_the_contract_says(block, simulator: Simulator) -> None:
    """A 202 stays one for who knows its tag, and events are not held back to be compressed."""
    added = ["django.middleware.gzip.GZipMiddleware", "django.middleware.http.ConditionalGetMiddleware"]
    with override_settings(MIDDLEWARE=[*added, *settings.MIDDLEWARE]):
        browser = Browser()
        simulator.script(Fault("status", "http_error", status=503))
        browser.log_in()
        answer = browser.get("/phr/status")
        while answer.json()["state"] != "refreshing":
            answer = browser.get("/phr/status")
        again = browser.get("/phr/status", headers={"If-None-Match": answer["ETag"]})
        assert (202, 202) == (answer.status_code, again.status_code)
        events = browser.get("/phr/events", headers={"Accept-Encoding": "gzip"})
        assert "Content-Encoding" not in events
        assert b"retry: 2000\n\n" == next(iter(events))
        events.close()


def test_other_settings_open_anew(block, tmp_path: Path) -> None:
    """A test that overrides the settings gets a refresher by them, and afterwards one by the old ones."""
    first = phr.refresher()
    assert first is phr.refresher()
    with override_settings(PHR_REFRESH=block | {"store": f"sqlite:///{tmp_path / 'other.db'}"}):
        assert first is not phr.refresher()
        phr.refresher().status("ada")
        assert (tmp_path / "other.db").exists()
    with pytest.raises(ConfigurationError, match="PhrRefresh: it is closed"):
        first.status("ada")
    assert State.NO_SESSION == phr.refresher().status("ada").state


def test_many_threads_open_one(block) -> None:
    """Whoever comes first opens; everybody gets the same."""
    together = threading.Barrier(8)
    found: list[object] = []

    def open_it() -> None:
        together.wait()
        found.append(phr.refresher())

    threads = [threading.Thread(target=open_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (8, 1) == (len(found), len({id(item) for item in found}))


def test_a_portal_with_a_login_of_its_own_calls_the_hooks(block, simulator: Simulator) -> None:
    """`logged_in` and `logged_out` do what the signals do, and a second call starts nothing."""
    user = get_user_model()(username="by-hand")
    phr.logged_in(user)
    phr.logged_in(user)
    while phr.refresher().status(patient_of(user)).state is not State.COMPLETE:
        pass
    phr.logged_out(user)
    assert State.NO_SESSION == phr.refresher().status("by-hand").state
    assert 1 == simulator.calls()["totals"]["refresh"]


def test_a_view_learns_which_patient_is_logged_in(block) -> None:
    """`patient(request)` gives the patient, and None for a visitor."""
    request = RequestFactory().get("/")
    request.user = get_user_model()(username="viewer")
    assert "viewer" == phr.patient(request).user_id
    request.user = AnonymousUser()
    assert phr.patient(request) is None
