"""The endpoints and hooks of hosts on Starlette and FastAPI: what Starlette gives in, what the contract says out.

Starlette has no protection against cross-site requests of its own. `is_same_origin` is ours: browsers say of each
request where it comes from (Fetch Metadata, section 2.4; RFC 6454, section 7), and no page can change that.
The endpoints refuse requests of other sites; `SameOriginOnly` does it for a whole app, its login and logout included.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping
from contextlib import suppress
from inspect import isawaitable
from typing import Any, Final, TypeVar

from ...statemachine.errors import MissingExtra
from ...statemachine.outcomes import Receipt, ReceiptKind
from ...statemachine.patient import Patient
from ..browser import AsyncHost, AsyncHttpStream, HttpRequest, HttpResponse, is_public, problem
from .hooks import AsyncHooks, FindPatient

try:
    from starlette.datastructures import Headers
    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send
except ModuleNotFoundError as error:
    raise MissingExtra("phr_refresh.starlette", "starlette") from error

T = TypeVar("T")

#: Gives the patient whose session the request carries, at once or awaited; None for nobody, or nobody with records.
PatientOf = Callable[[Request], Patient | Awaitable[Patient | None] | None]
#: Gives whether anybody is logged in.
IsLoggedIn = Callable[[Request], bool]

_SAFE_METHODS: Final = ("GET", "HEAD", "OPTIONS", "TRACE")
#: Seconds after which a hook stops to look for the patient.
_LONGEST_SEARCH: Final = 5.0


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
        await (self._app(scope, receive, send) if refused is None else _send_whole(refused, send))


class StarletteHost:
    """Serves the contract as an ASGI app, and logs in and out who sent a request. For one event loop.

    `seconds` bounds the search for the patient in a hook, where that is awaited.
    """

    def __init__(
        self,
        host: AsyncHost,
        hooks: AsyncHooks,
        *,
        patient_of: PatientOf,
        is_logged_in: IsLoggedIn | None,
        trusted_origins: Collection[str],
        seconds: float,
    ) -> None:
        self._host = host
        self._hooks = hooks
        self._patient_of = patient_of
        self._is_logged_in = is_logged_in
        self._trusted = trusted_origins
        self._seconds = seconds
        self._going_on: set[asyncio.Future[Any]] = set()

    async def patient(self, request: Request) -> Patient | None:
        """The patient whose session the request carries. Raises what the host's `patient_of` raises."""
        found = self._patient_of(request)
        return await found if isawaitable(found) else found

    async def logged_in(self, request: Request) -> Receipt | None:
        """See `Hooks.logged_in`."""
        late = Receipt(kind=ReceiptKind.DEFERRED, reason="over_budget")
        return await self._find_and(self._hooks.logged_in, request, late)

    async def logged_out(self, request: Request) -> None:
        """See `Hooks.logged_out`."""
        await self._find_and(self._hooks.logged_out, request, None)

    async def _find_and(self, hook: Callable[[FindPatient], Coroutine[Any, Any, T]], request: Request, late: T) -> T:
        try:
            found = self._patient_of(request)
        except Exception as raised:
            return await hook(_raising(raised))
        if not isawaitable(found):
            return await hook(lambda: found)
        # The hook has a budget of its own, and tells if it takes longer; here the search is added to it.
        work = asyncio.ensure_future(_search_and(hook, found))
        self._going_on.add(work)
        work.add_done_callback(self._going_on.discard)
        await asyncio.wait({work}, timeout=self._seconds)
        return work.result() if work.done() else late

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI app. The route's parameter `path` is what comes below the mount point."""
        refused = refusal(scope, self._trusted)
        if refused is not None:
            await _send_whole(refused, send)
            return
        # Without `receive`: whoever looks for the patient takes nothing that tells us that the client has gone.
        request, path = Request(scope), scope["path_params"]["path"]
        patient, is_logged_in = (None, False) if is_public(path) else await self._who(request)
        asked = HttpRequest(
            method=scope["method"],
            path=path,
            patient=patient,
            is_logged_in=is_logged_in,
            headers={name: ", ".join(request.headers.getlist(name)) for name in request.headers},
        )
        await _while_connected(self._answer(asked, send), receive)

    async def _who(self, request: Request) -> tuple[Patient | None, bool]:
        patient = await self.patient(request)
        return patient, patient is not None or (self._is_logged_in is not None and self._is_logged_in(request))

    async def _answer(self, asked: HttpRequest, send: Send) -> None:
        answer = await self._host.answer(asked)
        if isinstance(answer, HttpResponse):
            await _send_whole(answer, send)
        else:
            await _send_stream(answer, send)

    async def close(self) -> None:
        """Wait a few seconds for hooks that still go on."""
        if self._going_on:
            await asyncio.wait(self._going_on, timeout=_LONGEST_SEARCH)
        await self._hooks.close()


async def _search_and(hook: Callable[[FindPatient], Coroutine[Any, Any, T]], search: Awaitable[Patient | None]) -> T:
    try:
        async with asyncio.timeout(_LONGEST_SEARCH):
            patient = await search
    except Exception as raised:
        return await hook(_raising(raised))
    return await hook(lambda: patient)


def _raising(error: Exception) -> FindPatient:
    """A search that ends in `error`, which the hook then tells."""

    def find() -> Patient | None:
        raise error

    return find


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


async def _send_whole(response: HttpResponse, send: Send) -> None:
    await _send_head(response, send)
    await send({"type": "http.response.body", "body": response.body})


async def _send_stream(stream: AsyncHttpStream, send: Send) -> None:
    try:
        # Newer servers raise OSError where older ones send to nobody.
        with suppress(OSError):
            await _send_head(stream, send)
            async for chunk in stream.chunks:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
    finally:
        await stream.chunks.aclose()


async def _send_head(response: HttpResponse | AsyncHttpStream, send: Send) -> None:
    headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in response.headers]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
