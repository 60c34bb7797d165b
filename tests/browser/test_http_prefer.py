"""Prefer: wait=N (RFC 7240): read, capped, applied, and answered as soon as there is news."""

from collections.abc import Iterator
from datetime import timedelta
from itertools import count

import pytest
from phr_refresh.adapters.browser.answers import wait_of
from phr_refresh.statemachine.effects import CouldNotAsk, Phase, Rejected, StatusReport
from support.contract import ADA, BROKEN, DONE, GOING_ON, KINDS, ThreadedVisit, Visit, visiting
from support.samples import PARTIAL


@pytest.fixture(params=KINDS)
def visit(request: pytest.FixtureRequest) -> Iterator[Visit]:
    """A visit to each kind of host in turn, whose refresh has just begun."""
    with visiting(request.param) as opened:
        opened.begin()
        yield opened


HEADERS = [
    (None, None),
    ("", None),
    ("wait", None),
    ("wait=", None),
    ('wait=""', None),
    ("wait=10", 10),
    ("wait=0", 0),
    ("Wait = 10", 10),
    ('wait="10"', 10),
    ("wait=10; x=y", 10),
    ("respond-async, wait=10", 10),
    ("respond-async; a=b,wait=10 , return=minimal", 10),
    ("wait=10, wait=20", 10),
    ("wait=soon, wait=20", None),
    ("wait=-1", None),
    ("wait=1.5", None),
    ("wait=1e3", None),
    ("wait=+1", None),
    ("wait=٣", None),
    ("await=10", None),
    ("wait-for=10", None),
    ('note="a, wait=5"', None),
    (r'note="a\", wait=5", wait=6', 6),
    (", , wait=3", 3),
    ("wait=10 20", None),
    ("wait=999999999999999999999", 10**9),
    ("wait=" + "9" * 900, 10**9),
    ("x" * 10_000 + ", wait=5", None),
]


@pytest.mark.parametrize(("header", "expected"), HEADERS, ids=[str(header)[:30] for header, _ in HEADERS])
def test_the_header_is_read_as_the_rfc_has_it(header: str | None, expected: int | None) -> None:
    """Tokens in any case, quoted strings, parameters, lists; the first `wait` counts; what is malformed is ignored."""
    assert expected == wait_of(header)


def test_without_the_header_nobody_waits(visit: Visit) -> None:
    """202 at once; that the answer depends on Prefer is said."""
    answered = visit.get()
    assert (202, "Prefer", []) == (answered.status, answered.headers["Vary"], visit.slept)
    assert "Preference-Applied" not in answered.headers


@pytest.mark.parametrize(
    "report", [DONE, BROKEN, StatusReport(Phase.COMPLETE, PARTIAL)], ids=["well", "badly", "partly"]
)
def test_the_end_is_answered_at_once(visit: Visit, report: StatusReport) -> None:
    """200 within one look of the end of the refresh, long before the wait is over."""
    visit.upstream.story.append((6, report))
    answered = visit.get(prefer="wait=25")
    assert (200, "wait=25", "Prefer") == (
        answered.status,
        answered.headers["Preference-Applied"],
        answered.headers["Vary"],
    )
    assert 6 <= visit.seconds < 6 + visit.policy.poll_interval_after(6000) / 1000 + 1


def test_progress_alone_does_not_end_the_wait(visit: Visit) -> None:
    """One request sees the refresh through: a new extract is no reason to answer who knows no status."""
    visit.upstream.story += [(2, GOING_ON), (4, DONE)]
    assert 200 == visit.get(prefer="wait=25").status


def test_who_knows_the_status_waits_for_anything_new(visit: Visit) -> None:
    """With If-None-Match the first change is answered: progress with 202, then the end with 200."""
    tag = visit.get().headers["ETag"]
    visit.upstream.tells = StatusReport(Phase.IN_PROGRESS)
    visit.upstream.story += [(3, GOING_ON), (6, DONE)]
    progress = visit.get(prefer="wait=25", if_none_match=tag)
    assert (202, "1 of 2 extracts ended") == (progress.status, progress.headers["X-Progress"])
    assert 3 <= visit.seconds < 6
    end = visit.get(prefer="wait=25", if_none_match=progress.headers["ETag"])
    assert (200, 3) == (end.status, len({tag, progress.headers["ETag"], end.headers["ETag"]}))


def test_who_knows_an_older_status_is_answered_at_once(visit: Visit) -> None:
    """A client that is behind does not wait to catch up."""
    assert (202, []) == (visit.get(prefer="wait=25", if_none_match='"older"').status, visit.slept)


def test_who_knows_anything_waits_for_the_end(visit: Visit) -> None:
    """If-None-Match: * names no status, so there is none that could differ."""
    visit.upstream.story.append((3, DONE))
    assert (304, True) == (visit.get(prefer="wait=25", if_none_match="*").status, visit.seconds >= 3)


@pytest.mark.parametrize(("asked", "waited"), [(3, 3), (30, 30), (31, 30), (10**12, 30)])
def test_the_wait_is_capped(visit: Visit, asked: int, waited: int) -> None:
    """202 after N seconds, or after the longest wait; what was applied is said."""
    answered = visit.get(prefer=f"wait={asked}")
    assert (202, f"wait={waited}") == (answered.status, answered.headers["Preference-Applied"])
    assert waited == pytest.approx(visit.seconds)
    assert max(visit.slept) <= 1


def test_the_cap_is_a_setting(visit: Visit) -> None:
    """The host says how long a request may be held; whole seconds of it count."""
    visit.serve(longest_wait=timedelta(seconds=4.5))
    assert "wait=4" == visit.get(prefer="wait=25").headers["Preference-Applied"]
    assert 4 == pytest.approx(visit.seconds)


def test_a_wait_of_nothing_is_applied(visit: Visit) -> None:
    """wait=0 is honoured by answering at once, without taking a place."""
    visit.serve(places=0)
    answered = visit.get(prefer="wait=0")
    assert (202, "wait=0", []) == (answered.status, answered.headers["Preference-Applied"], visit.slept)


def test_what_has_settled_is_not_waited_for(visit: Visit) -> None:
    """200 at once; the preference was honoured."""
    visit.upstream.tells = DONE
    visit.clock.tick(1)
    answered = visit.get(prefer="wait=25")
    assert (200, "wait=25", []) == (answered.status, answered.headers["Preference-Applied"], visit.slept)


def test_without_a_place_the_answer_comes_at_once(visit: Visit) -> None:
    """202 with Retry-After and without Preference-Applied where too many wait already."""
    visit.serve(places=0)
    answered = visit.get(prefer="wait=25")
    assert (202, 1, []) == (answered.status, answered.retry_after, visit.slept)
    assert ("Prefer", False) == (answered.headers["Vary"], "Preference-Applied" in answered.headers)


def test_a_place_is_given_back(visit: Visit) -> None:
    """One after the other may wait in the same place."""
    visit.serve(places=1)
    assert ["wait=1"] * 3 == [visit.get(prefer="wait=1").headers["Preference-Applied"] for _ in range(3)]


def test_many_waits_do_not_hurry_the_upstream(visit: Visit) -> None:
    """However long it is waited, the upstream is asked once per poll interval at most (rule R6)."""
    for _ in range(4):
        visit.get(prefer="wait=15")
    intervals, at = 0, 0.0
    while at < visit.seconds:
        at += visit.policy.poll_interval_after(round(at * 1000)) / 1000
        intervals += 1
    assert 10 < visit.upstream.polls <= intervals


def test_an_upstream_that_fails_is_no_news(visit: Visit) -> None:
    """A status call that fails does not end the wait, nor the refresh."""
    visit.upstream.tells = CouldNotAsk("http_502")
    visit.upstream.story.append((5, DONE))
    assert (200, True) == (visit.get(prefer="wait=25").status, visit.seconds >= 5)


def test_a_refresh_that_times_out_ends_the_wait(visit: Visit) -> None:
    """The deadline is news, too."""
    visit.clock.tick(visit.policy.refresh_deadline - timedelta(seconds=5))
    answered = visit.get(prefer="wait=25")
    assert (200, "timed_out") == (answered.status, answered.json["failure"]["code"])
    assert len(visit.slept) <= 7


# Right after a login, whose work a worker has yet to take up.


@pytest.fixture(params=KINDS)
def early_visit(request: pytest.FixtureRequest) -> Iterator[Visit]:
    """A visit to each kind of host in turn, where nothing has begun."""
    with visiting(request.param) as opened:
        yield opened


def begin_before_look(visit: Visit, nth: int) -> None:
    """A worker begins the refresh right before somebody looks at the patient for the nth time."""
    status, looks = visit.phr.status, count(1)

    def look(who: object) -> object:
        if next(looks) == nth:
            visit.phr.refresh(ADA)
        return status(who)

    async def look_asynchronously(who: object) -> object:
        if next(looks) == nth:
            await visit.phr.refresh(ADA)
        return await status(who)

    visit.phr.status = look if isinstance(visit, ThreadedVisit) else look_asynchronously


def test_who_waits_right_after_a_login_hears_what_it_has_begun(early_visit: Visit) -> None:
    """The refresh shows a second later: the request waits for its end as if it had shown at once."""
    begin_before_look(early_visit, 2)
    early_visit.upstream.story.append((5, DONE))
    answered = early_visit.get(prefer="wait=20")
    assert (200, "complete", "wait=20") == (
        answered.status,
        answered.json["state"],
        answered.headers["Preference-Applied"],
    )
    assert 5 <= early_visit.seconds < 7


def test_who_knows_that_nothing_has_begun_hears_once_it_has(early_visit: Visit) -> None:
    """With If-None-Match the beginning is the news."""
    etag = early_visit.get().headers["ETag"]
    begin_before_look(early_visit, 2)
    answered = early_visit.get(prefer="wait=20", if_none_match=etag)
    assert (202, "refreshing", 1) == (answered.status, answered.json["state"], early_visit.seconds)


def test_what_has_not_begun_is_not_waited_for_long(early_visit: Visit) -> None:
    """No login may be on its way at all."""
    early_visit.serve(settling=timedelta(seconds=3))
    answered = early_visit.get(prefer="wait=20")
    assert (200, "no_session", 3) == (answered.status, answered.json["state"], early_visit.seconds)


def test_what_cannot_begin_is_not_waited_for(early_visit: Visit) -> None:
    """The window of a refresh that failed is closed: no login begins another."""
    early_visit.upstream.kick_off_answers.append(Rejected("http_401"))
    early_visit.begin()
    answered = early_visit.get(prefer="wait=20")
    assert (200, "stale", 0) == (answered.status, answered.json["state"], early_visit.seconds)
