"""What can be made to go wrong, one frozen value per fault, and the script that says when."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any, Final

from ...statemachine.errors import ConfigurationError
from .extracts import EXTRACTS


class Endpoint(StrEnum):
    """The four things that the upstream is asked for."""

    LOGIN = "login"
    REFRESH = "refresh"
    STATUS = "status"
    FHIR = "fhir"


class FaultKind(StrEnum):
    """How a call goes wrong."""

    #: Takes effect on arrival as if nothing were wrong; the answer is sent `seconds` later.
    LATENCY = "latency"
    #: Never answered, until the simulator stops or the client gives up.
    HANG = "hang"
    #: The connection is reset (RST) before anything takes effect.
    RESET = "reset"
    #: Takes effect, then the connection is reset without an answer.
    LOST_ANSWER = "lost_answer"
    #: Answered with `status`, `retry_after` and `body`.
    HTTP_ERROR = "http_error"
    #: Answered with 401.
    UNAUTHORIZED = "unauthorized"
    #: Answered with 200 and `body`, or with something that is no JSON.
    GARBAGE = "garbage"
    #: Login: answered without the token header, or with `body` in the token's place.
    BAD_TOKEN = "bad_token"  # noqa: S105 - a name, no secret
    #: Refresh: the named `extracts` end in error.
    PARTIAL_FAILURE = "partial_failure"
    #: Refresh: every extract ends in error.
    ALL_FAILED = "all_failed"
    #: Refresh: accepted, but no extract is requested again.
    THROTTLED = "throttled"
    #: Status: the answer lists no extracts.
    EMPTY_LIST = "empty_list"


_ONLY_AT: Final[Mapping[str, Endpoint]] = {
    FaultKind.BAD_TOKEN: Endpoint.LOGIN,
    FaultKind.PARTIAL_FAILURE: Endpoint.REFRESH,
    FaultKind.ALL_FAILED: Endpoint.REFRESH,
    FaultKind.THROTTLED: Endpoint.REFRESH,
    FaultKind.EMPTY_LIST: Endpoint.STATUS,
}
_NEVER_REACHES: Final = {FaultKind.RESET, FaultKind.UNAUTHORIZED}
_REACHES_IF_TOLD: Final = {FaultKind.HANG, FaultKind.HTTP_ERROR, FaultKind.GARBAGE}
_INSTEAD_OF_THE_ANSWER: Final = _NEVER_REACHES | _REACHES_IF_TOLD | {FaultKind.LOST_ANSWER}


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _is_duration(value: Any) -> bool:
    return (_is_integer(value) or isinstance(value, float)) and 0 <= value < threading.TIMEOUT_MAX


def _are_extracts(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(name in EXTRACTS for name in value)


# The fields of a fault: what each may hold, what is wrong otherwise, and what to do about it.
_RULES: Final[Sequence[tuple[str, Callable[[Any], bool], str, str]]] = (
    ("icn", _is_text, "it is not a text", "give an ICN, or leave it out"),
    (
        "times",
        lambda times: times is None or (_is_integer(times) and times > 0),
        "it is not a positive integer",
        "give 1 or more, or leave it out",
    ),
    ("seconds", _is_duration, "it is not a duration", "give 0 or more seconds"),
    (
        "status",
        lambda status: _is_integer(status) and 400 <= status <= 599,
        "it is no error",
        "give one from 400 to 599",
    ),
    (
        "retry_after",
        lambda value: _is_text(value) or _is_integer(value),
        "it is neither a text nor an integer",
        "give the header's value",
    ),
    ("body", _is_text, "it is not a text", "give the body as one text"),
    ("processed", lambda value: isinstance(value, bool), "it is not a boolean", "give true or false"),
    ("extracts", _are_extracts, "it is not a list of known extracts", f"choose from {', '.join(EXTRACTS)}"),
)


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong at `endpoint`. Plain names ("login", "hang") do for `endpoint` and `kind`.

    `icn`: for this patient only. `times`: so often, None for ever. `seconds` delays the answer, or the fault itself,
    whatever the kind. `processed`: a hang, http_error or garbage strikes only after the call has taken effect, as when
    a gateway gives up on an upstream that goes on. Raises `ConfigurationError`; `repr` does not show the ICN.
    """

    endpoint: Endpoint | str
    kind: FaultKind | str
    _: KW_ONLY
    icn: str | None = field(default=None, repr=False)
    times: int | None = None
    seconds: float = 0.0
    status: int = 503
    retry_after: str | int | None = None
    body: str | None = None
    extracts: tuple[str, ...] = ()
    processed: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "endpoint", _member(Endpoint, "endpoint", self.endpoint))
        object.__setattr__(self, "kind", _member(FaultKind, "kind", self.kind))
        values = asdict(self)
        for name, is_right, problem, remedy in _RULES:
            _check(is_right(values[name]), name, problem, remedy)
        object.__setattr__(self, "extracts", tuple(self.extracts))
        _check(
            bool(self.extracts) == (self.kind == FaultKind.PARTIAL_FAILURE),
            "extracts",
            "it goes with partial_failure, and partial_failure with it",
            "name the extracts that fail, or use another kind",
        )
        home = _ONLY_AT.get(self.kind, self.endpoint)
        _check(self.endpoint == home, "kind", f"{self.kind} happens at {home} only", f"set endpoint to {home}")
        goes = not self.processed or self.kind in _REACHES_IF_TOLD
        told = ", ".join(sorted(_REACHES_IF_TOLD))
        _check(goes, "processed", f"it does not go with {self.kind}", f"use it with {told}")

    @classmethod
    def from_json(cls, data: object) -> "Fault":
        """The fault that a decoded JSON object describes, by the names of the fields."""
        known = {item.name for item in fields(cls)}
        if not isinstance(data, Mapping) or not {"endpoint", "kind"} <= data.keys() <= known:
            raise ConfigurationError(
                "Fault", "it is not an object with endpoint, kind and known fields", f"use {', '.join(sorted(known))}"
            )
        return cls(**data)

    @property
    def reaches_upstream(self) -> bool:
        """Whether the call takes effect."""
        return self.processed or self.kind not in _NEVER_REACHES | _REACHES_IF_TOLD

    @property
    def replaces_answer(self) -> bool:
        """Whether the client gets something else than the upstream's own answer."""
        return self.kind in _INSTEAD_OF_THE_ANSWER

    @property
    def failing_extracts(self) -> frozenset[str]:
        """The extracts that end in error because of this fault."""
        return frozenset(EXTRACTS if self.kind == FaultKind.ALL_FAILED else self.extracts)


def _member(kinds: type[StrEnum], name: str, value: str) -> StrEnum:
    names = [member.value for member in kinds]
    _check(isinstance(value, str) and value in names, name, "it is unknown", f"choose from {', '.join(names)}")
    return kinds(value)


def _check(holds: bool, name: str, problem: str, remedy: str) -> None:
    if not holds:
        raise ConfigurationError(f"Fault.{name}", problem, remedy)


class FaultScript:
    """The faults that are to happen. Thread-safe. Of several that fit a call, the one scripted first strikes, alone."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pending: list[tuple[Fault, int | None]] = []

    def add(self, fault: Fault) -> None:
        """Let `fault` happen from now on."""
        with self._lock:
            self._pending.append((fault, fault.times))

    def clear(self) -> None:
        """Let nothing go wrong any more. Calls that already hang stay so."""
        with self._lock:
            self._pending.clear()

    def take(self, endpoint: Endpoint, icn: str | None) -> Fault | None:
        """The fault that strikes this call, if any; it has then happened once more."""
        with self._lock:
            for place, (fault, left) in enumerate(self._pending):
                if fault.endpoint != endpoint or fault.icn not in (None, icn):
                    continue
                if left == 1:
                    del self._pending[place]
                elif left is not None:
                    self._pending[place] = (fault, left - 1)
                return fault
        return None
