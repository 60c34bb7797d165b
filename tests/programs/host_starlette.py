"""A FastAPI portal with Starlette's signed session cookie: the host under test of `support.host_starlette`."""

import asyncio
import socket
from contextlib import asynccontextmanager
from typing import Annotated

import uvicorn
from fastapi import FastAPI, Form, Request, Response
from phr_refresh.starlette import PhrRefreshStarlette
from starlette.middleware.sessions import SessionMiddleware
from support import portal

portal.prepare()


async def patient_of(request: Request):
    """Asks the portal in a thread, since it takes its time."""
    user = request.session.get("user")
    return None if user is None else await asyncio.to_thread(portal.patient_of, user, is_logged_in=True)


phr = PhrRefreshStarlette(portal.block(patient_of), is_logged_in=lambda request: "user" in request.session)


@asynccontextmanager
async def lifespan(app: FastAPI):
    """Tells where it listens once requests are answered."""
    async with phr.lifespan(app):
        portal.listening(listener.getsockname()[1])
        yield


app = FastAPI(lifespan=lifespan, routes=[phr.mount("/phr")])
app.add_middleware(SessionMiddleware, secret_key="of-no-value")


@app.get("/csrf")
async def csrf() -> dict[str, dict[str, str]]:
    """Nothing is asked for: browsers say by themselves where a request comes from."""
    return {"headers": {}}


@app.post("/login", status_code=204)
async def log_in(request: Request, user: Annotated[str, Form()]) -> Response:
    """Puts the user into the session."""
    request.session["user"] = user
    await phr.logged_in(request)
    return Response(status_code=204)


@app.post("/logout", status_code=204)
async def log_out(request: Request) -> Response:
    """Takes the user out of the session."""
    await phr.logged_out(request)
    request.session.clear()
    return Response(status_code=204)


# Connections wait here until uvicorn takes them.
listener = socket.create_server(("127.0.0.1", 0), backlog=512)
config = uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=2)
uvicorn.Server(config).run(sockets=[listener])
