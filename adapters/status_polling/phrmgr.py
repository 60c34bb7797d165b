"""The refresh service of the upstream: one kick-off, one status question (UPSTREAM, sections 1 and 2)."""

from datetime import UTC, datetime
from typing import assert_never
from urllib.parse import quote

from ...statemachine.effects import (
    Accepted,
    AnswerLost,
    AskStatus,
    CouldNotAsk,
    KickOffAnswer,
    NeverSent,
    Phase,
    Rejected,
    StatusReport,
)
from ...statemachine.patient import Patient
from ...statemachine.policy import milliseconds
from ..upstream.http_client import Answer, HttpClient, Lost, NotSent
from ..upstream.settings import MhvSettings
from .extracts import judge
from .retry_after import retry_after_seconds

_GATEWAY_TIMED_OUT = 504
_SERVER_ERROR = 500


class PhrManager:
    """Sends kick-offs and asks for their status over `http`. Thread-safe. Failures are answers, not exceptions."""

    def __init__(self, settings: MhvSettings, http: HttpClient) -> None:
        self._settings = settings
        self._http = http
        prefix = "/mhvapi" if settings.legacy_paths else ""
        self._url = f"{settings.phrmgr_url}{prefix}/v2/phrmgr"
        self._headers = settings.common_headers() | {"X-Authorization-Key": settings.authorization_key}

    def start_refresh(self, patient: Patient) -> KickOffAnswer:
        """Send the kick-off, once, whatever comes of it.

        `Accepted`: a 2xx whose JSON object says `status` "OK". `Rejected`: any other answer, a redirect included.
        `NeverSent`: no connection could be made. `AnswerLost`: all else, among it a 2xx that cannot be read and a
        504: both say that somebody took the request in, and neither what became of it.
        """
        outcome = self._http.call(
            "POST",
            f"{self._url}/refresh/{quote(patient.icn, safe='')}",
            headers=self._headers,
            body={},
            max_bytes=self._settings.max_answer_bytes,
        )
        match outcome:
            case NotSent(reason):
                return NeverSent(reason)
            case Lost(reason):
                return AnswerLost(reason)
            case Answer():
                return _kick_off_answer(outcome)
        assert_never(outcome)

    def ask_status(self, question: AskStatus) -> StatusReport | CouldNotAsk:
        """Ask once how the refresh stands, and judge the answer in the dialect of the settings."""
        outcome = self._http.call(
            "GET",
            f"{self._url}/status/{quote(question.patient.icn, safe='')}",
            headers=self._headers,
            max_bytes=self._settings.max_answer_bytes,
        )
        match outcome:
            case NotSent(reason) | Lost(reason):
                return CouldNotAsk(reason)
            case Answer() if self._settings.dialect == "http-code":
                return _by_http_code(outcome, question)
            case Answer():
                return self._by_extracts(outcome, question)
        assert_never(outcome)

    def _by_extracts(self, answer: Answer, question: AskStatus) -> StatusReport | CouldNotAsk:
        if answer.status != 200:
            return _could_not_ask(answer)
        body = answer.json_object()
        if body is None:
            return CouldNotAsk(_unread(answer))
        return judge(
            body,
            wanted=self._settings.wanted,
            question=question,
            grace=milliseconds(self._settings.throttle_grace),
            tolerance=milliseconds(self._settings.clock_tolerance),
        )


def _kick_off_answer(answer: Answer) -> KickOffAnswer:
    if answer.status == _GATEWAY_TIMED_OUT:
        return AnswerLost(answer.code)
    if not 200 <= answer.status < 300:
        return Rejected(answer.code)
    body = answer.json_object()
    if body is None:
        return AnswerLost(_unread(answer))
    status = body.get("status")
    said_ok = isinstance(status, str) and status.strip().upper() == "OK"
    return Accepted() if said_ok else Rejected("status_not_ok")


def _by_http_code(answer: Answer, question: AskStatus) -> StatusReport | CouldNotAsk:
    """500 is "not yet", 200 "complete", anything else an answer to another question.

    A 200 carries no time. So `as_of` stays None; and where the kick-off's answer was lost, a 200 may speak of
    the refresh before: in progress, until the deadline decides (rule R3).
    """
    if answer.status == _SERVER_ERROR:
        return StatusReport(Phase.IN_PROGRESS)
    if answer.status != 200:
        return _could_not_ask(answer)
    return StatusReport(Phase.IN_PROGRESS if question.answered_at is None else Phase.COMPLETE)


def _could_not_ask(answer: Answer) -> CouldNotAsk:
    return CouldNotAsk(answer.code, retry_after_seconds(answer.headers.get("Retry-After"), now=datetime.now(UTC)))


def _unread(answer: Answer) -> str:
    return answer.cut if answer.cut in ("timed_out", "connection_reset") else "unreadable_answer"
