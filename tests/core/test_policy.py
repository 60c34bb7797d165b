"""Durations and rules: what is accepted, and the intervals and pauses that follow."""

from dataclasses import FrozenInstanceError, asdict, fields
from datetime import timedelta
from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st
from phr_refresh.statemachine.errors import ConfigurationError
from phr_refresh.statemachine.policy import NO_DURATIONS, Policy, as_datetime, milliseconds

DURATIONS = [field.name for field in fields(Policy) if field.name not in NO_DURATIONS]
MINUTES = timedelta(minutes=1)


@pytest.mark.parametrize("name", DURATIONS)
@pytest.mark.parametrize(
    "value", [timedelta(0), timedelta(seconds=-1), timedelta(microseconds=999), -timedelta.resolution]
)
def test_a_duration_below_a_millisecond_is_rejected(name: str, value: timedelta) -> None:
    """Zero, negative, or too short to count: the message names the field and says what to give."""
    with pytest.raises(ConfigurationError) as raised:
        Policy(**{name: value})
    assert f"Policy.{name}: it is not a positive duration; give at least 1 millisecond." == str(raised.value)


@pytest.mark.parametrize("name", DURATIONS)
@pytest.mark.parametrize("value", [60, 1.5, "60", None, True])
def test_a_duration_without_unit_is_rejected(name: str, value: object) -> None:
    """A bare number could be anything."""
    with pytest.raises(ConfigurationError) as raised:
        Policy(**{name: value})
    assert f"Policy.{name}: it is not a timedelta; give a datetime.timedelta." == str(raised.value)


def test_a_deadline_longer_than_the_window_is_rejected() -> None:
    """A refresh cannot run on into the next window."""
    with pytest.raises(ConfigurationError) as raised:
        Policy(refresh_window=MINUTES, refresh_deadline=MINUTES + timedelta(milliseconds=1))
    assert "Policy.refresh_deadline: it is longer than refresh_window; give a shorter one." == str(raised.value)
    assert MINUTES == Policy(refresh_window=MINUTES, refresh_deadline=MINUTES).refresh_deadline


@pytest.mark.parametrize(("name", "value"), [("poll_growth", -0.1), ("retry_limit", -1), ("poll_growth", -inf)])
def test_a_negative_number_is_rejected(name: str, value: float) -> None:
    """Growth and limit are 0 or more."""
    with pytest.raises(ConfigurationError) as raised:
        Policy(**{name: value})
    assert f"Policy.{name}: it is negative; give 0 or more." == str(raised.value)


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        *(("poll_growth", value, "it is not a number of the right kind") for value in ("0.1", None, True)),
        *(("retry_jitter", value, "it is not a number of the right kind") for value in ("0.1", None, True)),
        *(("retry_limit", value, "it is not a number of the right kind") for value in (None, 1.5, True)),
        *(("claim_replicas", value, "it is not a number of the right kind") for value in (None, 1.5, True)),
        *(("poll_growth", value, "it is not a finite number") for value in (nan, inf, 1_000_000)),
    ],
)
def test_what_is_no_number_is_rejected(name: str, value: object, problem: str) -> None:
    """A number that no arithmetic survives is found when it is set, not in the first poll."""
    with pytest.raises(ConfigurationError) as raised:
        Policy(**{name: value})
    assert f"Policy.{name}: {problem}; give 0 or more." == str(raised.value)


@pytest.mark.parametrize("name", DURATIONS)
def test_a_duration_of_more_than_a_year_is_rejected(name: str) -> None:
    """Somebody took seconds for days; a leap year is the longest."""
    year = timedelta(days=366)
    with pytest.raises(ConfigurationError) as raised:
        Policy(**{name: year + timedelta(milliseconds=1)})
    assert f"Policy.{name}: it is longer than a year; give a shorter one." == str(raised.value)
    assert year == Policy(refresh_window=year, retention=year).refresh_window


def test_a_policy_is_frozen() -> None:
    """All processes go by the same policy for as long as they live."""
    with pytest.raises(FrozenInstanceError):
        Policy().retry_limit = 3  # type: ignore[misc]


DEFAULTS = {
    "refresh_window": timedelta(minutes=60),
    "unanswered_margin": timedelta(seconds=60),
    "refresh_deadline": timedelta(minutes=5),
    "login_budget": timedelta(milliseconds=50),
    "poll_interval": timedelta(seconds=1),
    "poll_growth": 0.05,
    "poll_interval_max": timedelta(seconds=30),
    "poll_schedule": (timedelta(seconds=4.7),),
    "late_poll_interval": timedelta(seconds=30),
    "session_claim": timedelta(seconds=40),
    "session_wait_interval": timedelta(milliseconds=100),
    "session_wait": timedelta(seconds=60),
    "retry_backoff": timedelta(seconds=2),
    "retry_backoff_max": timedelta(minutes=5),
    "retry_jitter": 0.5,
    "retry_limit": 5,
    "claim_replicas": 0,
    "claim_replicas_wait": timedelta(milliseconds=500),
    "decision_age": timedelta(seconds=5),
    "retention": timedelta(hours=24),
}


def test_defaults_do_not_change_unnoticed() -> None:
    """Who sets nothing has chosen these, and a fleet that is updated host by host must agree about them."""
    assert {name: value for name, value in asdict(Policy()).items() if name != "ms"} == DEFAULTS


def test_decisions_may_be_as_short_as_a_tenth_of_a_second() -> None:
    """A store in reach answers in less."""
    shortest = timedelta(milliseconds=100)
    assert shortest == Policy(decision_age=shortest).decision_age
    with pytest.raises(ConfigurationError) as raised:
        Policy(decision_age=shortest - timedelta(microseconds=1))
    expected = "Policy.decision_age: a round trip to the store may take longer; give at least 100 ms."
    assert expected == str(raised.value)


SECOND = timedelta(seconds=1)
#: Without a schedule.
GROWING = Policy(poll_schedule=())


@pytest.mark.parametrize(
    ("running", "interval"),
    [
        (-1, 1000),
        (0, 1000),
        (1, 1000),
        (20, 1001),
        (60_000, 4000),
        (580_000, 30_000),
        (10**12, 30_000),
    ],
)
def test_the_interval_grows_with_the_time_spent(running: int, interval: int) -> None:
    """One second, plus 5 % of the time already spent, up to the cap; never less than the first."""
    assert interval == GROWING.poll_interval_after(running)


def test_an_interval_above_its_cap_stays() -> None:
    """No two polls are closer than `poll_interval`, even where the cap is lower (R6)."""
    policy = Policy(poll_interval=MINUTES, poll_interval_max=timedelta(seconds=1))
    assert [60_000, 60_000] == [policy.poll_interval_after(running) for running in (0, 10**9)]


def test_no_growth_keeps_the_interval() -> None:
    """`poll_growth=0` asks at an even pace."""
    assert 1000 == Policy(poll_growth=0).poll_interval_after(10**9)


@given(st.integers(0, 10**10), st.integers(0, 10**10))
def test_the_interval_never_shrinks(one: int, other: int) -> None:
    """Later polls are never closer than earlier ones."""
    earlier, later = sorted((one, other))
    assert GROWING.poll_interval_after(earlier) <= GROWING.poll_interval_after(later)


SCHEDULED = Policy(poll_schedule=tuple(timedelta(seconds=seconds) for seconds in (4.7, 5.9, 6.5, 60)))


@pytest.mark.parametrize(
    ("running", "interval"),
    [
        (-1, 4700),
        (0, 4700),
        (1000, 3700),
        (3700, 1000),
        (3701, 1000),
        (4699, 1000),
        (4700, 1200),
        (4730, 1170),
        # The call after that comes a whole interval later, not when the schedule says.
        (5900, 1000),
        (6499, 1000),
        (6500, 30_000),
        (59_999, 1000),
    ],
)
def test_a_schedule_says_when(running: int, interval: int) -> None:
    """At its next time, but never sooner than `poll_interval` or later than `poll_interval_max` after the last call."""
    assert interval == SCHEDULED.poll_interval_after(running)


@pytest.mark.parametrize("running", [60_000, 60_001, 200_000])
def test_after_the_schedule_intervals_grow(running: int) -> None:
    """What takes longer than all that is foreseen is asked about as ever."""
    assert GROWING.poll_interval_after(running) == SCHEDULED.poll_interval_after(running)


@pytest.mark.parametrize(
    "times",
    [
        [SECOND],
        (1000,),
        (True, SECOND),
        (timedelta(), SECOND),
        (-SECOND,),
        (2 * SECOND, SECOND),
        (SECOND, SECOND),
        None,
    ],
)
def test_a_schedule_that_is_none_is_rejected(times: object) -> None:
    """Its times are timedeltas, each later than the one before."""
    with pytest.raises(ConfigurationError) as raised:
        Policy(poll_schedule=times)  # type: ignore[arg-type]
    assert (
        "Policy.poll_schedule: it is not a tuple of rising timedeltas above 0; "
        "give the time from the claim until each status call, or ()."
    ) == str(raised.value)


@pytest.mark.parametrize(
    ("failures", "pause"),
    [(1, 2000), (2, 4000), (8, 256_000), (9, 300_000), (10**9, 300_000)],
)
def test_the_pause_doubles_up_to_its_cap(failures: int, pause: int) -> None:
    """2, 4, 8 ... seconds, at most 5 minutes, without overflow."""
    assert pause == Policy().backoff_after(failures)


def test_a_pause_above_its_cap_is_the_cap() -> None:
    """The cap wins over a first pause that is longer."""
    assert 1000 == Policy(retry_backoff=MINUTES, retry_backoff_max=timedelta(seconds=1)).backoff_after(1)


@pytest.mark.parametrize(
    ("duration", "expected"),
    [(timedelta(seconds=1.5), 1500), (timedelta(microseconds=1999), 1), (timedelta(days=1), 86_400_000)],
)
def test_milliseconds_are_whole(duration: timedelta, expected: int) -> None:
    """Rounded down."""
    assert expected == milliseconds(duration)


def test_an_instant_is_aware() -> None:
    """UTC, to the millisecond."""
    assert "2030-01-01T12:00:00.123000+00:00" == as_datetime(1_893_499_200_123).isoformat()
