"""The operations there are: one table, by which requests are routed and from which the OpenAPI document is made."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from .answers import EVENT_STREAM, FHIR, JAVASCRIPT, JSON, PROBLEM


@dataclass(frozen=True, slots=True)
class Response:
    """One way in which an operation ends. `schema` names the body's (`openapi`), None where there is no body."""

    description: str
    schema: str | None = None
    content_type: str = JSON
    headers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What one path is for. `name` is its first segment; with `has_kind` there is a second one."""

    name: str
    summary: str
    description: str = ""
    method: str = "GET"
    has_kind: bool = False
    #: It says nothing about anybody, so it is answered before anybody looks who is logged in.
    is_public: bool = False
    #: The request headers that make a difference.
    takes: tuple[str, ...] = ()
    responses: Mapping[int, Response]

    @property
    def methods(self) -> tuple[str, ...]:
        """What it answers; for everything else there is 405."""
        return (self.method, "HEAD") if self.method == "GET" else (self.method,)

    @property
    def path(self) -> str:
        """The path below the mount point, as a template."""
        return f"/{self.name}/{{kind}}" if self.has_kind else f"/{self.name}"


def _problem(description: str, *headers: str) -> Response:
    return Response(description, "Problem", PROBLEM, headers)


def _static(name: str, summary: str, what: str, schema: str, content_type: str) -> Operation:
    validators = ("ETag", "Cache-Control")
    responses = {
        200: Response(what, schema, content_type, validators),
        304: Response("What the client has is what there is.", headers=validators),
    }
    return Operation(name=name, summary=summary, is_public=True, takes=("If-None-Match",), responses=responses)


_PRIVATE: Final = {
    401: _problem("`not_logged_in`", "WWW-Authenticate"),
    403: _problem("`not_eligible`: there is no MHV account. Or the host's own refusal."),
    500: _problem("`record_unreadable` or `internal_error`: somebody has to look at it; the log says more."),
    503: _problem("`store_unavailable`", "Retry-After"),
}

OPERATIONS: Final = (
    Operation(
        name="status",
        summary="Where the refresh of the patient who is logged in stands",
        description="With `Prefer: wait=N` it answers as soon as the refresh has settled, and with `If-None-Match` as "
        "soon as anything is new, after N seconds at the latest. What a login has just handed over is given two "
        "seconds to begin.",
        takes=("Prefer", "If-None-Match"),
        responses={
            200: Response("Settled.", "Status", headers=("ETag", "Vary", "Preference-Applied")),
            202: Response(
                "Under way.",
                "Status",
                headers=("Retry-After", "X-Progress", "ETag", "Vary", "Preference-Applied"),
            ),
            304: Response(
                "Settled, and the client knows how.", headers=("ETag", "Vary", "Preference-Applied", "Cache-Control")
            ),
            **_PRIVATE,
        },
    ),
    Operation(
        name="events",
        summary="The status as Server-Sent Events",
        description="Each event is named `status`; its data are a Status. It ends when the refresh has settled.",
        takes=("Last-Event-ID",),
        responses={
            200: Response("Events, until the refresh has settled.", "Event", EVENT_STREAM),
            204: Response("Settled, and the client has seen it: do not connect again.", headers=("Cache-Control",)),
            **_PRIVATE,
        },
    ),
    Operation(
        name="refresh",
        method="POST",
        summary="Refresh the patient's records now",
        description="The host's protection against CSRF applies.",
        responses={
            202: Response("Started, or joined to one that runs.", "Receipt", headers=("Location", "Retry-After")),
            429: _problem("`window_closed`: the last refresh was not long enough ago.", "Retry-After"),
            **_PRIVATE,
            503: _problem("`store_unavailable`, or why nothing can be started, such as `backoff`.", "Retry-After"),
        },
    ),
    Operation(
        name="records",
        has_kind=True,
        summary="The patient's records of one kind",
        responses={
            200: Response(
                "The records, as they were at PHR-As-Of.",
                "Bundle",
                FHIR,
                ("PHR-State", "PHR-Stale", "PHR-As-Of", "PHR-Failure"),
            ),
            202: Response("The first records are on their way.", "Status", headers=("Retry-After", "X-Progress")),
            404: _problem("`no_such_records`: there is no such kind."),
            502: _problem("`records_unavailable`: the FHIR server fails.", "Retry-After"),
            **_PRIVATE,
            503: _problem("`no_records_yet`, `session_unavailable` or `store_unavailable`", "Retry-After"),
        },
    ),
    _static("openapi.json", "This document", "An OpenAPI document.", "OpenApi", JSON),
    _static("phr-refresh.js", "The browser module", "An ES module.", "Module", JAVASCRIPT),
)

_BY_NAME: Final[Mapping[str, Operation]] = {operation.name: operation for operation in OPERATIONS}


def operation_at(path: str) -> tuple[Operation | None, str]:
    """The operation at `path`, None where there is none, and the kind of records that it names."""
    name, _, kind = path.strip("/").partition("/")
    operation = _BY_NAME.get(name)
    return (operation, kind) if operation is not None and bool(kind) == operation.has_kind else (None, "")


def is_public(path: str) -> bool:
    """Whether `path` is answered alike to everybody: then a host leaves its session alone.

    Any cache may keep such an answer, so no cookie of a user may come with it.
    """
    operation, _ = operation_at(path)
    return operation is not None and operation.is_public
