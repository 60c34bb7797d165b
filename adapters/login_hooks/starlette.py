"""The endpoints and hooks of hosts on Starlette and FastAPI: what Starlette gives in, what the contract says out.

Starlette has no protection against cross-site requests of its own. `is_same_origin` is ours: browsers say of each
request where it comes from (Fetch Metadata, section 2.4; RFC 6454, section 7), and no page can change that.
The endpoints refuse requests of other sites; `SameOriginOnly` does it for a whole app, its login and logout included.
"""

import asyncio
from collections.abc import Callable, Collection, Coroutine, Mapping
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass
from inspect import isawaitable
from typing import Any, Final

from ...statemachine.errors import MissingExtra
from ...statemachine.outcomes import Receipt
from ...statemachine.patient import Patient
from ..browser import AsyncHost, AsyncHttpStream, HttpRequest, HttpResponse, is_public, problem
from .hooks import AsyncHooks, Found

try:
    from starlette.datastructures import Headers
    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send
except ModuleNotFoundError as error:
    raise MissingExtra("phr_refresh.starlette", "starlette") from error

#: Gives the patient whose session the request carries, at once or awaited; None for nobody, or nobody with records.
PatientOf = Callable[[Request], Found]
#: Gives whether anybody is logged in.
IsLoggedIn = Callable[[Request], bool]

_SAFE_METHODS: Final = ("GET", "HEAD", "OPTIONS", "TRACE")


def is_same_origin(headers: Mapping[str, str], trusted: Collection[str] = ()) -> bool:
    """Whether a request comes from this site's own pages, from a `trusted` origin, or from no web page at all.

    What sends neither header is no browser of these years, so it acts for nobody but itself. Without
    `Sec-Fetch-Site`, which browsers leave out where there is no TLS, hosts are compared: a proxy must pass `Host` on.
    """
    origin = headers.get("origin")
    if origin is not None and origin in trusted:
        return True
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site in ("same-origin", "none")
    return origin is None or origin.partition("://")[2] == headers.get("host")


def refusal(scope: Scope, trusted: Collection[str] = ()) -> HttpResponse | None:
    """The answer to a request that would change something on behalf of another site's page; None for any other."""
    if scope["method"] in _SAFE_METHODS or is_same_origin(Headers(scope=scope), trusted):
        return None
    return problem(403, "cross_origin", "This comes from another site's page; send it from a page of this one.")


class SameOriginOnly:
    """ASGI middleware that answers 403 to other sites' POST, PUT, PATCH and DELETE requests."""

    def __init__(self, app: ASGIApp, *, trusted: Collection[str] = ()) -> None:
        """`trusted`: origins such as "https://login.example.org" whose pages may send them nevertheless."""
        self._app = app
        self._trusted = trusted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass it on, or refuse it."""
        refused = refusal(scope, self._trusted) if scope["type"] == "http" else None
        await (self._app(scope, receive, send) if refused is None else _send(refused, send))


@dataclass(frozen=True, eq=False)
class StarletteHost:
    """Serves the contract as an ASGI app, and logs in and out who sent a request. For one event loop."""

    host: AsyncHost
    hooks: AsyncHooks
    _: KW_ONLY
    patient_of: PatientOf
    is_logged_in: IsLoggedIn | None
    trusted_origins: Collection[str]

    async def patient(self, request: Request) -> Patient | None:
        """The patient whose session the request carries. Raises what the host's `patient_of` raises."""
        found = self.patient_of(request)
        return await found if isawaitable(found) else found

    async def logged_in(self, request: Request) -> Receipt | None:
        """See `AsyncHooks.logged_in`."""
        return await self.hooks.logged_in(lambda: self.patient_of(request))

    async def logged_out(self, request: Request) -> None:
        """See `AsyncHooks.logged_out`."""
        await self.hooks.logged_out(lambda: self.patient_of(request))

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI app. The route's parameter `path` is what comes below the mount point."""
        refused = refusal(scope, self.trusted_origins)
        if refused is not None:
            await _send(refused, send)
            return
        # Without `receive`: whoever looks for the patient takes nothing that tells us that the client has gone.
        request, path = Request(scope), scope["path_params"]["path"]
        patient, is_logged_in = (None, False) if is_public(path) else await self._who(request)
        headers = {name: ", ".join(request.headers.getlist(name)) for name in request.headers}
        asked = HttpRequest(scope["method"], path, patient, is_logged_in=is_logged_in, headers=headers)
        await _while_connected(self._answer(asked, send), receive)

    async def _who(self, request: Request) -> tuple[Patient | None, bool]:
        patient = await self.patient(request)
        return patient, patient is not None or (self.is_logged_in is not None and self.is_logged_in(request))

    async def _answer(self, asked: HttpRequest, send: Send) -> None:
        await _send(await self.host.answer(asked), send)

    async def close(self) -> None:
        """Wait a few seconds for hooks that still go on."""
        await self.hooks.close()


async def _while_connected(work: Coroutine[Any, Any, None], receive: Receive) -> None:
    """Do `work`, or give it up once the client has gone: nobody waits for the answer, and somebody for its place."""
    tasks = {asyncio.ensure_future(work), asyncio.ensure_future(_until_gone(receive))}
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.result()


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send(answer: HttpResponse | AsyncHttpStream, send: Send) -> None:
    headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers]
    start = {"type": "http.response.start", "status": answer.status, "headers": headers}
    if isinstance(answer, HttpResponse):
        await send(start)
        await send({"type": "http.response.body", "body": answer.body})
        return
    try:
        # Newer servers raise OSError where older ones send to nobody.
        with suppress(OSError):
            await send(start)
            async for chunk in answer.chunks:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
    finally:
        await answer.chunks.aclose()
