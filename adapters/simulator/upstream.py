"""The simulated upstream without its sockets: a request goes in, a reply comes out, and the call log knows of it."""

import hmac
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, assert_never

from ...statemachine.policy import Instant
from .calls import SIMULTANEOUS, CallLog
from .faults import Endpoint, Fault, FaultKind, FaultScript
from .fhir_server import FhirServer
from .messages import Answer, Dropped, Held, Reply, Request, error_answer, json_answer
from .patients import Patients, is_icn
from .tokens import TokenIssuer, subject_id_of

Dialect = Literal["extracts", "http-code"]

_LOGIN = re.compile(r"(/mhvapi/security/v1|/v1/security)/login")
_PHRMGR = re.compile(r"(/mhvapi)?/v2/phrmgr/(refresh|status)/([^/]*)")


@dataclass(frozen=True, slots=True, repr=False, kw_only=True)
class Settings:
    """What a simulator checks and how it behaves. Durations are in seconds."""

    base_url: Callable[[], str]
    clock: Callable[[], float]
    #: Waits that long in real time, or until the simulator stops.
    wait: Callable[[float], object]
    dialect: Dialect
    app_token: str
    authorization_key: str
    api_key: str | None
    session_seconds: float
    login_seconds: float


@dataclass(frozen=True, slots=True, repr=False)
class _Visit:
    """A request that is for the upstream. `is_older`: by a path from before the API gateway."""

    endpoint: Endpoint
    request: Request
    icn: str | None
    is_older: bool = False


class Upstream:
    """Plays session, refresh, status and FHIR. Thread-safe."""

    def __init__(self, settings: Settings, *, patients: Patients, fhir: FhirServer, tokens: TokenIssuer) -> None:
        self._settings = settings
        self._patients = patients
        self._fhir = fhir
        self._tokens = tokens

    def now(self) -> Instant:
        """The upstream's clock."""
        return round(self._settings.clock() * 1000)

    def play(self, request: Request, *, calls: CallLog, faults: FaultScript) -> Reply | None:
        """Count one request and reply to it, with the fault that strikes it. None: the upstream has no such path."""
        visit = self._visit(request)
        if visit is None:
            return None
        order = calls.arrived(visit.endpoint, visit.icn, at=self.now())
        fault = faults.take(visit.endpoint, visit.icn)
        reply = self._reply(visit, fault)
        calls.ended(order, reply.outcome, fault=str(fault.kind) if fault else None)
        return reply

    def _visit(self, request: Request) -> _Visit | None:
        if match := _LOGIN.fullmatch(request.path):
            subject = _login_body(request).get("subject")
            icn = subject if isinstance(subject, str) else None
            return _Visit(Endpoint.LOGIN, request, icn, match[1].startswith("/mhvapi"))
        if match := _PHRMGR.fullmatch(request.path):
            return _Visit(Endpoint(match[2]), request, match[3], match[1] is not None)
        if request.path.startswith("/fhir/"):
            subject_id = self._fhir.subject_of(request, now=self.now())
            return _Visit(Endpoint.FHIR, request, self._patients.icn_of(subject_id or ""))
        return None

    def _reply(self, visit: _Visit, fault: Fault | None) -> Reply:
        delay = fault.seconds if fault else 0.0
        if fault is not None and not fault.reaches_upstream:
            self._settings.wait(delay)
            return self._instead(visit, fault)
        answer = self._answer(visit, fault)
        if visit.endpoint != Endpoint.LOGIN:  # a slow login is under way for all of its time: see `_login`
            self._settings.wait(delay)
        return self._instead(visit, fault) if fault is not None and fault.replaces_answer else answer

    def _instead(self, visit: _Visit, fault: Fault) -> Reply:
        path = visit.request.path
        match fault.kind:
            case FaultKind.HANG:
                return Held()
            case FaultKind.RESET | FaultKind.LOST_ANSWER:
                return Dropped(str(fault.kind))
            case FaultKind.GARBAGE:
                body = "<html><body>{ this is no JSON" if fault.body is None else fault.body
                return Answer(200, body.encode(), {"Content-Type": "application/json"})
            case FaultKind.UNAUTHORIZED | FaultKind.HTTP_ERROR:
                status = 401 if fault.kind == FaultKind.UNAUTHORIZED else fault.status
                answer = error_answer(status, path=path, now=self.now())
                headers = dict(answer.headers)
                if fault.retry_after is not None:
                    headers["Retry-After"] = str(fault.retry_after)
                return Answer(status, answer.body if fault.body is None else fault.body.encode(), headers)
            case _:
                raise AssertionError(f"{fault.kind} does not replace the answer")

    def _answer(self, visit: _Visit, fault: Fault | None) -> Answer:
        if visit.request.method != ("GET" if visit.endpoint in (Endpoint.STATUS, Endpoint.FHIR) else "POST"):
            return self._error(visit, 405)
        if visit.endpoint == Endpoint.FHIR:
            return self._fhir.answer(visit.request, base=f"{self._settings.base_url()}/fhir", now=self.now())
        if not self._passes_gateway(visit):
            return json_answer(403, {"message": "Forbidden"})
        match visit.endpoint:
            case Endpoint.LOGIN:
                return self._login(visit, fault)
            case Endpoint.REFRESH:
                return self._refresh(visit, fault)
            case Endpoint.STATUS:
                return self._status(visit, fault)
            case _:
                assert_never(visit.endpoint)

    def _passes_gateway(self, visit: _Visit) -> bool:
        key = self._settings.api_key
        return key is None or visit.is_older or _same(visit.request.headers.get("x-api-key", ""), key)

    def _error(self, visit: _Visit, status: int, label: str = "") -> Answer:
        return error_answer(status, path=visit.request.path, now=self.now(), label=label)

    # The session.

    def _login(self, visit: _Visit, fault: Fault | None) -> Answer:
        body = _login_body(visit.request)
        icn = visit.icn
        if icn is None or body.get("userType") != "PATIENT" or not isinstance(body.get("authParams"), dict):
            return self._error(visit, 400)
        if body.get("appId") != "103" or not _same(str(body.get("appToken", "")), self._settings.app_token):
            return self._error(visit, 401)
        if not is_icn(icn) or body["authParams"].get("PATIENT_SUBJECT_ID_TYPE") != "ICN":
            return self._error(visit, 500)
        with self._patients.logging_in(icn) as alone:
            if not alone:
                return self._error(visit, 500, SIMULTANEOUS)
            self._settings.wait(self._settings.login_seconds + (fault.seconds if fault else 0.0))
            return self._session(visit, icn, fault)

    def _session(self, visit: _Visit, icn: str, fault: Fault | None) -> Answer:
        token: str | None = self._tokens.issue(
            subject_id_of(icn), now=self._settings.clock(), lifetime=self._settings.session_seconds
        )
        if fault is not None and fault.kind == FaultKind.BAD_TOKEN:
            token = fault.body
        name = "authorization" if visit.is_older else "x-amzn-remapped-authorization"
        headers = {} if token is None else {name: f"Bearer {token}"}
        return json_answer(200, {"appId": "103", "userType": "PATIENT"}, headers=headers)

    # The refresh.

    def _refresh(self, visit: _Visit, fault: Fault | None) -> Answer:
        if not self._has_system_key(visit):
            return self._error(visit, 401)
        if visit.icn is None or not is_icn(visit.icn):
            return self._error(visit, 500)
        next_date = self._patients.refresh(
            visit.icn,
            now=self.now(),
            failing=fault.failing_extracts if fault else frozenset(),
            throttled=fault is not None and fault.kind == FaultKind.THROTTLED,
        )
        return json_answer(200, {"status": "OK", "description": None, "nextDate": next_date})

    def _status(self, visit: _Visit, fault: Fault | None) -> Answer:
        if not self._has_system_key(visit):
            return self._error(visit, 401)
        icn, now = visit.icn or "", self.now()
        if self._settings.dialect == "http-code" and not self._patients.is_complete(icn, now=now):
            return self._error(visit, 500)
        is_emptied = fault is not None and fault.kind == FaultKind.EMPTY_LIST
        patient = {
            "identifier": icn,
            "assigningFacility": "200M",
            "assigningAuthority": "USVHA",
            "typeCode": "NI",
            "icn": True,
        }
        body = {
            "patient": patient,
            "retrievedDate": now,
            "lastRefreshDate": None,
            "facilityExtractStatusList": [] if is_emptied else self._patients.rows(icn, now=now),
        }
        return json_answer(200, body)

    def _has_system_key(self, visit: _Visit) -> bool:
        return _same(visit.request.headers.get("x-authorization-key", ""), self._settings.authorization_key)


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode())


def _login_body(request: Request) -> dict[str, Any]:
    try:
        body = json.loads(request.body)
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}
