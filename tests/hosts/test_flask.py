"""The Flask extension: factories, signals, settings, commands, forks. What all hosts do is in test_hosts."""

import gc
import logging
import re
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, Response, request, session
from flask.testing import FlaskClient
from flask_login import (
    LoginManager,
    UserMixin,
    current_user,
    login_user,
    logout_user,
    user_loaded_from_cookie,
    user_logged_in,
    user_logged_out,
)
from phr_refresh import ConfigurationError, Patient, State
from phr_refresh.adapters.simulator import Fault, Simulator
from phr_refresh.flask import PhrRefreshFlask
from support.fleet import eventually
from support.hosts import Browser, HostUnderTest, environment
from support.portal import icn_of
from support.samples import CORRELATION_ID, ICN

UNHURRIED_SECONDS = 30
GUNICORN = HostUnderTest(name="flask_gunicorn", modules=("flask", "flask_login", "flask_wtf", "gunicorn"))
# Flask-Login 0.6 asks the clock in a way that newer Pythons deprecate.
COOKIES = pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")

Block = Callable[..., dict[str, Any]]
MakePortal = Callable[..., Flask]


class User(UserMixin):
    """A user by name."""

    def __init__(self, name: str) -> None:
        self.id = name


def patient_of(user: User) -> Patient | None:
    """Everybody but Eve is a patient."""
    return None if user.id == "eve" else Patient(user.id, ICN, CORRELATION_ID)


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    """The upstream, much faster than recorded."""
    with Simulator(speed=1000, login_seconds=0) as running:
        yield running


@pytest.fixture
def block(simulator: Simulator, tmp_path: Path) -> Block:
    """A settings block with changes."""
    upstream = {
        "base_url": simulator.url,
        "app_token": simulator.app_token,
        "authorization_key": simulator.authorization_key,
    }
    policy = {"login_budget": UNHURRIED_SECONDS, "poll_interval": 0.05, "poll_schedule": ()}
    given = {
        "patient_of": patient_of,
        "store": f"sqlite:///{tmp_path / 'store.db'}",
        "upstream": upstream,
        "policy": policy,
    }
    return lambda **changes: given | changes


@pytest.fixture
def make_portal(block: Block) -> Iterator[MakePortal]:
    """Makes portals, as an application factory does, with one extension for all of them unless told otherwise."""
    shared = PhrRefreshFlask()
    made: list[tuple[Flask, PhrRefreshFlask]] = []

    def make(phr: PhrRefreshFlask = shared, **changes: Any) -> Flask:
        app = Flask("portal")
        app.config.update(SECRET_KEY="of-no-value", TESTING=True, PHR_REFRESH=block(**changes))
        LoginManager(app).user_loader(User)
        phr.init_app(app)
        app.post("/login/<name>")(log_in)
        app.post("/logout")(log_out)
        made.append((app, phr))
        return app

    yield make
    for app, phr in made:
        with app.app_context():
            phr.close()


def log_in(name: str) -> str:
    """The login view."""
    login_user(User(name), remember="remember" in request.args)
    return ""


def log_out() -> str:
    """The logout view."""
    logout_user()
    return ""


def settled(client: FlaskClient) -> dict[str, Any]:
    """The status of who has just logged in, once it has settled."""

    def look() -> dict[str, Any] | None:
        found = client.get("/phr/status")
        assert found.status_code in (200, 202)
        return found.json if found.status_code == 200 and found.json["refresh_id"] else None

    return eventually(look)


def refreshing(client: FlaskClient) -> bool:
    """Whether the refresh of who has just logged in has begun."""
    return client.get("/phr/status").status_code == 202


def test_each_app_of_a_factory_has_its_own_state(make_portal: MakePortal, simulator: Simulator, tmp_path: Path) -> None:
    """Two apps of one extension share nothing: who logs in at one is unknown at the other."""
    phr = PhrRefreshFlask()
    first, second = make_portal(phr), make_portal(phr, store=f"sqlite:///{tmp_path / 'second.db'}")

    with first.test_client() as client:
        client.post("/login/ada")
        assert "complete" == settled(client)["state"]

    states = []
    for app in (first, second):
        with app.app_context():
            states.append(phr.refresher().status("ada").state)
    assert [State.COMPLETE, State.NO_SESSION] == states
    assert 1 == simulator.calls()["totals"]["refresh"]


def test_nothing_is_connected_before_it_is_needed(make_portal: MakePortal, tmp_path: Path) -> None:
    """Making an app opens no file, and asks for no request."""
    make_portal()
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"patient_of": None}, "PHR_REFRESH['patient_of']: it is missing, or nothing that can be called;"),
        ({"store": "stroe://x"}, "store URL: its scheme stroe is not known"),
        ({"strore": "memory://"}, "PHR_REFRESH['strore']: it is unknown;"),
    ],
)
def test_a_wrong_setting_is_found_before_traffic(block: Block, changes: dict[str, Any], sentence: str) -> None:
    """`init_app` raises, and names the setting."""
    app = Flask("portal")
    app.config["PHR_REFRESH"] = block(**changes)
    with pytest.raises(ConfigurationError) as caught:
        PhrRefreshFlask(app)
    assert sentence in str(caught.value)


def test_no_settings_at_all_are_found_before_traffic() -> None:
    """A forgotten block is found, too."""
    with pytest.raises(ConfigurationError, match="PHR_REFRESH"):
        PhrRefreshFlask(Flask("portal"))


def test_somebody_must_say_who_is_logged_in(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Flask-Login the extension needs `user_of`."""
    monkeypatch.setitem(sys.modules, "flask_login", None)
    app = Flask("portal")
    app.config["PHR_REFRESH"] = block()
    with pytest.raises(ConfigurationError, match="nothing says who is logged in; install Flask-Login, or"):
        PhrRefreshFlask(app)


def test_a_forgotten_login_manager_is_named(block: Block) -> None:
    """With Flask-Login installed and not set up for the app, requests fail with a sentence that says so."""
    app = Flask("portal")
    app.config.update(PHR_REFRESH=block(), TESTING=True)
    phr = PhrRefreshFlask(app)
    with pytest.raises(ConfigurationError, match="LoginManager: Flask-Login does not know this app; call its init_app"):
        app.test_client().get("/phr/status")
    with app.app_context():
        phr.close()


def test_a_portal_without_flask_login_calls_the_verbs(block: Block, simulator: Simulator) -> None:
    """With `user_of` the views say who logged in and out; Flask-Login is not asked, and its signals are not used."""
    app = Flask("portal")
    app.config.update(SECRET_KEY="of-no-value", PHR_REFRESH=block(), TESTING=True)
    phr = PhrRefreshFlask(app, url_prefix="/records", user_of=lambda: session.get("user") and User(session["user"]))
    receipts = []

    @app.post("/login/<name>")
    def log_in(name: str) -> str:
        session["user"] = name
        receipts.append(phr.logged_in(User(name)))
        assert ICN == phr.patient().icn
        return ""

    @app.post("/logout")
    def log_out() -> str:
        phr.logged_out(User(session.pop("user")))
        return ""

    with app.test_client() as client:
        assert 401 == client.get("/records/status").status_code
        client.post("/login/ada")
        assert ["handed_over"] == [receipt.kind for receipt in receipts]
        eventually(lambda: client.get("/records/status").json["state"] == "complete")
        client.post("/logout")
        assert 401 == client.get("/records/status").status_code
    with app.app_context():
        assert phr.refresher().status("ada").state is State.NO_SESSION
        phr.close()
    assert 1 == simulator.calls()["totals"]["refresh"]


@pytest.mark.parametrize("path", ["phr-refresh.js", "openapi.json"])
def test_what_is_public_touches_no_session(block: Block, path: str) -> None:
    """What any cache may keep comes without a cookie, of a host whose sessions last as long as they are used."""

    def look() -> None:
        session["seen"] = True

    app = Flask("portal")
    app.config.update(SECRET_KEY="of-no-value", PHR_REFRESH=block(), TESTING=True)
    phr = PhrRefreshFlask(app, user_of=look)
    client = app.test_client()
    answers = [client.get(f"/phr/{path}"), client.post(f"/phr/{path}"), client.get("/phr/status")]
    with app.app_context():
        phr.close()
    assert [200, 405, 401] == [answer.status_code for answer in answers]
    assert [False, False, True] == ["Set-Cookie" in answer.headers for answer in answers]
    assert ["nosniff"] * 3 == [answer.headers["X-Content-Type-Options"] for answer in answers]


def test_who_says_who_is_logged_in_says_who_logs_in(block: Block) -> None:
    """With `user_of` Flask-Login's signals are not listened to: its users may be of another kind."""
    asked: list[object] = []
    app = Flask("portal")
    app.config["PHR_REFRESH"] = block(patient_of=asked.append)
    phr = PhrRefreshFlask(app, user_of=lambda: None)
    for signal in (user_logged_in, user_logged_out, user_loaded_from_cookie):
        signal.send(app, user=User("ada"))
    assert [] == asked
    with app.app_context():
        phr.logged_in("ada")
        phr.close()
    assert ["ada"] == asked


@pytest.mark.parametrize("has_context", [True, False])
def test_the_hooks_of_an_app_that_is_not_served_do_not_raise(
    caplog: pytest.LogCaptureFixture, has_context: bool
) -> None:
    """Before `init_app`, or outside an app, a login is deferred and one event each tells; everything else says so."""
    phr = PhrRefreshFlask()
    context = Flask("portal").app_context() if has_context else nullcontext()
    with caplog.at_level(logging.WARNING), context:
        receipt = phr.logged_in(User("ada"))
        phr.logged_out(User("ada"))
        with pytest.raises(ConfigurationError, match="there is no current app that it serves; call init_app"):
            phr.refresher()
    assert ("deferred", "closed") == (receipt.kind, receipt.reason)
    assert ["phr_refresh.login_deferred", "phr_refresh.logout_deferred"] == [
        record.message.split()[0] for record in caplog.records
    ]


@COOKIES
def test_a_browser_that_is_remembered_logs_in(make_portal: MakePortal, simulator: Simulator) -> None:
    """One that comes back with a "remember me" cookie is logged in, though no login view was asked."""
    with make_portal(patient_of=lambda user: None).test_client() as client:
        client.post("/login/ada?remember=1")
        remembered = client.get_cookie("remember_token")
    with make_portal().test_client() as client:
        client.set_cookie("remember_token", remembered.value)
        assert "complete" == settled(client)["state"]
    assert 1 == simulator.calls()["totals"]["refresh"]


@COOKIES
def test_a_remembered_browser_is_logged_in_once(make_portal: MakePortal) -> None:
    """The signal of the cookie comes with the first request of a browser's session, and not with each."""
    seen: list[bool] = []

    def watching(user: User) -> Patient | None:
        seen.append(current_user.is_authenticated)
        return None

    app = make_portal(patient_of=watching)
    app.get("/")(lambda: str(current_user.is_authenticated))
    with app.test_client() as client:
        client.post("/login/ada?remember=1")
        client.delete_cookie("session")
        assert ["True", "True"] == [client.get("/").text, client.get("/").text]
    assert [True, True] == seen


def test_a_logout_of_nobody_tells_nothing(make_portal: MakePortal, caplog: pytest.LogCaptureFixture) -> None:
    """`logout_user` without a login is no logout."""

    def never(user: object) -> Patient | None:
        raise AssertionError("there is no user to ask about")

    with caplog.at_level(logging.INFO), make_portal(patient_of=never).test_client() as client:
        assert 200 == client.post("/logout").status_code
    assert [] == [record for record in caplog.records if record.name.startswith("phr_refresh")]


def test_a_server_without_threads_lets_nobody_wait(make_portal: MakePortal, simulator: Simulator) -> None:
    """Where a process serves one request at a time nobody waits: meanwhile nobody else could log in."""
    simulator.script(Fault("status", "http_error"))
    app = make_portal(longest_wait=1)
    with app.test_client() as client:
        client.post("/login/ada")
        eventually(lambda: refreshing(client))
        applied = [
            client.get(
                "/phr/status", headers={"Prefer": "wait=9"}, environ_overrides={"wsgi.multithread": threads}
            ).headers.get("Preference-Applied")
            for threads in (True, False)
        ]
    assert ["wait=1", None] == applied


def test_a_browser_that_goes_gives_its_place_back(make_portal: MakePortal, simulator: Simulator) -> None:
    """A stream that is closed in the middle leaves its place to the next."""
    simulator.script(Fault("status", "http_error"))
    app = make_portal(places=1, longest_wait=1)
    with app.test_client() as client:
        client.post("/login/ada")
        eventually(lambda: refreshing(client))

        def waits() -> bool:
            answer = client.get(
                "/phr/status", headers={"Prefer": "wait=9"}, environ_overrides={"wsgi.multithread": True}
            )
            return "Preference-Applied" in answer.headers

        stream: Response = client.get("/phr/events", buffered=False, environ_overrides={"wsgi.multithread": True})
        assert next(iter(stream.response))
        assert not waits()
        stream.close()
        assert waits()


@pytest.mark.parametrize("path", ["/phr/", "/phr/nothing", "/phr/status/ada"])
def test_what_is_not_there_is_a_problem(make_portal: MakePortal, path: str) -> None:
    """Everything below the mount point is the contract's to answer."""
    answer = make_portal().test_client().get(path)
    assert (404, "application/problem+json") == (answer.status_code, answer.content_type)


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "POST"])
def test_methods_are_the_contracts(make_portal: MakePortal, method: str) -> None:
    """A method that is not allowed is refused by the contract, with what is allowed."""
    answer = make_portal().test_client().open("/phr/status", method=method)
    assert (405, "GET, HEAD") == (answer.status_code, answer.headers["Allow"])


def test_a_head_says_how_long_the_body_would_be(make_portal: MakePortal) -> None:
    """HEAD is GET without its body, also behind Flask."""
    client = make_portal().test_client()
    got, head = client.get("/phr/openapi.json"), client.head("/phr/openapi.json")
    assert (200, b"", got.headers["Content-Length"]) == (head.status_code, head.data, head.headers["Content-Length"])


def test_commands_sweep_and_explain(make_portal: MakePortal) -> None:
    """`flask phr-sweep` and `flask phr-explain` work on the app's own store."""
    app = make_portal()
    with app.test_client() as client:
        client.post("/login/ada")
        settled(client)
    runner = app.test_cli_runner()
    assert "0 due, 0 moved, 0 moved by others, 0 unreadable\n" == runner.invoke(args=["phr-sweep"]).output
    explained = runner.invoke(args=["phr-explain", "ada"]).output
    assert "complete" == explained.splitlines()[0]
    assert "refresh_claimed" in explained


def test_an_app_that_is_gone_is_closed(block: Block) -> None:
    """Neither the signals nor the end of the process keep an app of a test suite alive."""
    app = Flask("portal")
    app.config.update(SECRET_KEY="of-no-value", PHR_REFRESH=block())
    LoginManager(app).user_loader(User)
    PhrRefreshFlask(app)
    refresher = app.extensions["phr_refresh"].refresher
    gone = weakref.ref(app)
    del app
    gc.collect()
    assert gone() is None
    with pytest.raises(ConfigurationError, match="it is closed"):
        refresher.status("ada")


def test_a_process_that_ends_finishes_what_is_due(simulator: Simulator, tmp_path: Path) -> None:
    """A login just before the end of the process is still sent: nobody has to close anything."""
    program = (
        "from flask import Flask\n"
        "from phr_refresh import Patient\n"
        "from phr_refresh.flask import PhrRefreshFlask\n"
        "app = Flask('portal')\n"
        f"app.config['PHR_REFRESH'] = {{'patient_of': lambda user: Patient(user, '{ICN}', '{CORRELATION_ID}'),\n"
        f"                              'policy': {{'login_budget': {UNHURRIED_SECONDS}}}}}\n"
        "phr = PhrRefreshFlask(app, user_of=lambda: None)\n"
        "with app.app_context():\n"
        "    print(phr.logged_in('ada').kind.value)\n"
    )
    environ = environment(simulator, f"sqlite:///{tmp_path / 'store.db'}")
    done = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=False)
    assert ("handed_over\n", 0) == (done.stdout, done.returncode), done.stderr
    assert 1 == simulator.calls()["totals"]["refresh"]


def test_workers_forked_from_an_app_that_was_used_start_one_refresh(simulator: Simulator, tmp_path: Path) -> None:
    """Under `gunicorn --preload` the app is made, and asked, before the fork; each worker logs in and waits."""
    portal = GUNICORN.start(environment(simulator, f"sqlite:///{tmp_path / 'store.db'}"))
    with closing(portal):
        for _ in range(8):
            # A new connection each time: any worker may take it.
            with Browser(portal) as browser:
                assert 204 == browser.log_in("member-1").status_code
                assert eventually(lambda: browser.settled()["state"] == "complete")
        assert 2 == len(set(re.findall(r"Booting worker with pid: (\d+)", portal.log())))
    pseudonym = simulator.pseudonym(icn_of("member-1"))
    assert 1 == simulator.calls()["patients"][pseudonym]["refresh"]


def test_a_store_that_is_down_does_not_keep_the_portal_from_starting(make_portal: MakePortal) -> None:
    """With nothing where the store should be the app is made, users log in, and the status answers 503."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        app = make_portal(store=f"redis://127.0.0.1:{probe.getsockname()[1]}")
        with app.test_client() as client:
            assert 200 == client.post("/login/ada").status_code
            answer = client.get("/phr/status")
    assert (503, "store_unavailable") == (answer.status_code, answer.json["code"])


def test_the_module_says_what_is_missing(tmp_path: Path) -> None:
    """Without Flask the import names the extra to install."""
    program = "import sys; sys.modules['flask'] = None; import phr_refresh.flask"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert 1 == done.returncode
    assert re.search(r"MissingExtra: .*phr-refresh\[flask\]", done.stderr)


def test_a_second_login_while_the_first_goes_on_starts_nothing(make_portal: MakePortal, simulator: Simulator) -> None:
    """Many browsers of one user that log in at the same moment, by threads of one process, have one refresh."""
    app = make_portal()
    together = threading.Barrier(5)

    def visit() -> None:
        with app.test_client() as client:
            together.wait()
            client.post("/login/ada")

    threads = [threading.Thread(target=visit) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with app.test_client() as client:
        client.post("/login/ada")
        assert "complete" == settled(client)["state"]
    assert (1, 1) == (simulator.calls()["totals"]["refresh"], simulator.calls()["totals"]["login"])
