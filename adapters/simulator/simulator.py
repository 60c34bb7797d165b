"""The simulated upstream as a whole: start and stop, session, refresh and status, and the endpoints that script it."""

import hmac
import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Literal, Self, get_args

from ...statemachine.errors import ConfigurationError
from ...statemachine.policy import Instant
from .calls import SIMULTANEOUS, Call, CallLog
from .faults import Endpoint, Fault, FaultKind, FaultScript
from .fhir import FhirServer
from .messages import Answer, Reply, Request, Silence, error_answer, json_answer
from .patients import Patients, is_icn
from .server import HttpServer
from .tokens import TokenIssuer, subject_id_of

Dialect = Literal["extracts", "http-code"]

_LOGIN = re.compile(r"(/mhvapi/security/v1|/v1/security)/login")
_PHRMGR = re.compile(r"(/mhvapi)?/v2/phrmgr/(refresh|status)/([^/]*)")


def _system_clock() -> float:
    # Looked up at each call, so that a test that freezes `time.time` freezes the simulator, too.
    return time.time()


@dataclass(frozen=True, slots=True, repr=False)
class _Visit:
    """A request that is for the upstream. `is_older`: by a path from before the API gateway."""

    endpoint: Endpoint
    request: Request
    icn: str | None
    is_older: bool = False

    def error(self, status: int, now: Instant, label: str = "") -> Answer:
        """An error as the upstream words it."""
        return error_answer(status, path=self.request.path, now=now, label=label)


class Simulator:
    """The upstream on a local port: a context manager, to be used from any thread.

    `port` 0 takes a free one, and keeps it over `stop` and `start`; so does everything else that the simulator knows.
    `speed` divides the recorded durations of extracts and the FHIR cache's; `login_seconds` is real time, not divided.
    `api_key` None: no `x-api-key` is asked for. `clock` tells epoch seconds: a test that gives its own moves extracts,
    tokens and windows without waiting. `window_seconds` is the time in which a second kick-off of one patient counts as
    a duplicate. `seed` fixes all that is random but the tokens: two simulators take each other's tokens
    if they share a `token_secret`. Not given: TLS, persistence, authentication of its own endpoints.
    """

    def __init__(
        self,
        port: int = 0,
        *,
        host: str = "127.0.0.1",
        dialect: Dialect = "extracts",
        app_token: str = "simulator-app-token",  # noqa: S107 - opens nothing but a simulator
        authorization_key: str = "simulator-authorization-key",
        api_key: str | None = None,
        speed: float = 1.0,
        session_seconds: float = 3600,
        login_seconds: float = 0.02,
        search_cache_seconds: float = 60,
        window_seconds: float = 3600,
        seed: int = 0,
        token_secret: bytes | None = None,
        clock: Callable[[], float] = _system_clock,
    ) -> None:
        if not speed > 0:
            raise ConfigurationError("Simulator.speed", "it is not positive", "give 1.0 for the recorded durations")
        if dialect not in get_args(Dialect):
            raise ConfigurationError("Simulator.dialect", "it is unknown", f"use {' or '.join(get_args(Dialect))}")
        # What callers must present.
        self.app_token, self.authorization_key, self.api_key = app_token, authorization_key, api_key
        self._host, self._port, self._dialect, self._clock = host, port, dialect, clock
        self._session_seconds, self._login_seconds = session_seconds, login_seconds
        self._stopping = threading.Event()
        self._server: HttpServer | None = None
        self._calls, self._faults = CallLog(round(window_seconds * 1000)), FaultScript()
        self._patients, self._tokens = Patients(seed=seed, speed=speed), TokenIssuer(token_secret)
        cache_ms = round(search_cache_seconds * 1000 / speed)
        self._fhir = FhirServer(self._patients, self._tokens, cache_ms=cache_ms)

    # Start and stop.

    def start(self) -> Self:
        """Listen. Returns once calls are taken; does nothing if it runs already. Raises `OSError` on a taken port."""
        if self._server is None:
            self._stopping.clear()
            self._server = HttpServer((self._host, self._port), reply=self._reply)
            self._port = self._server.server_port
            loop = threading.Thread(
                target=self._server.serve_forever, args=(0.02,), daemon=True, name="phr-refresh-simulator"
            )
            loop.start()
        return self

    def stop(self) -> None:
        """Stop listening and cut every connection, hung ones included. What is known stays; `start` goes on with it."""
        if self._server is not None:
            # Cut first, then wake who waits: otherwise a delayed call could still be answered.
            self._server.close_all()
            self._stopping.set()
            self._server = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The base URL of all three parts, without a slash at the end. The FHIR server is at `/fhir` below it."""
        return f"http://{self._host}:{self._port}"

    @property
    def settings(self) -> dict[str, Any]:
        """What `MhvSettings` needs to know to drive this simulator: `MhvSettings(**simulator.settings)`."""
        return {
            "base_url": self.url,
            "fhir_url": f"{self.url}/fhir",
            "app_token": self.app_token,
            "authorization_key": self.authorization_key,
        }

    # Faults.

    def script(self, fault: Fault) -> None:
        """Let `fault` happen from now on. Of several that fit a call, the one scripted first strikes, alone."""
        self._faults.add(fault)

    def clear_faults(self) -> None:
        """Let nothing go wrong any more. Calls that already hang stay so."""
        self._faults.clear()

    # What happened, and what had.

    def calls(self) -> dict[str, Any]:
        """The counts: `totals`, `simultaneous_logins`, `duplicate_refreshes`, and `patients` by pseudonym."""
        return self._calls.summary()

    def history(self) -> list[Call]:
        """Every call so far, in order of arrival."""
        return self._calls.history()

    def pseudonym(self, icn: str) -> str:
        """What this simulator's log calls the patient."""
        return self._calls.pseudonym(icn)

    def completed_earlier(self, icn: str, seconds_ago: float) -> None:
        """Let a refresh of this patient have ended well `seconds_ago`; any other is forgotten. Not a counted call."""
        self._patients.completed_earlier(icn, at=self._now() - round(seconds_ago * 1000))

    # A call: counted, struck by a fault, answered.

    def _now(self) -> Instant:
        return round(self._clock() * 1000)

    def _wait(self, seconds: float) -> None:
        """In real time, or until the simulator stops."""
        if seconds > 0:
            self._stopping.wait(seconds)

    def _reply(self, request: Request) -> Reply:
        visit = self._visit(request)
        if visit is None:
            return self._control(request)
        order = self._calls.arrived(visit.endpoint, visit.icn, at=self._now())
        fault = self._faults.take(visit.endpoint, visit.icn)
        reply = self._answer(visit) if fault is None else self._struck(visit, fault)
        self._calls.ended(order, reply.outcome, fault=str(fault.kind) if fault else None)
        return reply

    def _visit(self, request: Request) -> _Visit | None:
        if match := _LOGIN.fullmatch(request.path):
            subject = _login_body(request).get("subject")
            icn = subject if isinstance(subject, str) else None
            return _Visit(Endpoint.LOGIN, request, icn, match[1].startswith("/mhvapi"))
        if match := _PHRMGR.fullmatch(request.path):
            return _Visit(Endpoint(match[2]), request, match[3], match[1] is not None)
        if request.path.startswith("/fhir/"):
            subject_id = self._fhir.subject_of(request, now=self._now())
            return _Visit(Endpoint.FHIR, request, self._patients.icn_of(subject_id or ""))
        return None

    def _control(self, request: Request) -> Answer:
        """The simulator's own endpoints, by which other processes script faults and read the call log."""
        match request.method, request.path:
            case "GET", "/calls":
                return json_answer(200, self.calls())
            case "GET", "/history":
                return json_answer(200, [asdict(call) for call in self.history()])
            case "POST", "/faults":
                try:
                    fault = Fault.from_json(json.loads(request.body))
                except ConfigurationError as error:
                    return json_answer(400, {"error": str(error)})
                except (ValueError, RecursionError):
                    return json_answer(400, {"error": "The body is not JSON; send one object with endpoint and kind."})
                self.script(fault)
                return json_answer(201, {"endpoint": fault.endpoint, "kind": fault.kind})
            case "DELETE", "/faults":
                self.clear_faults()
                return Answer(204)
            case _:
                return json_answer(404, {"error": "The simulator has no such path."})

    def _struck(self, visit: _Visit, fault: Fault) -> Reply:
        answer = self._answer(visit, fault) if fault.reaches_upstream else None
        if answer is None or visit.endpoint != Endpoint.LOGIN:
            # A slow login is under way for all of its time: see `_login`.
            self._wait(fault.seconds)
        return self._instead(visit, fault) if answer is None or fault.replaces_answer else answer

    def _instead(self, visit: _Visit, fault: Fault) -> Reply:
        match fault.kind:
            case FaultKind.HANG:
                return Silence("hung")
            case FaultKind.RESET | FaultKind.LOST_ANSWER:
                return Silence(str(fault.kind), is_reset=True)
            case FaultKind.GARBAGE:
                body = "<html><body>{ this is no JSON" if fault.body is None else fault.body
                return Answer(200, body.encode(), {"Content-Type": "application/json"})
        answer = visit.error(401 if fault.kind == FaultKind.UNAUTHORIZED else fault.status, self._now())
        retry_after = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
        content = answer.body if fault.body is None else fault.body.encode()
        return Answer(answer.status, content, {**answer.headers, **retry_after})

    def _answer(self, visit: _Visit, fault: Fault | None = None) -> Answer:
        if visit.request.method != ("GET" if visit.endpoint in (Endpoint.STATUS, Endpoint.FHIR) else "POST"):
            return visit.error(405, self._now())
        if visit.endpoint == Endpoint.FHIR:
            return self._fhir.answer(visit.request, base=f"{self.url}/fhir", now=self._now())
        headers = visit.request.headers
        if self.api_key is not None and not visit.is_older and not _same(headers.get("x-api-key"), self.api_key):
            return json_answer(403, {"message": "Forbidden"})
        if visit.endpoint == Endpoint.LOGIN:
            return self._login(visit, fault)
        if not _same(headers.get("x-authorization-key"), self.authorization_key):
            return visit.error(401, self._now())
        return self._refresh(visit, fault) if visit.endpoint == Endpoint.REFRESH else self._status(visit, fault)

    # Session, refresh, status.

    def _login(self, visit: _Visit, fault: Fault | None) -> Answer:
        body, icn, now = _login_body(visit.request), visit.icn, self._now()
        if icn is None or body.get("userType") != "PATIENT" or not isinstance(body.get("authParams"), dict):
            return visit.error(400, now)
        if body.get("appId") != "103" or not _same(str(body.get("appToken", "")), self.app_token):
            return visit.error(401, now)
        if not is_icn(icn) or body["authParams"].get("PATIENT_SUBJECT_ID_TYPE") != "ICN":
            return visit.error(500, now)
        with self._patients.logging_in(icn) as alone:
            if not alone:
                return visit.error(500, now, SIMULTANEOUS)
            self._wait(self._login_seconds + (fault.seconds if fault else 0.0))
            token = self._tokens.issue(subject_id_of(icn), now=self._clock(), lifetime=self._session_seconds)
        bears = fault.body if fault is not None and fault.kind == FaultKind.BAD_TOKEN else token
        name = "authorization" if visit.is_older else "x-amzn-remapped-authorization"
        headers = {} if bears is None else {name: f"Bearer {bears}"}
        return json_answer(200, {"appId": "103", "userType": "PATIENT"}, headers=headers)

    def _refresh(self, visit: _Visit, fault: Fault | None) -> Answer:
        if visit.icn is None or not is_icn(visit.icn):
            return visit.error(500, self._now())
        next_date = self._patients.refresh(
            visit.icn,
            now=self._now(),
            failing=fault.failing_extracts if fault else frozenset(),
            throttled=fault is not None and fault.kind == FaultKind.THROTTLED,
        )
        return json_answer(200, {"status": "OK", "description": None, "nextDate": next_date})

    def _status(self, visit: _Visit, fault: Fault | None) -> Answer:
        icn, now = visit.icn or "", self._now()
        if self._dialect == "http-code" and not self._patients.is_complete(icn, now=now):
            return visit.error(500, now)
        is_emptied = fault is not None and fault.kind == FaultKind.EMPTY_LIST
        body = {
            "patient": {
                "identifier": icn,
                "assigningFacility": "200M",
                "assigningAuthority": "USVHA",
                "typeCode": "NI",
                "icn": True,
            },
            "retrievedDate": now,
            "lastRefreshDate": None,
            "facilityExtractStatusList": [] if is_emptied else self._patients.rows(icn, now=now),
        }
        return json_answer(200, body)


def _same(given: str | None, expected: str) -> bool:
    return hmac.compare_digest((given or "").encode("utf-8", "replace"), expected.encode())


def _login_body(request: Request) -> dict[str, Any]:
    try:
        body = json.loads(request.body)
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}
