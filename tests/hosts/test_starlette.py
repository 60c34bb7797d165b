"""The adapter for Starlette and FastAPI, served by uvicorn: mounting, lifespan, dependencies, hooks, other sites."""

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Annotated, Any

import pytest
import requests
from fastapi import APIRouter, Depends, FastAPI
from phr_refresh import AsyncPhrRefresh, ConfigurationError, Patient
from phr_refresh.starlette import PhrRefreshStarlette, SameOriginOnly, is_same_origin
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp
from support.asgi import PATIENCE_SECONDS, served
from support.fakes import ScriptedUpstream
from support.samples import ADA, GUEST, UNHURRIED
from support.values import replace

PEOPLE = {"ada": ADA, "guest": GUEST}
POLICY = replace(UNHURRIED, poll_interval=timedelta(milliseconds=50))
SESSIONS = Middleware(SessionMiddleware, secret_key="of-no-value")


def patient_of(request: Request) -> Patient | None:
    """Who the session says it is."""
    return PEOPLE.get(request.session.get("user", ""))


def embedded(patient_of: Callable[[Request], Any] = patient_of, **options: Any) -> PhrRefreshStarlette:
    """phr-refresh in memory, before an upstream with which all goes well."""
    block = {"patient_of": patient_of, "store": "memory://", "upstream": ScriptedUpstream(), "policy": POLICY}
    return PhrRefreshStarlette(block, **options)


def in_starlette(phr: PhrRefreshStarlette) -> ASGIApp:
    """Among the routes of a Starlette app."""
    return Starlette(routes=[phr.mount("/phr"), *views(phr)], lifespan=phr.lifespan, middleware=[SESSIONS])


def in_fastapi(phr: PhrRefreshStarlette) -> ASGIApp:
    """Among the routes of a FastAPI app."""
    return FastAPI(routes=[phr.mount("/phr"), *views(phr)], lifespan=phr.lifespan, middleware=[SESSIONS])


def in_a_router(phr: PhrRefreshStarlette) -> ASGIApp:
    """By a router that a FastAPI app includes, its lifespan as well."""
    app = FastAPI(routes=views(phr), middleware=[SESSIONS])
    app.include_router(APIRouter(routes=phr.routes, lifespan=phr.lifespan), prefix="/phr")
    return app


def below_a_prefix(phr: PhrRefreshStarlette) -> ASGIApp:
    """In an app that is itself mounted, behind another one's session."""
    inner = Starlette(routes=[phr.mount("/phr"), *views(phr)])
    return Starlette(routes=[Mount("/portal", inner)], lifespan=phr.lifespan, middleware=[SESSIONS])


def views(phr: PhrRefreshStarlette) -> list[Route]:
    """A login and a logout."""

    async def log_in(request: Request) -> Response:
        request.session["user"] = request.path_params["user"]
        receipt = await phr.logged_in(request)
        return JSONResponse({"receipt": receipt and [receipt.kind, receipt.reason]})

    async def log_out(request: Request) -> Response:
        await phr.logged_out(request)
        request.session.clear()
        return Response(status_code=204)

    return [Route("/login/{user}", log_in, methods=["POST"]), Route("/logout", log_out, methods=["POST"])]


@pytest.fixture
def browser() -> Iterator[requests.Session]:
    """Keeps cookies."""
    with requests.Session() as session:
        session.trust_env = False
        yield session


def settled(browser: requests.Session, url: str) -> dict[str, Any]:
    """The status once the refresh has ended."""
    while (answer := browser.get(url, headers={"Prefer": "wait=5"}, timeout=PATIENCE_SECONDS)).status_code == 202:
        pass
    answer.raise_for_status()
    return answer.json()


@pytest.mark.parametrize("build", [in_starlette, in_fastapi, in_a_router, below_a_prefix])
def test_it_can_be_mounted_everywhere(
    build: Callable[[PhrRefreshStarlette], ASGIApp], browser: requests.Session
) -> None:
    """Login, status, records, refresh and logout work wherever the routes are put, with every method."""
    with served(build(embedded())) as root:
        url = f"{root}/portal" if build is below_a_prefix else root
        assert 401 == browser.get(f"{url}/phr/status").status_code
        assert {"receipt": ["handed_over", None]} == browser.post(f"{url}/login/ada").json()
        assert "complete" == settled(browser, f"{url}/phr/status")["state"]
        head = browser.head(f"{url}/phr/status")
        assert (200, b"") == (head.status_code, head.content)
        assert "Bundle" == browser.get(f"{url}/phr/records/vitals").json()["resourceType"]
        assert 429 == browser.post(f"{url}/phr/refresh").status_code
        assert (405, "POST") == ((refused := browser.put(f"{url}/phr/refresh")).status_code, refused.headers["Allow"])
        assert 404 == browser.get(f"{url}/phr/elsewhere").status_code
        assert 204 == browser.post(f"{url}/logout").status_code
        assert 401 == browser.get(f"{url}/phr/status").status_code


@pytest.mark.parametrize("path", ["phr-refresh.js", "openapi.json"])
def test_what_is_public_touches_no_session(path: str, browser: requests.Session) -> None:
    """What any cache may keep comes without a cookie, of a host whose sessions last as long as they are used."""

    def look(request: Request) -> Patient | None:
        request.session["seen"] = True
        return None

    with served(in_starlette(embedded(look, is_logged_in=look))) as url:
        answers = [
            browser.get(f"{url}/phr/{path}"),
            browser.post(f"{url}/phr/{path}"),
            browser.get(f"{url}/phr/status"),
        ]
    assert [200, 405, 401] == [answer.status_code for answer in answers]
    assert [False, False, True] == ["Set-Cookie" in answer.headers for answer in answers]
    assert ["nosniff"] * 3 == [answer.headers["X-Content-Type-Options"] for answer in answers]


def test_headers_that_come_twice_are_joined(browser: requests.Session) -> None:
    """Two If-None-Match headers count as one list; no header of the answer comes twice."""
    with served(in_starlette(embedded())) as url:
        browser.post(f"{url}/login/ada")
        settled(browser, f"{url}/phr/status")
        etag = browser.get(f"{url}/phr/status").headers["ETag"]
        prepared = browser.prepare_request(requests.Request("GET", f"{url}/phr/status"))
        connection = requests.packages.urllib3.HTTPConnectionPool(*url.removeprefix("http://").split(":"))
        cookie = prepared.headers["Cookie"]
        headers = requests.packages.urllib3.HTTPHeaderDict({"Cookie": cookie, "If-None-Match": '"other"'})
        headers.add("If-None-Match", etag)
        answer = connection.request("GET", "/phr/status", headers=headers)
        connection.close()
    assert 304 == answer.status
    assert len(set(answer.headers)) == len(list(answer.headers.iteritems()))


def test_who_has_no_records_is_told_so(browser: requests.Session) -> None:
    """401 for nobody; 403 for a patient without an account, and for a user who is no patient, if the host tells."""
    phr = embedded(is_logged_in=lambda request: "user" in request.session)
    with served(in_starlette(phr)) as url:
        assert "not_logged_in" == browser.get(f"{url}/phr/status").json()["code"]
        assert {"receipt": ["not_eligible", None]} == browser.post(f"{url}/login/guest").json()
        assert "not_eligible" == browser.get(f"{url}/phr/status").json()["code"]
        assert {"receipt": None} == browser.post(f"{url}/login/clerk").json()
        assert "not_eligible" == browser.get(f"{url}/phr/status").json()["code"]


def test_its_lifespan_can_be_nested(runner: asyncio.Runner) -> None:
    """A host enters it in its own lifespan; what it gives works inside, and nowhere else."""
    phr = embedded()

    @asynccontextmanager
    async def lifespan(app: Starlette):
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(phr.lifespan(app))
            yield {"host": "its own state"}

    async def visit() -> AsyncPhrRefresh:
        async with lifespan(Starlette()):
            with pytest.raises(ConfigurationError, match="its lifespan runs already; enter it once"):
                async with phr.lifespan():
                    pass
            return phr.refresher()

    first = runner.run(visit())
    with pytest.raises(ConfigurationError, match=r"its lifespan does not run; give the app lifespan=phr\.lifespan"):
        phr.refresher()
    assert first is not runner.run(visit())
    with pytest.raises(ConfigurationError, match="it is closed"):
        runner.run(first.status("ada"))


def test_wrong_settings_are_told_when_the_app_is_made() -> None:
    """Not with the first request, nor at start-up."""
    with pytest.raises(ConfigurationError, match=r"PHR_REFRESH\['patient_of'\]"):
        PhrRefreshStarlette({"upstream": ScriptedUpstream()})


def test_without_starlette_it_says_what_to_install() -> None:
    """The error names the extra."""
    program = "import sys; sys.modules['starlette'] = None; import phr_refresh.starlette"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (
        "phr_refresh.starlette needs an optional dependency; run: pip install 'phr-refresh[starlette]'." in done.stderr
    )


def test_hooks_outside_the_lifespan_harm_nobody(runner: asyncio.Runner, caplog: pytest.LogCaptureFixture) -> None:
    """A login or logout while phr-refresh does not run goes on, and one line tells."""
    phr, request = embedded(), Request({"type": "http", "session": {"user": "ada"}})
    receipt = runner.run(phr.logged_in(request))
    assert ("deferred", "closed") == (receipt.kind, receipt.reason)
    assert None is runner.run(phr.logged_out(request))
    assert ["phr_refresh.login_deferred", "phr_refresh.logout_deferred"] == [
        record.getMessage().partition(" ")[0] for record in caplog.records
    ]


def test_views_get_it_by_dependency(browser: requests.Session) -> None:
    """FastAPI's `Depends` gives a view the patient of its request, and what it can ask about them."""
    phr = embedded()
    app = in_fastapi(phr)

    @app.get("/summary")
    async def summary(
        patient: Annotated[Patient | None, Depends(phr.patient)],
        refresher: Annotated[AsyncPhrRefresh, Depends(phr.refresher)],
    ) -> dict[str, str | None]:
        return {"state": None if patient is None else (await refresher.status(patient)).state.label}

    with served(app) as url:
        assert {"state": None} == browser.get(f"{url}/summary").json()
        browser.post(f"{url}/login/ada")
        settled(browser, f"{url}/phr/status")
        assert {"state": "complete"} == browser.get(f"{url}/summary").json()


async def found_later(request: Request) -> Patient | None:
    """`patient_of` as a coroutine."""
    await asyncio.sleep(0)
    return patient_of(request)


async def fails_later(request: Request) -> Patient | None:
    """One whose database is down."""
    await asyncio.sleep(0)
    raise LookupError("no connection")


def fails(request: Request) -> Patient | None:
    """The same, at once."""
    raise LookupError("no connection")


def test_the_patient_may_be_awaited(browser: requests.Session) -> None:
    """An asynchronous `patient_of` serves hooks and endpoints."""
    with served(in_starlette(embedded(found_later))) as url:
        assert {"receipt": ["handed_over", None]} == browser.post(f"{url}/login/ada").json()
        assert "complete" == settled(browser, f"{url}/phr/status")["state"]
        assert 204 == browser.post(f"{url}/logout").status_code
        browser.post(f"{url}/login/clerk")
        assert 401 == browser.get(f"{url}/phr/status").status_code


@pytest.mark.parametrize("find", [fails, fails_later])
def test_a_search_that_fails_breaks_no_login(
    find: Callable[[Request], Any], browser: requests.Session, caplog: pytest.LogCaptureFixture
) -> None:
    """Login and logout succeed, and one line tells of each."""
    with served(in_starlette(embedded(find))) as url:
        assert {"receipt": None} == browser.post(f"{url}/login/ada").json()
        assert 204 == browser.post(f"{url}/logout").status_code
    failures = [record.getMessage() for record in caplog.records if "hook_failed" in record.getMessage()]
    assert [True, True] == ["LookupError" in line for line in failures]


def test_a_slow_search_holds_no_login_up(runner: asyncio.Runner) -> None:
    """A login whose patient is long in coming returns within the budget; the refresh starts behind it."""
    found = asyncio.Event()

    async def find(request: Request) -> Patient | None:
        await found.wait()
        return ADA

    upstream = ScriptedUpstream()
    block = {"patient_of": find, "store": "memory://", "upstream": upstream, "policy": {"login_budget": 0.05}}
    phr, request = PhrRefreshStarlette(block), Request({"type": "http"})

    async def log_in() -> None:
        async with phr.lifespan():
            receipt = await phr.logged_in(request)
            assert ("deferred", "over_budget", 0) == (receipt.kind, receipt.reason, upstream.kick_offs)
            found.set()

    runner.run(log_in())
    assert 1 == upstream.kick_offs


SITES = [
    ({}, True),
    ({"sec-fetch-site": "same-origin", "origin": "https://portal.example"}, True),
    ({"sec-fetch-site": "none"}, True),
    ({"sec-fetch-site": "same-site", "origin": "https://blog.portal.example"}, False),
    ({"sec-fetch-site": "cross-site", "origin": "https://evil.example"}, False),
    ({"sec-fetch-site": "cross-site", "origin": "null"}, False),
    ({"sec-fetch-site": "cross-site", "origin": "https://trusted.example"}, True),
    ({"sec-fetch-site": "cross-site"}, False),
    ({"sec-fetch-site": ""}, False),
    ({"origin": "https://portal.example"}, True),
    ({"origin": "https://portal.example:8443"}, False),
    ({"origin": "https://evil.example"}, False),
    ({"origin": "https://portal.example.evil.example"}, False),
    ({"origin": "https://trusted.example"}, True),
    ({"origin": "null"}, False),
    ({"origin": ""}, False),
    ({"origin": "http://[::1"}, False),
]


@pytest.mark.parametrize(("headers", "expected"), SITES)
def test_where_a_request_comes_from(headers: dict[str, str], expected: bool) -> None:
    """By Sec-Fetch-Site, and by Origin where there is none."""
    trusted = ("https://trusted.example",)
    assert expected == is_same_origin({"host": "portal.example"} | headers, trusted)


def test_another_sites_page_starts_nothing(browser: requests.Session) -> None:
    """Its POST to the endpoints is refused with problem details, whatever the cookie says; its GET is not."""
    upstream = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
    phr = embedded()
    with served(in_starlette(phr)) as url:
        browser.post(f"{url}/login/ada")
        refused = browser.post(f"{url}/phr/refresh", headers=upstream)
        assert (403, "cross_origin") == (refused.status_code, refused.json()["code"])
        assert "application/problem+json" == refused.headers["Content-Type"]
        assert "nosniff" == refused.headers["X-Content-Type-Options"]
        assert 202 == browser.post(f"{url}/phr/refresh", headers={"Origin": url}).status_code
        assert browser.get(f"{url}/phr/status", headers=upstream).ok


def test_a_whole_app_can_refuse_other_sites(browser: requests.Session) -> None:
    """`SameOriginOnly` guards the host's own login and logout, and lets a trusted origin through."""
    phr = embedded()
    app = SameOriginOnly(in_starlette(phr), trusted=["https://login.example"])
    with served(app) as url:
        assert 403 == browser.post(f"{url}/login/ada", headers={"Origin": "https://evil.example"}).status_code
        assert 200 == browser.post(f"{url}/login/ada", headers={"Origin": "https://login.example"}).status_code
        assert 200 == browser.post(f"{url}/login/ada", headers={"Origin": url}).status_code
