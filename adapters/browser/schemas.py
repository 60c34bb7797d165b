"""JSON schemas (2020-12, as OpenAPI 3.1 has them) of the bodies, and of headers."""

from typing import Any, Final

from ...statemachine.record import ExtractState, State

_TIME: Final = {"type": "string", "format": "date-time", "description": "UTC, ISO 8601, to the millisecond."}
_SECONDS: Final = {"type": "integer", "minimum": 1, "description": "Seconds."}


def _or_null(schema: dict[str, Any], description: str) -> dict[str, Any]:
    return schema | {"type": [schema["type"], "null"], "description": description}


def _object(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    """An object that always has all of its members; later versions may have more."""
    return {"type": "object", "required": list(properties), "properties": properties} | more


_FAILURE: Final = _object(
    {
        "code": {"type": "string", "examples": ["timed_out", "all_extracts_failed", "http_503"]},
        "at": _TIME,
        "retry_at": _or_null(_TIME, "When a refresh can be tried again, where that is known."),
    }
)
_EXTRACT: Final = _object(
    {
        "name": {"type": "string"},
        "state": {"type": "string", "enum": [state.value for state in ExtractState]},
        "succeeded_at": _or_null(_TIME, "The age of what is shown of it."),
    }
)
_STATUS: Final = _object(
    {
        "state": {"type": "string", "enum": [state.value for state in State]},
        "under_way": {"type": "boolean", "description": "A refresh runs, or the session for it is being created."},
        "since": _or_null(_TIME, "When the state was entered."),
        "as_of": _or_null(_TIME, "When the data were last known good."),
        "stale": {"type": "boolean", "description": "What is shown may be out of date."},
        "partial": {"type": "boolean", "description": "Complete, though some extracts failed."},
        "refresh_id": {"type": ["string", "null"]},
        "claimed_at": _or_null(_TIME, "When the refresh began."),
        "extracts": {"type": "array", "items": {"$ref": "#/components/schemas/Extract"}},
        "failure": {"anyOf": [{"$ref": "#/components/schemas/Failure"}, {"type": "null"}]},
        "next_check_at": _or_null(_TIME, "When asking again can first tell something new."),
    }
)
_RECEIPT: Final = _object(
    {
        "result": {"type": "string", "enum": ["started", "joined"]},
        "status": {"$ref": "#/components/schemas/Status"},
    }
)
_PROBLEM: Final = {
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
        "failure": {"anyOf": [{"$ref": "#/components/schemas/Failure"}, {"type": "null"}]},
    },
}

SCHEMAS: Final[dict[str, dict[str, Any]]] = {
    "Status": _STATUS,
    "Extract": _EXTRACT,
    "Failure": _FAILURE,
    "Receipt": _RECEIPT,
    "Problem": _PROBLEM,
    "Bundle": {
        "type": "object",
        "description": "A FHIR Bundle, as the FHIR server gave it.",
        "required": ["resourceType"],
        "properties": {"resourceType": {"const": "Bundle"}},
    },
    "Event": _object(
        {
            "event": {"const": "status"},
            "id": {"type": "string", "description": "What the browser sends as Last-Event-ID; the status's tag."},
            "data": {
                "type": "string",
                "contentMediaType": "application/json",
                "contentSchema": {"$ref": "#/components/schemas/Status"},
            },
        },
        description="One event of the stream (HTML Standard, section 9.2), as OpenAPI 3.2 has it.",
    ),
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
