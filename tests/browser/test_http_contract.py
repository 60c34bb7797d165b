"""The HTTP contract, answer by answer, on threads and asyncio alike: status, refresh, records, and what goes wrong."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from math import ceil

import pytest
from phr_refresh import ConfigurationError
from phr_refresh.adapters.browser import Contract, HttpRequest
from phr_refresh.adapters.ports import NotReady, Records, RecordsFailed
from phr_refresh.statemachine.effects import (
    CouldNotAsk,
    OpenSession,
    Phase,
    ReadRecords,
    Rejected,
    SessionFailed,
    StatusReport,
)
from phr_refresh.statemachine.errors import RecordUnreadable, SessionUnavailable, StoreUnavailable
from phr_refresh.statemachine.outcomes import Receipt, ReceiptKind
from support.contract import ADA, BOB, BROKEN, DONE, GOING_ON, GUEST, KINDS, Visit, visiting
from support.samples import PARTIAL

BUNDLE = {"resourceType": "Bundle", "total": 1}


@pytest.fixture(params=KINDS)
def visit(request: pytest.FixtureRequest) -> Iterator[Visit]:
    """A visit to each kind of host in turn."""
    with visiting(request.param) as opened:
        yield opened


def finish(visit: Visit, report: StatusReport = DONE) -> None:
    """Let the refresh be found ended a second after it was asked for."""
    visit.begin()
    visit.upstream.tells = report
    visit.clock.tick(1)
    visit.get()


class Broken:
    """Fails at everything with one error, as a refresher, sync and async alike."""

    def __init__(self, visit: Visit, error: Exception, *, but: tuple[str, ...] = ()) -> None:
        self.observer = visit.observer
        self._phr, self._error, self._but = visit.phr, error, but

    def login(self, patient: object) -> object:
        return self._answer("login", patient)

    def status(self, who: object) -> object:
        return self._answer("status", who)

    def records(self, patient: object, kind: str) -> object:
        return self._answer("records", patient, kind)

    def close(self) -> object:
        return self._phr.close()

    def _answer(self, verb: str, *values: object) -> object:
        if verb in self._but:
            return vars(type(self._phr))[verb](self._phr, *values)
        raise self._error


def breaks(visit: Visit, error: Exception, *, but: tuple[str, ...] = ()) -> None:
    """From now on everything fails, but these verbs."""
    phr = visit.phr
    visit.phr = Broken(visit, error, but=but)
    visit.serve()
    visit.phr = phr


# Status.


def test_a_patient_never_seen_is_settled(visit: Visit) -> None:
    """200: nothing is known, nothing is under way, and the data may be out of date."""
    answered = visit.get()
    assert 200 == answered.status
    expected = {
        "state": "no_session",
        "under_way": False,
        "since": None,
        "as_of": None,
        "stale": True,
        "partial": False,
        "refresh_id": None,
        "claimed_at": None,
        "extracts": [],
        "failure": None,
        "next_check_at": None,
    }
    assert expected == answered.json
    assert "no-store" == answered.headers["Cache-Control"]
    assert "Prefer" == answered.headers["Vary"]
    assert "Preference-Applied" not in answered.headers


def test_a_refresh_under_way_is_202(visit: Visit) -> None:
    """202 with the time of the next check, and progress in words."""
    visit.begin()
    answered = visit.get()
    assert (202, "refreshing", True) == (answered.status, answered.json["state"], answered.json["under_way"])
    assert "2030-01-01T12:00:01.000Z" == answered.json["next_check_at"]
    assert "refresh requested" == answered.headers["X-Progress"]
    assert 1 == answered.retry_after
    assert "no-store" == answered.headers["Cache-Control"]
    visit.clock.tick(1)
    answered = visit.get()
    assert (202, "1 of 2 extracts ended") == (answered.status, answered.headers["X-Progress"])
    extracts = [(item["name"], item["state"]) for item in answered.json["extracts"]]
    assert [("Allergy", "current"), ("VPR", "in_progress")] == extracts


@pytest.mark.parametrize(
    ("report", "state", "stale", "partial"),
    [
        (DONE, "complete", False, False),
        (StatusReport(Phase.COMPLETE, PARTIAL, DONE.as_of), "complete", False, True),
        (BROKEN, "stale", True, False),
    ],
    ids=["complete", "partial", "failed"],
)
def test_what_has_ended_is_200(visit: Visit, report: StatusReport, state: str, stale: bool, partial: bool) -> None:
    """200 without Retry-After for a refresh that ended, well or not, and what became of each extract."""
    finish(visit, report)
    answered = visit.get()
    assert (200, state, False) == (answered.status, answered.json["state"], answered.json["under_way"])
    assert (stale, partial) == (answered.json["stale"], answered.json["partial"])
    assert 2 == len(answered.json["extracts"])
    assert "Retry-After" not in answered.headers
    failure = answered.json["failure"]
    assert (report is BROKEN) == (failure is not None)
    if failure:
        assert "all_extracts_failed" == failure["code"]
        assert "2030-01-01T13:00:00.000Z" == failure["retry_at"]


def test_a_session_without_a_refresh_is_settled(visit: Visit) -> None:
    """200 while a session is cached and the window of an earlier refresh is closed; the state says so."""
    finish(visit)
    visit.log_out()
    assert (200, "no_session") == (visit.get().status, visit.get().json["state"])


def test_a_refresh_that_times_out_is_settled(visit: Visit) -> None:
    """200 at the deadline: stale, failed as timed_out; it is still asked about, so next_check_at says when."""
    visit.begin()
    visit.clock.tick(visit.policy.refresh_deadline)
    answered = visit.get()
    assert (200, "stale", "timed_out") == (answered.status, answered.json["state"], answered.json["failure"]["code"])
    assert answered.json["next_check_at"] is not None
    visit.upstream.tells = DONE
    visit.clock.tick(30)
    assert (200, "complete") == (visit.get().status, visit.get().json["state"])


def test_data_go_stale_when_the_window_has_passed(visit: Visit) -> None:
    """200: an hour later what was complete is stale, without a failure, and the as-of time stays."""
    finish(visit)
    visit.clock.tick(visit.policy.refresh_window)
    answered = visit.get()
    assert (200, "stale", None) == (answered.status, answered.json["state"], answered.json["failure"])
    assert "2030-01-01T12:00:00.000Z" == answered.json["as_of"]


def test_a_session_being_created_is_under_way() -> None:
    """202 while the session for the refresh is being created: asked again after a second."""
    with visiting("threads") as visit:
        seen = []
        call = visit.upstream.call

        def look(request: object) -> object:
            if isinstance(request, OpenSession):
                seen.append(visit.get())
            return call(request)

        visit.upstream.call = look
        visit.begin()
    assert [(202, 1, "not begun")] == [
        (answered.status, answered.retry_after, answered.headers["X-Progress"]) for answered in seen
    ]


def test_retry_after_grows_with_the_time_spent(visit: Visit) -> None:
    """By the policy each interval is 5 % of the time already spent longer; asked in between, the rest of it is told."""
    visit.begin()
    told, expected = [visit.get().retry_after], [1]
    while told[-1] < 5:
        visit.clock.tick(told[-1])
        told.append(visit.get().retry_after)
        expected.append(ceil(visit.policy.poll_interval_after(round(visit.seconds * 1000)) / 1000))
    assert expected == told
    visit.clock.tick(told[-1])
    visit.get()
    whole = visit.get().retry_after
    visit.clock.tick(2)
    assert whole - 2 == visit.get().retry_after


def test_the_upstream_says_when(visit: Visit) -> None:
    """A Retry-After of the upstream's own is passed on."""
    visit.begin()
    visit.upstream.tells = CouldNotAsk("http_503", retry_after=17)
    visit.clock.tick(1)
    assert (202, 17) == (visit.get().status, visit.get().retry_after)


# Conditional requests.


@pytest.mark.parametrize("form", ["{}", "W/{}", '"other", {}', ' "other" , W/{} ', "*"])
def test_who_knows_the_status_gets_304(visit: Visit, form: str) -> None:
    """304 without a body for a settled status that the client has: weakly compared, in a list, or by any."""
    finish(visit)
    first = visit.get()
    assert first.headers["ETag"].startswith('W/"')
    tag = first.headers["ETag"].removeprefix("W/")
    answered = visit.get(if_none_match=form.format(tag))
    assert (304, b"") == (answered.status, answered.body)
    assert first.headers["ETag"] == answered.headers["ETag"]
    assert ("no-store", "Prefer") == (answered.headers["Cache-Control"], answered.headers["Vary"])


@pytest.mark.parametrize("tag", ['"other"', "other", "", 'W/"', ",,"])
def test_who_knows_another_status_gets_this_one(visit: Visit, tag: str) -> None:
    """200 with the body for any other tag."""
    finish(visit)
    assert 200 == visit.get(if_none_match=tag).status


def test_a_refresh_under_way_is_never_304(visit: Visit) -> None:
    """304 stands for a 200: while the refresh runs, even a client that knows the status is told 202."""
    visit.begin()
    tag = visit.get().headers["ETag"]
    assert [202, 202] == [visit.get(if_none_match=known).status for known in (tag, "*")]


def test_the_tag_follows_what_is_told(visit: Visit) -> None:
    """Progress changes the tag; the time of the next check alone does not."""
    visit.begin()
    tags = []
    for _ in range(4):
        tags.append(visit.get().headers["ETag"])
        visit.clock.tick(2)
    assert (2, 1) == (len(set(tags)), len(set(tags[1:])))


# Refresh.


def test_a_refresh_is_started_then_joined(visit: Visit) -> None:
    """202 started for what is handed over, 202 joined while it runs; where to ask, and when."""
    answered = visit.ask("POST", "refresh")
    assert (202, "started", "status", 1) == (
        answered.status,
        answered.json["result"],
        answered.headers["Location"],
        answered.retry_after,
    )
    visit.begin()
    answered = visit.ask("POST", "refresh")
    assert (202, "joined", "refreshing") == (answered.status, answered.json["result"], answered.json["status"]["state"])
    assert 1 == visit.upstream.kick_offs


@pytest.mark.parametrize("report", [DONE, BROKEN], ids=["complete", "failed"])
def test_a_closed_window_is_429(visit: Visit, report: StatusReport) -> None:
    """429 with the time until the window opens, after a success and after a failure, which is named."""
    finish(visit, report)
    visit.clock.tick(59)
    answered = visit.ask("POST", "refresh")
    assert (429, "window_closed", 3540) == (answered.status, answered.json["code"], answered.retry_after)
    assert "2030-01-01T13:00:00.000Z" == answered.json["retry_at"]
    failure = answered.json["failure"]
    assert (report is BROKEN) == (failure is not None and failure["code"] == "all_extracts_failed")
    visit.clock.tick(3540)
    assert (202, "started") == (visit.ask("POST", "refresh").status, visit.ask("POST", "refresh").json["result"])


def test_a_kick_off_that_was_rejected_closes_the_window(visit: Visit) -> None:
    """429 after a definite answer that was no acceptance: it counts."""
    visit.upstream.kick_off_answers.append(Rejected("http_400"))
    visit.begin()
    answered = visit.ask("POST", "refresh")
    assert (429, "http_400") == (answered.status, answered.json["failure"]["code"])


def test_backing_off_is_503(visit: Visit) -> None:
    """503 with the time of the next try after the upstream gave no session."""
    visit.upstream.sessions.append(SessionFailed("http_500"))
    visit.begin()
    answered = visit.ask("POST", "refresh")
    assert (503, "backoff", 2) == (answered.status, answered.json["code"], answered.retry_after)
    assert "http_500" == answered.json["failure"]["code"]


RECEIPTS = [
    (Receipt(kind=ReceiptKind.DEFERRED, reason="worker_full"), (503, "worker_full", 5)),
    (Receipt(kind=ReceiptKind.DEFERRED, reason="too_many_logins"), (503, "too_many_logins", 5)),
    (Receipt(kind=ReceiptKind.DEFERRED, reason="closed"), (503, "closed", 5)),
    (Receipt(kind=ReceiptKind.DEFERRED, reason="internal_error"), (503, "internal_error", 5)),
    (Receipt(kind=ReceiptKind.DEFERRED), (503, "deferred", 5)),
    (Receipt(kind=ReceiptKind.DEFERRED, reason="store_unavailable"), (503, "store_unavailable", 5)),
    (Receipt(kind=ReceiptKind.DEFERRED, reason="over_budget"), (202, None, 1)),
]


@pytest.mark.parametrize(("receipt", "expected"), RECEIPTS, ids=[str(receipt.reason) for receipt, _ in RECEIPTS])
def test_what_cannot_be_started_is_503(visit: Visit, receipt: Receipt, expected: tuple[int, str, int]) -> None:
    """503 with the reason; a login that takes long goes on behind, so that is 202."""
    visit.phr.login = gives(visit, receipt)
    answered = visit.ask("POST", "refresh")
    assert expected == (answered.status, answered.json.get("code"), answered.retry_after)


def test_a_slow_login_of_who_is_fresh_starts_nothing(visit: Visit) -> None:
    """503, not 202: whether the window is still closed was not found out, and nothing may be promised."""
    finish(visit)
    visit.phr.login = gives(visit, Receipt(kind=ReceiptKind.DEFERRED, reason="over_budget"))
    answered = visit.ask("POST", "refresh")
    assert (503, "over_budget") == (answered.status, answered.json["code"])


def test_a_time_that_has_passed_is_not_told(visit: Visit) -> None:
    """Retry-After is a second at least, even where the time to try again is past."""
    past = datetime(2030, 1, 1, 11, 59, tzinfo=UTC)
    receipt = Receipt(kind=ReceiptKind.DEFERRED, reason="backoff", retry_at=past)
    visit.phr.login = gives(visit, receipt)
    assert (503, 1) == (visit.ask("POST", "refresh").status, visit.ask("POST", "refresh").retry_after)


def gives(visit: Visit, value: object) -> object:
    """A verb that gives `value`, to be awaited where this visit's are."""

    async def later(*_: object) -> object:
        return value

    return later if type(visit) is KINDS["asyncio"] else lambda *_: value


# Records.


def test_the_first_records_are_waited_for(visit: Visit) -> None:
    """202 while the first refresh runs: the FHIR server is not asked."""
    visit.begin()
    visit.upstream.records.append(RecordsFailed("must not be asked"))
    answered = visit.get("records/vitals")
    assert (202, "refreshing", 1) == (answered.status, answered.json["state"], answered.retry_after)
    assert "refresh requested" == answered.headers["X-Progress"]


def test_current_records_say_as_of_when(visit: Visit) -> None:
    """200 with the Bundle as it came, and its as-of time, once complete."""
    finish(visit)
    visit.upstream.records.append(Records(BUNDLE, 1))
    answered = visit.get("records/vitals")
    assert (200, BUNDLE, "application/fhir+json") == (answered.status, answered.json, answered.headers["Content-Type"])
    assert ("?0", "complete") == (answered.headers["PHR-Stale"], answered.headers["PHR-State"])
    assert "2030-01-01T12:00:00.000Z" == answered.headers["PHR-As-Of"]
    assert "PHR-Failure" not in answered.headers
    assert "no-store" == answered.headers["Cache-Control"]


def test_older_records_are_shown_while_new_ones_are_on_their_way(visit: Visit) -> None:
    """200 with the stale mark while a refresh runs that is not the first."""
    finish(visit)
    visit.upstream.tells = GOING_ON
    visit.clock.tick(visit.policy.refresh_window)
    visit.begin()
    answered = visit.get("records/vitals")
    assert (200, "?1", "refreshing") == (answered.status, answered.headers["PHR-Stale"], answered.headers["PHR-State"])
    assert "2030-01-01T12:00:00.000Z" == answered.headers["PHR-As-Of"]


@pytest.mark.parametrize("how", ["all_extracts_failed", "timed_out"])
@pytest.mark.parametrize("had_any", [True, False], ids=["second refresh", "first refresh"])
def test_older_records_after_a_failure_are_marked(visit: Visit, how: str, had_any: bool) -> None:
    """200 with the stale mark and the failure after a refresh that failed or timed out, whatever is known of before."""
    if had_any:
        finish(visit)
        visit.clock.tick(visit.policy.refresh_window)
    visit.upstream.tells = GOING_ON
    visit.begin()
    if how == "timed_out":
        visit.clock.tick(visit.policy.refresh_deadline)
    else:
        visit.upstream.tells = BROKEN
        visit.clock.tick(1)
    answered = visit.get("records/vitals")
    assert (200, "?1", how) == (answered.status, answered.headers["PHR-Stale"], answered.headers["PHR-Failure"])
    assert had_any == ("PHR-As-Of" in answered.headers)


def test_no_records_and_none_on_their_way_is_no_spinner(visit: Visit) -> None:
    """503 no_records_yet after the first refresh failed and the FHIR server knows nobody: never a 202 without end."""
    finish(visit, BROKEN)
    visit.upstream.records.append(NotReady())
    answered = visit.get("records/vitals")
    assert (503, "no_records_yet", 3599) == (answered.status, answered.json["code"], answered.retry_after)
    assert "all_extracts_failed" == answered.json["failure"]["code"]


def test_a_fhir_server_that_does_not_know_yet_is_asked_again_soon(visit: Visit) -> None:
    """503 with a few seconds where the refresh ended well and the FHIR server is behind."""
    finish(visit)
    visit.upstream.records.append(NotReady())
    answered = visit.get("records/vitals")
    assert (503, "no_records_yet", 5) == (answered.status, answered.json["code"], answered.retry_after)


def test_no_records_of_somebody_never_seen(visit: Visit) -> None:
    """202 where nobody had logged in by us: asking for the records has the first refresh started."""
    visit.upstream.records.append(NotReady())
    answered = visit.get("records/vitals")
    assert (202, 1) == (answered.status, answered.retry_after)
    visit.begin()
    assert (202, "refreshing") == ((again := visit.get("records/vitals")).status, again.json["state"])


def test_no_records_and_nobody_to_get_them(visit: Visit) -> None:
    """503 with a few seconds where no refresh can be started now."""
    visit.upstream.records.append(NotReady())
    visit.phr.login = gives(visit, Receipt(kind=ReceiptKind.DEFERRED, reason="worker_full"))
    answered = visit.get("records/vitals")
    assert (503, "no_records_yet", 5) == (answered.status, answered.json["code"], answered.retry_after)


@pytest.mark.parametrize("reason", ["http_401", "timed_out", "several_patients"])
def test_a_fhir_server_that_fails_is_502(visit: Visit, reason: str) -> None:
    """502 with the reason."""
    finish(visit)
    visit.upstream.records.append(RecordsFailed(reason))
    answered = visit.get("records/vitals")
    assert (502, "records_unavailable", reason) == (answered.status, answered.json["code"], answered.json["reason"])


def test_records_without_a_session_are_503(visit: Visit) -> None:
    """503 with the reason and the time of the next try where the upstream gives no session."""
    visit.upstream.sessions.append(SessionFailed("http_500"))
    answered = visit.get("records/vitals")
    assert (503, "session_unavailable", "http_500", 2) == (
        answered.status,
        answered.json["code"],
        answered.json["reason"],
        answered.retry_after,
    )


@pytest.mark.parametrize("known", [("vitals",), None], ids=["contract knows", "upstream knows"])
def test_an_unknown_kind_is_404(visit: Visit, known: tuple[str, ...] | None) -> None:
    """404 for a kind that nobody configured, whether the contract or only the upstream knows what there is."""

    call = visit.upstream.call

    def refuse(request: object) -> object:
        if not isinstance(request, ReadRecords):
            return call(request)
        raise ConfigurationError("MhvSettings.records", "it has no such kind", "add it")

    finish(visit)
    visit.upstream.call = refuse
    visit.serve(kinds=known)
    assert (404, "no_such_records") == ((got := visit.get("records/x-rays")).status, got.json["code"])


def test_an_unknown_kind_is_404_in_every_state(visit: Visit) -> None:
    """A contract that knows the kinds says 404 at once, even where the first records are on their way."""
    visit.serve(kinds=("vitals",))
    visit.begin()
    assert [202, 404] == [visit.get(f"records/{kind}").status for kind in ("vitals", "x-rays")]


# Who asks, and what for.

EVERYTHING = [("GET", "status"), ("GET", "events"), ("POST", "refresh"), ("GET", "records/vitals")]


@pytest.mark.parametrize(("method", "path"), EVERYTHING)
def test_nobody_is_told_anything_without_a_login(visit: Visit, method: str, path: str) -> None:
    """401 with a challenge, whatever the request says of itself; nothing is looked up."""
    breaks(visit, AssertionError("looked up"))
    answered = visit.ask(method, path, ADA, is_logged_in=False, authorization="Bearer x", cookie="user=ada")
    assert (401, "not_logged_in") == (answered.status, answered.json["code"])
    assert answered.headers["WWW-Authenticate"]


@pytest.mark.parametrize("patient", [GUEST, None], ids=["no MHV account", "no patient"])
@pytest.mark.parametrize(("method", "path"), EVERYTHING)
def test_who_has_no_account_is_not_eligible(visit: Visit, method: str, path: str, patient: object) -> None:
    """403 not_eligible for somebody without an MHV account; nothing is looked up."""
    breaks(visit, AssertionError("looked up"))
    assert (403, "not_eligible") == ((got := visit.ask(method, path, patient)).status, got.json["code"])


@pytest.mark.parametrize("path", ["", "/", "stat", "status/ada", "records", "records/", "refresh/ada", "events/1", "x"])
def test_other_paths_are_404(visit: Visit, path: str) -> None:
    """404 for everything that is not listed, whoever asks; no path names a patient."""
    assert [404, 404] == [visit.get(path).status, visit.get(path, None).status]


@pytest.mark.parametrize(
    ("path", "allow"),
    [
        ("status", "GET, HEAD"),
        ("events", "GET, HEAD"),
        ("refresh", "POST"),
        ("records/vitals", "GET, HEAD"),
        ("openapi.json", "GET, HEAD"),
        ("phr-refresh.js", "GET, HEAD"),
    ],
)
def test_other_methods_are_405(visit: Visit, path: str, allow: str) -> None:
    """405 that says what is allowed (RFC 9110, 15.5.6)."""
    for method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"} - set(allow.split(", ")):
        answered = visit.ask(method, path)
        assert (405, allow) == (answered.status, answered.headers["Allow"])


@pytest.mark.parametrize("path", ["status", "records/vitals", "openapi.json", "phr-refresh.js", "events"])
def test_head_is_get_without_a_body(visit: Visit, path: str) -> None:
    """The same status and headers; a stream is not even begun, and takes no place."""
    visit.serve(places=1)
    visit.begin()
    for _ in range(2):
        head = visit.ask("HEAD", path)
        assert (b"", None) == (head.body, head.stream)
    got = visit.get(path)
    assert (got.status, got.headers) == (head.status, head.headers)


def test_nobody_sees_another_patients_state(visit: Visit) -> None:
    """Two patients, each asking in every way that a request can name somebody: each gets their own."""
    finish(visit)
    mine, others = visit.get().json, visit.get(patient=BOB, cookie="user=canary", x_user="canary", forwarded="for=x")
    assert ("complete", "no_session", None) == (mine["state"], others.json["state"], others.json["refresh_id"])
    tag = visit.get().headers["ETag"]
    assert 200 == visit.get(patient=BOB, if_none_match=tag).status
    stream = visit.get("events", BOB, last_event_id=tag.removeprefix("W/").strip('"'))
    assert mine["refresh_id"] not in "".join(visit.chunks(stream))


def test_what_a_request_holds_is_not_shown() -> None:
    """The repr of a request shows no cookie and no identifier."""
    shown = repr(HttpRequest("GET", "status", ADA, True, {"cookie": "canary-cookie"}))
    assert [] == [secret for secret in ("canary", ADA.icn) if secret in shown]


# What goes wrong.


@pytest.mark.parametrize(("method", "path"), EVERYTHING)
@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (StoreUnavailable("redis at canary-host", "timed_out"), 503, "store_unavailable"),
        (RecordUnreadable("canary", "do"), 500, "record_unreadable"),
        (ConfigurationError("AsyncPhrRefresh", "it is closed", "make another one"), 500, "internal_error"),
        (SessionUnavailable("http_500", None), 503, "session_unavailable"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_errors_are_problems(visit: Visit, method: str, path: str, error: Exception, status: int, code: str) -> None:
    """503 with Retry-After for what passes, 500 for what somebody has to look at; that is told to the observer."""
    breaks(visit, error)
    answered = visit.ask(method, path)
    assert (status, code) == (answered.status, answered.json["code"])
    assert "application/problem+json" == answered.headers["Content-Type"]
    assert "no-store" == answered.headers["Cache-Control"]
    assert (status == 503) == ("Retry-After" in answered.headers)
    assert "canary-host" not in answered.body.decode()
    told = visit.observer.told("request_failed")
    assert (1 if status == 500 else 0) == len(told)


def test_errors_that_are_not_ours_are_the_hosts(visit: Visit) -> None:
    """What is no error of this library is raised, and the place is given back."""
    visit.begin()
    breaks(visit, ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        visit.get()


def test_a_negative_wait_is_refused() -> None:
    """A setting that makes no sense is a configuration error."""
    with pytest.raises(ConfigurationError, match=r"Contract.longest_wait: it is negative; give 0 or more\."):
        Contract(longest_wait=timedelta(seconds=-1))


# What is the same for everybody.


@pytest.mark.parametrize(
    ("path", "content_type"),
    [("openapi.json", "application/json"), ("phr-refresh.js", "text/javascript; charset=utf-8")],
)
def test_what_is_the_same_for_everybody_is_cached(visit: Visit, path: str, content_type: str) -> None:
    """No login needed; a strong tag by the content, a time to keep it, and 304 for who has it."""
    answered = visit.ask("GET", path, None, is_logged_in=False)
    assert (200, content_type) == (answered.status, answered.headers["Content-Type"])
    assert "public, max-age=3600" == answered.headers["Cache-Control"]
    tag = answered.headers["ETag"]
    assert tag.startswith('"')
    for known in (tag, f"W/{tag}", "*"):
        again = visit.ask("GET", path, None, is_logged_in=False, if_none_match=known)
        assert (304, b"", tag) == (again.status, again.body, again.headers["ETag"])
    assert 200 == visit.ask("GET", path, None, is_logged_in=False, if_none_match='"older"').status
