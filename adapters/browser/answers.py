"""What becomes of statuses, receipts, records and errors: the responses to them."""

from collections.abc import Mapping
from typing import Final

from ...statemachine.errors import (
    ConfigurationError,
    NotEligible,
    PhrRefreshError,
    RecordUnreadable,
    SessionUnavailable,
    StoreUnavailable,
)
from ...statemachine.outcomes import Receipt, ReceiptKind, Status
from ...statemachine.record import State
from .bodies import (
    etag_of,
    failure_body,
    is_stale,
    moment,
    progress_of,
    seconds_to_next_check,
    seconds_until,
    status_body,
)
from .messages import FHIR, HttpRequest, HttpResponse, problem, response, whole_seconds

#: Seconds that a client is asked to leave alone what is down, where nothing tells when it will be up.
_OUTAGE_SECONDS: Final = 5.0
_LATER: Final = "try again when Retry-After has passed."


def status_answer(status: Status, request: HttpRequest, *, waited: int | None) -> HttpResponse:
    """`waited`: the seconds of `Prefer: wait` that were applied."""
    headers = {"ETag": f"W/{etag_of(status)}", "Vary": "Prefer"}
    if waited is not None:
        headers["Preference-Applied"] = f"wait={waited}"
    if status.under_way:
        # Never 304, which stands for a 200 (RFC 9110, 15.4.5): who waits for the end has to see that it is not there.
        return response(202, status_body(status), headers=headers | _progress_headers(status))
    if request.knows(etag_of(status)):
        return HttpResponse(304, (*headers.items(), ("Cache-Control", "no-store")), b"")
    return response(200, status_body(status), headers=headers)


def refresh_answer(receipt: Receipt, status: Status) -> HttpResponse:
    """What a patient who asked for a refresh is told; `status` was read after `receipt` was had."""
    retry_after = seconds_until(receipt.retry_at, status)
    if receipt.kind is ReceiptKind.FRESH or receipt.reason == "window_closed":
        return problem(
            429,
            "window_closed",
            f"The last refresh was not long enough ago; {_LATER}",
            retry_after=retry_after,
            retry_at=moment(receipt.retry_at),
            failure=failure_body(status),
        )
    # A login that took too long goes on behind: what was asked for is on its way, unless there is nothing to do.
    goes_on = receipt.reason == "over_budget" and status.state is not State.COMPLETE
    if receipt.kind is ReceiptKind.DEFERRED and not goes_on:
        detail = f"The records cannot be refreshed now; {_LATER}"
        return problem(
            503,
            receipt.reason or "deferred",
            detail,
            retry_after=_OUTAGE_SECONDS if retry_after is None else retry_after,
            failure=failure_body(status),
        )
    result = "joined" if receipt.kind is ReceiptKind.IN_PROGRESS else "started"
    headers = {"Location": "status", "Retry-After": whole_seconds(seconds_to_next_check(status))}
    return response(202, {"result": result, "status": status_body(status)}, headers=headers)


def records_answer(bundle: Mapping[str, object], status: Status) -> HttpResponse:
    """The Bundle as it came; headers say how old it is."""
    headers = {"PHR-State": status.state.value, "PHR-Stale": "?1" if is_stale(status) else "?0"}
    if (as_of := moment(status.as_of)) is not None:
        headers["PHR-As-Of"] = as_of
    if status.failure is not None:
        headers["PHR-Failure"] = status.failure.code
    return response(200, bundle, content_type=FHIR, headers=headers)


def records_failed(reason: str) -> HttpResponse:
    """The FHIR server did not give the records; `reason` is a code."""
    detail = f"The records cannot be read now; {_LATER}"
    return problem(502, "records_unavailable", detail, retry_after=_OUTAGE_SECONDS, reason=reason)


def no_records(receipt: Receipt, status: Status) -> HttpResponse:
    """The FHIR server does not know the patient: the first data are on their way, or nobody is bringing any."""
    if status.under_way or receipt.kind in (ReceiptKind.HANDED_OVER, ReceiptKind.IN_PROGRESS):
        return not_yet(status)
    # After a refresh that ended well the FHIR server will know, in seconds; after one that failed, the window decides.
    retry_after = None if receipt.kind is ReceiptKind.FRESH else seconds_until(receipt.retry_at, status)
    return problem(
        503,
        "no_records_yet",
        f"There are no records yet, and none are on their way; {_LATER}",
        retry_after=_OUTAGE_SECONDS if retry_after is None else retry_after,
        failure=failure_body(status),
    )


def not_yet(status: Status) -> HttpResponse:
    """The first data are on their way."""
    return response(202, status_body(status), headers=_progress_headers(status))


def no_session(error: SessionUnavailable, status: Status | None = None) -> HttpResponse:
    """There is no session to read records with. `status`: by whose clock it is told when to try again."""
    retry_after = seconds_until(error.retry_at, status) if status else None
    detail = f"The upstream gives no session now; {_LATER}"
    return problem(
        503,
        "session_unavailable",
        detail,
        retry_after=_OUTAGE_SECONDS if retry_after is None else retry_after,
        reason=error.reason,
        retry_at=moment(error.retry_at),
    )


def no_such_resource() -> HttpResponse:
    """The path is none of ours."""
    return problem(404, "no_such_resource", "There is nothing here; openapi.json lists what there is.")


def no_such_records() -> HttpResponse:
    """The path names a kind of records that nobody configured."""
    return problem(404, "no_such_records", "There are no records of this kind.")


def method_not_allowed(methods: tuple[str, ...]) -> HttpResponse:
    """The path is one of ours, the method is not."""
    allow = ", ".join(methods)
    return problem(405, "method_not_allowed", f"Use {allow}.", headers={"Allow": allow})


def not_logged_in() -> HttpResponse:
    """RFC 9110 wants a challenge with a 401; browsers do nothing about one of this scheme."""
    return problem(401, "not_logged_in", "Log in first.", headers={"WWW-Authenticate": 'Session realm="portal"'})


def not_eligible() -> HttpResponse:
    """Somebody is logged in who has no MHV account (rule R8)."""
    return problem(403, "not_eligible", "There is no MHV account, so there are no records to refresh.")


def store_unavailable() -> HttpResponse:
    """Nothing can be told."""
    detail = f"The state cannot be read now; {_LATER}"
    return problem(503, "store_unavailable", detail, retry_after=_OUTAGE_SECONDS)


def error_answer(error: PhrRefreshError) -> HttpResponse:
    """An error as a problem. A 500 is one that somebody has to look at."""
    match error:
        case NotEligible():
            return not_eligible()
        case StoreUnavailable():
            return store_unavailable()
        case SessionUnavailable():
            return no_session(error)
        case RecordUnreadable():
            return problem(500, "record_unreadable", "The stored state cannot be read; call the people who run this.")
        case ConfigurationError(setting="MhvSettings.records"):
            return no_such_records()
        case _:
            return problem(500, "internal_error", "This failed; call the people who run this.")


def _progress_headers(status: Status) -> dict[str, str]:
    return {"Retry-After": whole_seconds(seconds_to_next_check(status)), "X-Progress": progress_of(status)}
