"""The contract as an OpenAPI 3.1 document, made from the table by which requests are routed (`operations`)."""

import json
from typing import Any

from .messages import JSON, HttpRequest, HttpResponse, static
from .operations import OPERATIONS, Answer, Operation
from .schemas import HEADERS, REQUEST_HEADERS, SCHEMAS, SOMETIMES

#: Of the contract, not of the library: a client can rely on what there is under one major version.
VERSION = "1.0"


def openapi_document(request: HttpRequest, kinds: tuple[str, ...] | None) -> HttpResponse:
    """The document as a response."""
    return static(json.dumps(document(kinds), indent=1).encode(), JSON, request)


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
        "responses": {str(status): _response(answer) for status, answer in sorted(operation.answers.items())},
        "security": [] if operation.is_public else [{"session": []}],
    }
    if operation.description:
        described["description"] = operation.description
    if operation.takes:
        described["parameters"] = [{"name": name, "in": "header"} | REQUEST_HEADERS[name] for name in operation.takes]
    return described


def _response(answer: Answer) -> dict[str, Any]:
    described: dict[str, Any] = {"description": answer.description}
    if answer.headers:
        described["headers"] = {
            name: {"schema": HEADERS[name], "required": name not in SOMETIMES} for name in answer.headers
        }
    if answer.schema is not None:
        schema = {"$ref": f"#/components/schemas/{answer.schema}"}
        described["content"] = {answer.content_type: {"schema": schema}}
    return described


def _kind(kinds: tuple[str, ...] | None) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string", "minLength": 1, "examples": ["vitals"]}
    if kinds is not None:
        schema |= {"enum": sorted(kinds), "examples": sorted(kinds)[:1]}
    return {"name": "kind", "in": "path", "required": True, "schema": schema}
