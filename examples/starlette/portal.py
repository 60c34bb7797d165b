"""A small patient portal on FastAPI: a login, a records page, and phr-refresh behind both.

    pip install 'phr-refresh[starlette]'
    python examples/starlette/portal.py

It runs against a simulator of the upstream, unless PHR_REFRESH_MHV_URL, PHR_REFRESH_FHIR_URL, PHR_REFRESH_APP_TOKEN and
PHR_REFRESH_AUTHORIZATION_KEY name a real one; the store is PHR_REFRESH_STORE, or a new SQLite file.
"""

import argparse
import secrets
import socket
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from html import escape
from pathlib import Path
from string import Template
from typing import Annotated, Any

import uvicorn
from fastapi import Depends, FastAPI, Form, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from phr_refresh import Patient
from phr_refresh.starlette import PhrRefreshStarlette, SameOriginOnly
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware

EXAMPLES = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(EXAMPLES))
from people import PEOPLE, settings_by


def patient_of(request: Request) -> Patient | None:
    """The patient whose session the request carries."""
    return PEOPLE.get(request.session.get("user", ""))


def portal(settings: Mapping[str, Any], *, secret_key: str) -> FastAPI:
    """The portal. `settings`: the PHR_REFRESH block without its `patient_of`."""
    phr = PhrRefreshStarlette({**settings, "patient_of": patient_of})
    middleware = [
        Middleware(SessionMiddleware, secret_key=secret_key),
        # Starlette has no protection against other sites' forms; this is one, for login and logout, too.
        Middleware(SameOriginOnly),
    ]
    app = FastAPI(lifespan=phr.lifespan, routes=[phr.mount("/phr")], middleware=middleware)

    @app.get("/")
    async def home() -> RedirectResponse:
        return RedirectResponse("/records", status_code=303)

    @app.get("/login")
    async def login_page() -> HTMLResponse:
        return page("login", user="")

    @app.post("/login")
    async def log_in(request: Request, user: Annotated[str, Form()]) -> Response:
        if user not in PEOPLE:
            return RedirectResponse("/login", status_code=303)
        # Nothing of who was logged in before stays.
        request.session.clear()
        request.session["user"] = user
        await phr.logged_in(request)
        return RedirectResponse("/records", status_code=303)

    @app.post("/logout")
    async def log_out(request: Request) -> RedirectResponse:
        await phr.logged_out(request)
        request.session.clear()
        return RedirectResponse("/login", status_code=303)

    @app.get("/records")
    async def records(patient: Annotated[Patient | None, Depends(phr.patient)]) -> Response:
        if patient is None:
            return RedirectResponse("/login", status_code=303)
        return page("records", user=patient.user_id)

    return app


def page(name: str, *, user: str) -> HTMLResponse:
    """A page of the examples. There is no token in it: see `SameOriginOnly`."""
    text = (EXAMPLES / "pages" / f"{name}.html").read_text(encoding="utf-8")
    content = Template(text).safe_substitute(csrf="", csrf_header="", csrf_token="", user=escape(user))
    return HTMLResponse(content, headers={"Cache-Control": "no-store"})


def main() -> None:
    """Serve the portal on this machine alone, until it is interrupted."""
    parser = argparse.ArgumentParser(description="A patient portal on FastAPI.")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one")
    port = parser.parse_args().port
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", port), backlog=512))
        app = portal(settings_by(stack), secret_key=secrets.token_urlsafe())
        print(f"listening on http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        # Else it would wait for streams of events to end before it ends.
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=3)
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
