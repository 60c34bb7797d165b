"""The simulator as a whole: settings, clock, start and stop."""

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, get_args

from ...statemachine.errors import ConfigurationError
from .calls import Call, CallLog
from .controls import Controls
from .faults import Fault, FaultScript
from .fhir_server import FhirServer
from .messages import Reply, Request
from .patients import Patients
from .server import HttpServer
from .tokens import TokenIssuer
from .upstream import Dialect, Settings, Upstream


def _system_clock() -> float:
    # Looked up at each call, so that a test that freezes `time.time` freezes the simulator, too.
    return time.time()


def _check(speed: float, dialect: str) -> None:
    if not speed > 0:
        raise ConfigurationError("Simulator.speed", "it is not positive", "give 1.0 for the recorded durations")
    if dialect not in get_args(Dialect):
        raise ConfigurationError("Simulator.dialect", "it is unknown", f"use {' or '.join(get_args(Dialect))}")


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
        _check(speed, dialect)
        # What callers must present.
        self.app_token, self.authorization_key, self.api_key = app_token, authorization_key, api_key
        self._host, self._port, self._stopping = host, port, threading.Event()
        self._server: HttpServer | None = None
        self._calls = CallLog(round(window_seconds * 1000))
        self._faults = FaultScript()
        self._controls = Controls(self._calls, self._faults)
        self._patients, tokens = Patients(seed=seed, speed=speed), TokenIssuer(token_secret)
        settings = Settings(
            base_url=lambda: self.url,
            clock=clock,
            wait=self._wait,
            dialect=dialect,
            app_token=app_token,
            authorization_key=authorization_key,
            api_key=api_key,
            session_seconds=session_seconds,
            login_seconds=login_seconds,
        )
        fhir = FhirServer(self._patients, tokens, cache_ms=round(search_cache_seconds * 1000 / speed))
        self._upstream = Upstream(settings, patients=self._patients, fhir=fhir, tokens=tokens)

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
        self._patients.completed_earlier(icn, at=self._upstream.now() - round(seconds_ago * 1000))

    def _reply(self, request: Request) -> Reply:
        reply = self._upstream.play(request, calls=self._calls, faults=self._faults)
        return self._controls.answer(request) if reply is None else reply

    def _wait(self, seconds: float) -> None:
        if seconds > 0:
            self._stopping.wait(seconds)
