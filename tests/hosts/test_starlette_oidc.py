"""An OpenID Connect callback as the login hook: Authlib in a FastAPI portal, before a provider on real HTTP."""

import logging
import socket
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
import requests
from authlib.integrations.starlette_client import OAuth
from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse
from phr_refresh import Patient
from phr_refresh.adapters.simulator import Simulator
from phr_refresh.starlette import PhrRefreshStarlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from support.asgi import PATIENCE_SECONDS, served
from support.oidc import CLIENT_ID, CLIENT_SECRET, OpenIdProvider, openid_provider
from support.samples import ADA


def portal(phr: PhrRefreshStarlette, provider: OpenIdProvider) -> FastAPI:
    """A portal whose users log in at the provider."""
    oauth = OAuth()
    oauth.register(
        "provider",
        client_id=CLIENT_ID,
        client_secret=CLIENT_SECRET,
        server_metadata_url=f"{provider.url}/.well-known/openid-configuration",
        client_kwargs={"scope": "openid", "code_challenge_method": "S256", "trust_env": False},
    )
    sessions = Middleware(SessionMiddleware, secret_key="of-no-value")
    app = FastAPI(lifespan=phr.lifespan, routes=[phr.mount("/phr")], middleware=[sessions])

    @app.get("/login")
    async def log_in(request: Request) -> RedirectResponse:
        return await oauth.provider.authorize_redirect(request, request.url_for("callback"))

    @app.get("/callback")
    async def callback(request: Request) -> RedirectResponse:
        token = await oauth.provider.authorize_access_token(request)
        request.session["user"] = token["userinfo"]["sub"]
        await phr.logged_in(request)
        return RedirectResponse("/records", status_code=303)

    @app.get("/records")
    async def records(request: Request) -> dict[str, str]:
        return {"user": request.session["user"]}

    return app


def patient_of(request: Request) -> Patient | None:
    """By the subject that the provider named."""
    return {"ada": ADA}.get(request.session.get("user", ""))


def fails(request: Request) -> Patient | None:
    """The portal's directory is down."""
    raise LookupError("no connection")


@pytest.fixture
def provider() -> Iterator[OpenIdProvider]:
    """Logs in ada."""
    with openid_provider("ada") as running:
        yield running


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    """The upstream, fifty times as fast as recorded."""
    with Simulator(speed=50) as running:
        yield running


@pytest.fixture
def browser() -> Iterator[requests.Session]:
    """Keeps cookies and follows redirects."""
    with requests.Session() as session:
        session.trust_env = False
        yield session


def block(simulator: Simulator, **changes: Any) -> dict[str, Any]:
    """The settings."""
    upstream = {
        "base_url": simulator.url,
        "app_token": simulator.app_token,
        "authorization_key": simulator.authorization_key,
        "fhir_url": f"{simulator.url}/fhir",
    }
    policy = {"login_budget": 5, "poll_interval": 0.05, "poll_schedule": ()}
    return {"patient_of": patient_of, "store": "memory://", "upstream": upstream, "policy": policy} | changes


def log_in(browser: requests.Session, url: str) -> dict[str, str]:
    """Go to the provider and back; what the records page says."""
    answer = browser.get(f"{url}/login", timeout=PATIENCE_SECONDS)
    assert ("/records", 200) == (answer.url.removeprefix(url), answer.status_code)
    return answer.json()


def test_the_callback_starts_the_refresh(
    provider: OpenIdProvider, simulator: Simulator, browser: requests.Session
) -> None:
    """Who comes back from the provider finds their refresh under way, then their vitals; a second login starts none."""
    with served(portal(PhrRefreshStarlette(block(simulator)), provider)) as url:
        assert {"user": "ada"} == log_in(browser, url)
        while (status := browser.get(f"{url}/phr/status", headers={"Prefer": "wait=5"})).status_code == 202:
            pass
        assert "complete" == status.json()["state"]
        assert browser.get(f"{url}/phr/records/vitals").json()["entry"]
        assert {"user": "ada"} == log_in(browser, url)
        assert "complete" == browser.get(f"{url}/phr/status").json()["state"]
    assert (2, 1) == (provider.logins, simulator.calls()["totals"]["refresh"])


@pytest.mark.parametrize("broken", ["store", "upstream", "patient_of"])
def test_nothing_keeps_the_user_out(
    broken: str,
    provider: OpenIdProvider,
    simulator: Simulator,
    browser: requests.Session,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With the store down, the upstream down, or a hook that raises, the callback logs in, and a warning tells."""
    caplog.set_level(logging.INFO)
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but nobody listens
        changes = {
            "store": {"store": f"redis://127.0.0.1:{taken.getsockname()[1]}"},
            "upstream": {},
            "patient_of": {"patient_of": fails},
        }
        if broken == "upstream":
            simulator.stop()
        with served(portal(PhrRefreshStarlette(block(simulator, **changes[broken])), provider)) as url:
            assert {"user": "ada"} == log_in(browser, url)
    told = {"store": "login_deferred", "upstream": "session_failed", "patient_of": "hook_failed"}
    assert any(told[broken] in record.getMessage() for record in caplog.records if record.levelname == "WARNING")
