"""`Retry-After`, whatever an upstream writes there: adapters/status_polling/retry_after.py."""

from datetime import UTC, datetime, timedelta, timezone

from hypothesis import example, given
from hypothesis import strategies as st
from phr_refresh.adapters.status_polling.retry_after import LONGEST_SECONDS, retry_after_seconds
from support.reference_settings import examples

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
# A year of two digits says 2000 to 2068 here; RFC 9110, section 5.6.7, would have the last of 50 years decide.
FIRST, LAST = datetime(2001, 1, 1, tzinfo=UTC), datetime(2067, 12, 31, tzinfo=UTC)
MOMENTS = st.integers(0, (LAST - FIRST) // timedelta(milliseconds=1)).map(lambda ms: FIRST + timedelta(milliseconds=ms))
ZONES = st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
NEAR = st.sampled_from([0, 1, 3599, 3600, 3601, -1]) | st.integers(-4_000, 8_000)
DATE_WORDS = (
    "Mon,",
    "Tue",
    "Wednesday,",
    "Jan",
    "Feb",
    "Dec",
    "GMT",
    "UTC",
    "+0000",
    "-0000",
    "2030",
    "30",
    "06-Nov-30",
)
ODD_WORDS = (
    "+9999",
    "-99999999",
    "99999999999999",
    "00:00:00",
    "24:00:00",
    "23:59:60",
    "1:2",
    "::",
    "(",
    "\u0661",
    "1e9",
)
WORDS = st.sampled_from(DATE_WORDS + ODD_WORDS)
DATE_LIKE = st.lists(WORDS | st.text("0123456789:-+, ()GMT", max_size=4), max_size=9).map(" ".join)


def fixdate(moment: datetime) -> str:
    """Sun, 06 Nov 1994 08:49:37 GMT"""
    day, month = DAYS[moment.weekday()][:3], MONTHS[moment.month - 1]
    return f"{day}, {moment.day:02} {month} {moment.year:04} {moment:%H:%M:%S} GMT"


def rfc850(moment: datetime) -> str:
    """Sunday, 06-Nov-94 08:49:37 GMT"""
    day, month = DAYS[moment.weekday()], MONTHS[moment.month - 1]
    return f"{day}, {moment.day:02}-{month}-{moment.year % 100:02} {moment:%H:%M:%S} GMT"


def asctime(moment: datetime) -> str:
    """Sun Nov  6 08:49:37 1994"""
    day, month = DAYS[moment.weekday()][:3], MONTHS[moment.month - 1]
    return f"{day} {month} {moment.day:2} {moment:%H:%M:%S} {moment.year:04}"


@given(st.none() | st.text() | DATE_LIKE, MOMENTS)
@example("Mon, 01 Jan 99999999999999 00:00:00 GMT", datetime(2030, 1, 1, tzinfo=UTC))
@example("9" * 5000, datetime(2030, 1, 1, tzinfo=UTC))
@examples(200)
def test_no_text_makes_it_raise(header: str | None, now: datetime) -> None:
    """Any text asks for nothing, or for 0 to 3600 seconds."""
    seconds = retry_after_seconds(header, now=now)
    assert seconds is None or 0 <= seconds <= LONGEST_SECONDS


@given(st.integers(0, 10**12), st.integers(0, 5), st.sampled_from(["", " ", "\t "]), MOMENTS)
@example(3600, 0, "", datetime(2030, 1, 1, tzinfo=UTC))
@examples(50)
def test_seconds_are_exact(seconds: int, zeros: int, blanks: str, now: datetime) -> None:
    """A number of seconds is that number, up to an hour, with blanks around it and zeros before it."""
    header = f"{blanks}{'0' * zeros}{seconds}{blanks}"
    assert min(seconds, 3600) == retry_after_seconds(header, now=now)


@given(MOMENTS, NEAR, ZONES, st.sampled_from([fixdate, rfc850, asctime]))
@examples(100)
def test_a_date_is_judged_by_now(now: datetime, seconds: int, zone: timezone, form: object) -> None:
    """Each form of an HTTP-date asks for the time from now until then, in whatever zone now is told."""
    assert callable(form)
    until = (now + timedelta(seconds=seconds)).replace(microsecond=0)
    expected = min(max((until - now) / timedelta(seconds=1), 0), 3600)
    assert expected == retry_after_seconds(form(until), now=now.astimezone(zone))


@given(MOMENTS, MOMENTS)
@examples(40)
def test_the_three_forms_say_the_same(now: datetime, until: datetime) -> None:
    """A date means the same in the three forms of RFC 9110, section 5.6.7, however far away it is."""
    assert 1 == len({retry_after_seconds(form(until), now=now) for form in (fixdate, rfc850, asctime)})
