"""The contract as an OpenAPI 3.1 document, made from the table by which requests are routed (`operations`).

Its schemas of the bodies, and of headers, are JSON schemas (2020-12).
"""

import json
from typing import Any, Final

from ...statemachine.record import ExtractState, State
from .operations import OPERATIONS, Operation, Response

#: Of the contract, not of the library: a client can rely on what there is under one major version.
VERSION = "1.0"

_TIME: Final = {"type": "string", "format": "date-time", "description": "UTC, ISO 8601, to the millisecond."}
_SECONDS: Final = {"type": "integer", "minimum": 1, "description": "Seconds."}


def _or_null(schema: dict[str, Any], description: str) -> dict[str, Any]:
    return schema | {"type": [schema["type"], "null"], "description": description}


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    """An object that always has all of its members; later versions may have more."""
    return {"type": "object", "required": list(properties), "properties": properties}


def _schema(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


_FAILURE_OR_NULL: Final = {"anyOf": [_schema("Failure"), {"type": "null"}]}

SCHEMAS: Final[dict[str, dict[str, Any]]] = {
    "Status": _object(
        state={"type": "string", "enum": [state.value for state in State]},
        under_way={"type": "boolean", "description": "A refresh runs, or the session for it is being created."},
        since=_or_null(_TIME, "When the state was entered."),
        as_of=_or_null(_TIME, "When the data were last known good."),
        stale={"type": "boolean", "description": "What is shown may be out of date."},
        partial={"type": "boolean", "description": "Complete, though some extracts failed."},
        refresh_id={"type": ["string", "null"]},
        claimed_at=_or_null(_TIME, "When the refresh began."),
        extracts={"type": "array", "items": _schema("Extract")},
        failure=_FAILURE_OR_NULL,
        next_check_at=_or_null(_TIME, "When asking again can first tell something new."),
    ),
    "Extract": _object(
        name={"type": "string"},
        state={"type": "string", "enum": [state.value for state in ExtractState]},
        succeeded_at=_or_null(_TIME, "The age of what is shown of it."),
    ),
    "Failure": _object(
        code={"type": "string", "examples": ["timed_out", "all_extracts_failed", "http_503"]},
        at=_TIME,
        retry_at=_or_null(_TIME, "When a refresh can be tried again, where that is known."),
    ),
    "Receipt": _object(result={"type": "string", "enum": ["started", "joined"]}, status=_schema("Status")),
    "Problem": {
        "type": "object",
        "description": "Problem details (RFC 9457). `code` is the last part of `type`.",
        "required": ["type", "title", "status", "code", "detail"],
        "properties": {
            "type": {"type": "string", "format": "uri"},
            "title": {"type": "string"},
            "status": {"type": "integer", "minimum": 400, "maximum": 599},
            "code": {"type": "string", "pattern": "^[a-z0-9_]+$"},
            "detail": {"type": "string"},
            "reason": {"type": "string", "description": "Why the upstream did not give it, as a code."},
            "retry_at": _or_null(_TIME, "When it can be tried again, where that is known."),
            "failure": _FAILURE_OR_NULL,
        },
    },
    "Bundle": {
        "type": "object",
        "description": "A FHIR Bundle, as the FHIR server gave it.",
        "required": ["resourceType"],
        "properties": {"resourceType": {"const": "Bundle"}},
    },
    "Event": _object(
        event={"const": "status"},
        id={"type": "string", "description": "What the browser sends as Last-Event-ID; the status's tag."},
        data={"type": "string", "contentMediaType": "application/json", "contentSchema": _schema("Status")},
    )
    | {"description": "One event of the stream (HTML Standard, section 9.2), as OpenAPI 3.2 has it."},
    "OpenApi": {"type": "object", "required": ["openapi", "info", "paths"]},
    "Module": {"type": "string"},
}

#: What each response header says; those in `SOMETIMES` may be missing.
HEADERS: Final[dict[str, dict[str, Any]]] = {
    "Retry-After": _SECONDS,
    "X-Progress": {"type": "string", "maxLength": 100, "description": "A sentence for people."},
    "ETag": {"type": "string", "description": "Of what is told; the time of the next check alone is no news."},
    "Vary": {"type": "string"},
    "Cache-Control": {"type": "string"},
    "Preference-Applied": {"type": "string", "description": "How many seconds of `wait` were honoured at most."},
    "Location": {"type": "string", "description": "Where to ask how it goes on."},
    "WWW-Authenticate": {"type": "string"},
    "PHR-State": {"type": "string", "enum": [state.value for state in State]},
    "PHR-Stale": {"type": "string", "enum": ["?0", "?1"], "description": "Whether they may be out of date (RFC 9651)."},
    "PHR-As-Of": _TIME,
    "PHR-Failure": {"type": "string", "description": "Why the last refresh failed, as a code."},
}
SOMETIMES: Final = frozenset({"Preference-Applied", "PHR-As-Of", "PHR-Failure"})

REQUEST_HEADERS: Final[dict[str, dict[str, Any]]] = {
    "Prefer": {"schema": {"type": "string"}, "description": "`wait=N`: up to so many seconds (RFC 7240); capped."},
    "If-None-Match": {"schema": {"type": "string"}, "description": "The ETag that the client has; compared weakly."},
    "Last-Event-ID": {"schema": {"type": "string"}, "description": "Set by the browser when it connects again."},
}


def openapi_json(kinds: tuple[str, ...] | None) -> bytes:
    """The document as JSON."""
    return json.dumps(document(kinds), indent=1).encode()


def document(kinds: tuple[str, ...] | None = None) -> dict[str, Any]:
    """The document. Paths are relative to where it is itself. `kinds`: the records there are, where that is known."""
    paths: dict[str, Any] = {}
    for operation in OPERATIONS:
        paths[operation.path] = {operation.method.lower(): _operation(operation)}
        if operation.has_kind:
            paths[operation.path]["parameters"] = [_kind(kinds)]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "phr-refresh",
            "version": VERSION,
            "description": "How the refresh of a patient's health record stands. Who the patient is, the host's session"
            " tells. GET may be HEAD; any other method is answered 405, any other path 404.",
        },
        # Relative to the document's own URL: wherever the host has mounted it.
        "servers": [{"url": "."}],
        "paths": paths,
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {
                "session": {
                    "type": "apiKey",
                    "in": "cookie",
                    "name": "session",
                    "description": "The host's own login session, whatever it calls its cookie.",
                }
            },
        },
    }


def _operation(operation: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.name.partition(".")[0].replace("-", "_"),
        "summary": operation.summary,
        "responses": {str(status): _response(response) for status, response in sorted(operation.responses.items())},
        "security": [] if operation.is_public else [{"session": []}],
    }
    if operation.description:
        described["description"] = operation.description
    if operation.takes:
        described["parameters"] = [{"name": name, "in": "header"} | REQUEST_HEADERS[name] for name in operation.takes]
    return described


def _response(response: Response) -> dict[str, Any]:
    described: dict[str, Any] = {"description": response.description}
    if response.headers:
        described["headers"] = {
            name: {"schema": HEADERS[name], "required": name not in SOMETIMES} for name in response.headers
        }
    if response.schema is not None:
        described["content"] = {response.content_type: {"schema": _schema(response.schema)}}
    return described


def _kind(kinds: tuple[str, ...] | None) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string", "minLength": 1, "examples": ["vitals"]}
    if kinds is not None:
        schema |= {"enum": sorted(kinds), "examples": sorted(kinds)[:1]}
    return {"name": "kind", "in": "path", "required": True, "schema": schema}
