"""A visit by the HTTP contract, on threads or on asyncio, with frozen time and an upstream that tells a story.

Every answer is held against the OpenAPI document, and searched for what must not be told.
"""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import jsonschema_rs
from freezegun import freeze_time
from freezegun.api import FrozenDateTimeFactory
from phr_refresh import AsyncPhrRefresh, Patient, PhrRefresh, Policy, open_async_store, open_store
from phr_refresh.adapters.browser import (
    AsyncHost,
    AsyncHttpStream,
    Contract,
    Host,
    HttpRequest,
    HttpResponse,
    HttpStream,
)
from phr_refresh.adapters.browser.openapi import HEADERS, SCHEMAS, SOMETIMES, document
from phr_refresh.adapters.browser.operations import OPERATIONS, operation_at
from phr_refresh.adapters.workers.tasks import TaskWorker
from phr_refresh.statemachine.effects import AskStatus, CouldNotAsk, Phase, StatusReport, Step

from .fakes import RecordingWorker, ScriptedUpstream, Silent
from .samples import CURRENT, JWT, NOON, RUNNING, SECOND, UNHURRIED

USER_ID, ICN, CORRELATION_ID = "canary-user-id", "1012345678V123456", "canary-correlation-id"
ADA = Patient(USER_ID, ICN, CORRELATION_ID)
BOB = Patient("bob-the-other", "1098765432V654321", "other-correlation-id")
GUEST = Patient("guest-user-id", "1000000001V000001")
SECRETS = (USER_ID, ICN, CORRELATION_ID, JWT, *(BOB.user_id, BOB.icn, "other-correlation-id"))

DONE = StatusReport(Phase.COMPLETE, CURRENT, NOON)
GOING_ON = StatusReport(Phase.IN_PROGRESS, RUNNING)
BROKEN = StatusReport(Phase.FAILED, RUNNING)
#: Headers that need no mention.
_UNMENTIONED = {"Content-Type", "Content-Length", "Cache-Control", "X-Accel-Buffering", "X-Content-Type-Options"}
_ROOT = {"components": document()["components"]}
VALIDATORS = {
    name: jsonschema_rs.Draft202012Validator(
        {"$ref": f"#/components/schemas/{name}"} | _ROOT,
        validate_formats=True,
    )
    for name in SCHEMAS
}


@dataclass
class TellingUpstream(ScriptedUpstream):
    """Says of every refresh what `tells` is now; in `story` stands from which second on it is something else."""

    tells: StatusReport | CouldNotAsk = GOING_ON
    story: list[tuple[float, StatusReport | CouldNotAsk]] = field(default_factory=list)
    seconds: Callable[[], float] = lambda: 0.0
    before_answer: Callable[[], object] = lambda: None

    def call(self, request: Any) -> Any:
        if not isinstance(request, AskStatus):
            return super().call(request)
        self.calls.append("ask_status")
        self.before_answer()
        return [self.tells, *(report for at, report in self.story if at <= self.seconds())][-1]


class IdleTasks(TaskWorker):
    """Takes steps and runs none, for asyncio."""

    def hand_over(self, step: Step, delay: float = 0.0) -> bool:
        return True


@dataclass(frozen=True)
class Answered:
    """A whole answer, or the beginning of a stream."""

    status: int
    headers: dict[str, str]
    body: bytes
    stream: HttpStream | AsyncHttpStream | None = None

    @property
    def json(self) -> Any:
        """The body."""
        return json.loads(self.body)

    @property
    def retry_after(self) -> int:
        """What Retry-After says."""
        return int(self.headers["Retry-After"])


class Visit:
    """One host, with an upstream that does what the test says, at a time that moves only when somebody sleeps."""

    def __init__(self, runner: asyncio.Runner, clock: FrozenDateTimeFactory, policy: Policy) -> None:
        self.clock = clock
        self.runner = runner
        self.policy = policy
        self.slept: list[float] = []
        self.meanwhile: Callable[[], object] = lambda: None
        self.upstream = TellingUpstream(jwt=JWT, seconds=lambda: self.seconds)
        self.observer = Silent()

    @property
    def seconds(self) -> float:
        """How long this visit has been going on."""
        return self.clock().timestamp() - NOON / SECOND

    def pass_time(self, seconds: float) -> None:
        """Let time pass."""
        self.slept.append(seconds)
        self.clock.tick(seconds)
        self.meanwhile()

    def serve(self, **contract: Any) -> None:
        """Serve with these settings. `places` is the host's, all others are the contract's."""
        raise NotImplementedError

    def begin(self, patient: Patient = ADA) -> Any:
        """Do what a worker does: start the refresh."""
        return self._do("refresh", patient)

    def log_out(self, patient: Patient = ADA) -> None:
        """End the patient's session."""
        self._do("logout", patient)

    def _do(self, verb: str, *values: Any) -> Any:
        raise NotImplementedError

    def handle(self, request: HttpRequest) -> HttpResponse | HttpStream | AsyncHttpStream:
        """The host's own answer."""
        raise NotImplementedError

    def get(self, path: str = "status", patient: Patient | None = ADA, **headers: str) -> Answered:
        """GET `path`. Headers are given with underscores."""
        return self.ask("GET", path, patient, **headers)

    def ask(
        self, method: str, path: str, patient: Patient | None = ADA, *, is_logged_in: bool = True, **headers: str
    ) -> Answered:
        """A request of `patient`."""
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = self.handle(HttpRequest(method, path, patient, is_logged_in, fields))
        body = answer.body if isinstance(answer, HttpResponse) else b""
        stream = None if isinstance(answer, HttpResponse) else answer
        answered = Answered(answer.status, dict(answer.headers), body, stream)
        assert len(answer.headers) == len(answered.headers)
        conforms(method, path, answered)
        return answered

    def chunks(self, answered: Answered) -> Iterator[str]:
        """The pieces of a stream, as they come."""
        raise NotImplementedError

    def leave(self, answered: Answered) -> None:
        """Go away from a stream."""
        raise NotImplementedError

    def close(self) -> None:
        """End it."""
        raise NotImplementedError


class ThreadedVisit(Visit):
    """A visit to `Host`."""

    def __init__(self, runner: asyncio.Runner, clock: FrozenDateTimeFactory, policy: Policy) -> None:
        super().__init__(runner, clock, policy)
        self.phr: Any = PhrRefresh(
            store=open_store("memory://"),
            upstream=self.upstream,
            worker=RecordingWorker(),
            policy=policy,
            observer=self.observer,
        )
        self.serve()

    def serve(self, *, places: int | None = None, **contract: Any) -> None:
        self.host = Host(
            self.phr,
            contract=Contract(**contract),
            places=places,
            sleep=self.pass_time,
            monotonic=lambda: self.seconds,
        )

    def _do(self, verb: str, *values: Any) -> Any:
        return vars(type(self.phr))[verb](self.phr, *values)

    def handle(self, request: HttpRequest) -> HttpResponse | HttpStream | AsyncHttpStream:
        return self.host.answer(request)

    def chunks(self, answered: Answered) -> Iterator[str]:
        assert isinstance(answered.stream, HttpStream)
        return (chunk.decode() for chunk in answered.stream.chunks)

    def leave(self, answered: Answered) -> None:
        answered.stream.chunks.close()

    def close(self) -> None:
        self.phr.close()


class AsynchronousVisit(Visit):
    """A visit to `AsyncHost`."""

    def __init__(self, runner: asyncio.Runner, clock: FrozenDateTimeFactory, policy: Policy) -> None:
        super().__init__(runner, clock, policy)
        self.runner.run(self._open())
        self.serve()

    async def _open(self) -> None:
        self.phr: Any = AsyncPhrRefresh(
            store=open_async_store("memory://"),
            upstream=self.upstream,
            worker=IdleTasks(),
            policy=self.policy,
            observer=self.observer,
        )

    def serve(self, *, places: int | None = None, **contract: Any) -> None:
        async def sleep(seconds: float) -> None:
            self.pass_time(seconds)

        self.host = AsyncHost(
            self.phr,
            contract=Contract(**contract),
            places=places,
            sleep=sleep,
            monotonic=lambda: self.seconds,
        )

    def _do(self, verb: str, *values: Any) -> Any:
        async def do() -> Any:
            return await vars(type(self.phr))[verb](self.phr, *values)

        return self.runner.run(do())

    def handle(self, request: HttpRequest) -> HttpResponse | HttpStream | AsyncHttpStream:
        return self.runner.run(self.host.answer(request))

    def chunks(self, answered: Answered) -> Iterator[str]:
        assert isinstance(answered.stream, AsyncHttpStream)
        over = object()

        async def one() -> Any:
            return await anext(answered.stream.chunks, over)

        while (chunk := self.runner.run(one())) is not over:
            yield chunk.decode()

    def leave(self, answered: Answered) -> None:
        self.runner.run(answered.stream.chunks.aclose())

    def close(self) -> None:
        self._do("close")


KINDS = {"threads": ThreadedVisit, "asyncio": AsynchronousVisit}


@contextmanager
def visiting(kind: str, policy: Policy = UNHURRIED) -> Iterator[Visit]:
    """A visit that begins at noon."""
    with asyncio.Runner() as runner, freeze_time("2030-01-01T12:00:00Z", real_asyncio=True) as clock:
        with closing(KINDS[kind](runner, clock, policy)) as visit:
            yield visit


def conforms(method: str, path: str, answered: Answered) -> None:
    """Fails unless the document says that `method` of `path` may be answered so, and nothing is told that must not."""
    shown = f"{answered.headers} {answered.body!r}"
    assert [] == [secret for secret in SECRETS if secret in shown]
    assert "nosniff" == answered.headers.get("X-Content-Type-Options")
    operation, _ = operation_at(path)
    if operation is None or method not in operation.methods:
        assert (404 if operation is None else 405) == answered.status
        if method != "HEAD":
            validate("Problem", answered)
        return
    assert answered.status in operation.responses, f"{answered.status} is no documented answer of {operation.path}"
    answer = operation.responses[answered.status]
    assert set() == set(answer.headers) - SOMETIMES - answered.headers.keys()
    assert set() == answered.headers.keys() - set(answer.headers) - _UNMENTIONED
    for name in answer.headers:
        assert name in HEADERS
    if answer.schema is None:
        assert (b"", False) == (answered.body, "Content-Type" in answered.headers)
    elif method != "HEAD" and answered.stream is None:
        assert answer.content_type == answered.headers["Content-Type"]
        assert str(len(answered.body)) == answered.headers["Content-Length"]
        validate(answer.schema, answered)


def validate(schema: str, answered: Answered) -> None:
    """Fails unless the body is what `schema` describes, with no member that it does not mention."""
    if schema in ("Event", "Module"):
        return
    VALIDATORS[schema].validate(answered.json)
    if schema == "Problem":
        assert answered.status == answered.json["status"]
        assert answered.json["type"].rpartition(":")[2] == answered.json["code"]
    if schema not in ("Bundle", "OpenApi"):
        assert set() == answered.json.keys() - SCHEMAS[schema]["properties"].keys()


def documented() -> list[tuple[str, int]]:
    """Each operation's name and each status that it may be answered with."""
    return [(operation.name, status) for operation in OPERATIONS for status in operation.responses]
