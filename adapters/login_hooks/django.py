"""Django: its signals of logins and logouts, and the endpoints' requests and responses in its own types."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from ...statemachine.errors import MissingExtra
from ...statemachine.patient import Patient
from ..browser import HttpRequest, HttpResponse, HttpStream

try:
    from asgiref.sync import sync_to_async
    from django.contrib.auth.signals import user_logged_in, user_logged_out
    from django.core.handlers.asgi import ASGIRequest
    from django.db import connections, transaction
    from django.http import HttpRequest as DjangoRequest
    from django.http import HttpResponse as DjangoResponse
    from django.http import StreamingHttpResponse
    from django.http.response import HttpResponseBase
except ModuleNotFoundError as error:
    raise MissingExtra("the adapter for Django", "django") from error


def connect(*, logged_in: Callable[[Any], object], logged_out: Callable[[Any], object]) -> None:
    """Have both called with the user, once per signal, however often this is called. They must not raise."""

    def on_login(user: Any, **_: object) -> None:
        logged_in(user)

    def on_logout(user: Any, **_: object) -> None:
        # Django sends it for visitors, too, that were not logged in.
        if user is not None:
            logged_out(user)

    user_logged_in.connect(on_login, weak=False, dispatch_uid="phr_refresh.logged_in")
    user_logged_out.connect(on_logout, weak=False, dispatch_uid="phr_refresh.logged_out")


@contextmanager
def savepoints() -> Iterator[None]:
    """What fails inside spoils no transaction that is open outside.

    A query that fails makes the database refuse everything that follows in its transaction. With ATOMIC_REQUESTS that
    would be the rest of the login.
    """
    with ExitStack() as stack:
        for connection in connections.all(initialized_only=True):
            if connection.in_atomic_block:
                stack.enter_context(transaction.atomic(using=connection.alias))
        yield


def facts_of(request: DjangoRequest, path: str, *, patient: Patient | None, is_logged_in: bool) -> HttpRequest:
    """The request as the contract takes it. `path`: below the mount point."""
    headers = {name.lower(): value for name, value in request.headers.items()}
    return HttpRequest(request.method or "", path, patient, is_logged_in=is_logged_in, headers=headers)


def response_to(request: DjangoRequest, answer: HttpResponse | HttpStream) -> HttpResponseBase:
    """The contract's answer as Django's."""
    # Middleware looks at these once more. ConditionalGetMiddleware would make a 304 of a 202, though what the client
    # waits for is not there yet; GZipMiddleware would hold the events of a stream back.
    request.META.pop("HTTP_IF_NONE_MATCH", None)
    fields = dict(answer.headers)
    response: HttpResponseBase
    if isinstance(answer, HttpStream):
        request.META.pop("HTTP_ACCEPT_ENCODING", None)
        chunks = _awaited(answer.chunks) if isinstance(request, ASGIRequest) else answer.chunks
        response = StreamingHttpResponse(chunks, status=answer.status, headers=fields)
    else:
        response = DjangoResponse(answer.body, status=answer.status, headers=fields)
    if "Content-Type" not in fields:
        # Django's default, where there is no content.
        del response["Content-Type"]
    return response


async def _awaited(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    """The same pieces for an event loop. One whose reader is gone lets go of its place when its thread comes back."""
    take = sync_to_async(lambda: next(chunks, None), thread_sensitive=False)
    while (chunk := await take()) is not None:
        yield chunk
