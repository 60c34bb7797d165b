"""What goes in and comes out of the simulated upstream, without a socket in sight."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from ...statemachine.policy import Instant


@dataclass(frozen=True, slots=True, repr=False)
class Request:
    """A request that has been received in full. The names in `headers` are in lower case, `path` is unquoted."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    #: The path and query as they were sent.
    target: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer. `outcome` is what the call log says of it, derived from the status unless given."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    label: str = ""

    @property
    def outcome(self) -> str:
        """What the call log says of it."""
        return self.label or f"http_{self.status}"


@dataclass(frozen=True, slots=True)
class Silence:
    """No answer: the connection is reset, or stays open until one side gives up."""

    outcome: str
    is_reset: bool = False


Reply = Answer | Silence


def json_answer(status: int, value: Any, *, headers: Mapping[str, str] | None = None, label: str = "") -> Answer:
    """An answer with a JSON body that no cache keeps."""
    head = {"Content-Type": "application/json", "Cache-Control": "no-store", **(headers or {})}
    return Answer(status, json.dumps(value, separators=(",", ":")).encode(), head, label)


def error_answer(status: int, *, path: str, now: Instant, label: str = "") -> Answer:
    """An error as the upstream words it."""
    reason = HTTPStatus(status).phrase
    return json_answer(status, {"timestamp": now, "status": status, "error": reason, "path": path}, label=label)
