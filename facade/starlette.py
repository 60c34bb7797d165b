"""phr-refresh in a portal on Starlette or FastAPI, on asyncio throughout.

>>> from phr_refresh.starlette import PhrRefreshStarlette
>>> phr = PhrRefreshStarlette({"patient_of": "portal.patients.patient_of"})  # doctest: +SKIP
>>> app = FastAPI(lifespan=phr.lifespan, routes=[phr.mount("/phr")])  # doctest: +SKIP

The view, or the OpenID Connect callback, that has just put the user into the session calls
`await phr.logged_in(request)`; the one that is about to take the user out of it `await phr.logged_out(request)`.
"""

from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from phr_refresh.adapters.login_hooks.hooks import deferred
from phr_refresh.adapters.login_hooks.starlette import (
    IsLoggedIn,
    PatientOf,
    SameOriginOnly,
    StarletteHost,
    is_same_origin,
)
from phr_refresh.statemachine.errors import ConfigurationError
from phr_refresh.statemachine.outcomes import Receipt
from phr_refresh.statemachine.patient import Patient
from starlette.requests import Request
from starlette.routing import Mount, Route
from starlette.types import Receive, Scope, Send

from .asynchronous import AsyncPhrRefresh
from .hosting import AsyncHooks, AsyncHost, Embedding

__all__ = ["IsLoggedIn", "PatientOf", "PhrRefreshStarlette", "SameOriginOnly", "is_same_origin"]


@dataclass(frozen=True, slots=True)
class _Running:
    refresher: AsyncPhrRefresh
    host: StarletteHost


class PhrRefreshStarlette:
    """What a Starlette or FastAPI app embeds. Made once, when the app is; it works while its `lifespan` runs.

    `block`: the settings, see `embedding`. Its `patient_of` is given the `Request` and looks into its session, or
    wherever the host keeps who is logged in, but not into its body; it may be `async`, else it must not block.
    Raises `ConfigurationError`.
    """

    def __init__(
        self,
        block: Mapping[str, Any],
        *,
        is_logged_in: IsLoggedIn | None = None,
        trusted_origins: Collection[str] = (),
    ) -> None:
        """`is_logged_in` tells of a request without a patient whether somebody is logged in: 403 then instead of 401.

        `trusted_origins`: origins such as "https://www.example.org" whose pages may send POST requests, too.
        """
        self._embedding = Embedding.of(block)
        self._is_logged_in = is_logged_in
        self._trusted_origins = tuple(trusted_origins)
        self._running: _Running | None = None
        #: Routes below a prefix of the host's choice, such as for `Mount("/phr", routes=phr.routes)`.
        self.routes = [Route("/{path:path}", _Endpoint(self))]

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:
        """The app's lifespan, or a part of it: ``async with phr.lifespan(app): ...`` inside the host's own.

        Opens store and upstream in the running loop, and closes them at the end. Raises `ConfigurationError` if it
        runs already.
        """
        if self._running is not None:
            raise _wrong("its lifespan runs already", "enter it once, and make one object per app")
        seconds = self._embedding.policy.login_budget.total_seconds()
        async with self._embedding.open_async() as refresher:
            host = StarletteHost(
                AsyncHost(refresher, contract=self._embedding.contract, places=self._embedding.places),
                AsyncHooks(refresher, seconds=seconds),
                patient_of=self._embedding.patient_of,
                is_logged_in=self._is_logged_in,
                trusted_origins=self._trusted_origins,
            )
            self._running = _Running(refresher, host)
            try:
                yield
            finally:
                self._running = None
                await host.close()

    def mount(self, path: str = "/phr") -> Mount:
        """The endpoints as one route for the app's list of routes."""
        return Mount(path, routes=self.routes, name="phr_refresh")

    async def logged_in(self, request: Request) -> Receipt | None:
        """The login hook, once the session says who it is: see `Hooks.logged_in`. Never raises, never waits long."""
        if self._running is None:
            return deferred("login", "closed", self._embedding.settings.observer)
        return await self._running.host.logged_in(request)

    async def logged_out(self, request: Request) -> None:
        """The logout hook, while the session still says who it is: see `Hooks.logged_out`."""
        if self._running is None:
            deferred("logout", "closed", self._embedding.settings.observer)
        else:
            await self._running.host.logged_out(request)

    def refresher(self) -> AsyncPhrRefresh:
        """What serves this app: ``Depends(phr.refresher)``. Raises `ConfigurationError` outside the lifespan."""
        return self._now().refresher

    async def patient(self, request: Request) -> Patient | None:
        """Who is logged in, None for nobody or nobody with records: ``Depends(phr.patient)``."""
        return await self._now().host.patient(request)

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The endpoints as an ASGI app, for a route with the parameter `path`."""
        await self._now().host.serve(scope, receive, send)

    def _now(self) -> _Running:
        if self._running is None:
            raise _wrong(
                "its lifespan does not run", "give the app lifespan=phr.lifespan, or enter that in the app's own"
            )
        return self._running


class _Endpoint:
    """Routes take functions for views, and anything else that can be called for an ASGI app, with all its methods."""

    def __init__(self, phr: PhrRefreshStarlette) -> None:
        self._phr = phr

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._phr.serve(scope, receive, send)


def _wrong(problem: str, remedy: str) -> ConfigurationError:
    return ConfigurationError("PhrRefreshStarlette", problem, remedy)
