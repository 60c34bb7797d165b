"""Logs: one event per transition, a pseudonym in place of the patient, and no identifier at any level."""

import logging
from collections.abc import Iterator

import pytest
import structlog
from freezegun import freeze_time
from phr_refresh import PhrRefresh, State
from phr_refresh.adapters.logs import LogObserver
from phr_refresh.adapters.stores.memory import MemoryStore
from phr_refresh.adapters.workers.inline import InlineWorker
from phr_refresh.statemachine.effects import CouldNotAsk, Fact
from phr_refresh.statemachine.patient import Patient
from structlog.testing import capture_logs
from support.fakes import ScriptedUpstream
from support.samples import CORRELATION_ID, ICN, JWT, UNHURRIED

USER_ID = "ada@portal.example"
ADA = Patient(USER_ID, ICN, "9988776655")
KEY = b"a key for tests"
PREFIX = "phr_refresh."


@pytest.fixture(autouse=True)
def _unconfigured() -> Iterator[None]:
    """structlog as it is before a host configures it, before and after each test."""
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


def lifecycle(observer: LogObserver | None = None, upstream: ScriptedUpstream | None = None) -> None:
    """Log in, complete, let the window pass, and log out."""
    worker = InlineWorker()
    with (
        freeze_time("2030-01-01T12:00:00Z") as clock,
        PhrRefresh(
            store=MemoryStore(),
            upstream=upstream or ScriptedUpstream(),
            worker=worker,
            observer=observer or LogObserver(KEY),
            policy=UNHURRIED,
        ) as phr,
    ):
        phr.login(ADA)
        clock.tick(2)
        worker.run_later()
        assert State.COMPLETE is phr.status(ADA).state
        clock.tick(3600)
        phr.status(ADA)
        phr.explain(ADA)
        phr.session(ADA)
        phr.logout(ADA)


def events() -> list[dict[str, object]]:
    """What a lifecycle logs through the host's structlog."""
    with capture_logs() as captured:
        lifecycle()
    return [dict(event) for event in captured if str(event["event"]).startswith(PREFIX)]


def test_each_transition_is_one_event() -> None:
    """In order, with the states on both sides."""
    transitions = [
        (event["event"], event["from_state"], event["to_state"]) for event in events() if "from_state" in event
    ]
    expected = [
        (PREFIX + "session_opened", "no_session", "session_created"),
        (PREFIX + "refresh_claimed", "session_created", "refreshing"),
        (PREFIX + "refresh_accepted", "refreshing", "refreshing"),
        (PREFIX + "refresh_completed", "refreshing", "complete"),
        (PREFIX + "freshness_expired", "complete", "stale"),
    ]
    assert expected == transitions[:5]
    assert (PREFIX + "session_ended") == transitions[-1][0]


def test_an_event_has_pseudonym_refresh_id_and_durations() -> None:
    """What somebody on call asks first: who, which refresh, how long."""
    completed = next(event for event in events() if event["event"] == PREFIX + "refresh_completed")
    assert LogObserver(KEY).pseudonym(ADA.key) == completed["patient"]
    assert (2.0, 2.0) == (completed["refresh_seconds"], completed["seconds_in_state"])
    assert 11 == len(str(completed["refresh_id"]))
    assert "info" == completed["log_level"]


def test_the_events_of_one_refresh_share_its_id() -> None:
    """From claim to end."""
    names = ("refresh_claimed", "refresh_accepted", "refresh_completed")
    ids = [event["refresh_id"] for event in events() if event["event"] in [PREFIX + name for name in names]]
    assert 1 == len(set(ids[:3]))
    assert {ids[0]} != set(ids[3:])


def test_without_a_configured_host_events_go_to_the_standard_logger(caplog: pytest.LogCaptureFixture) -> None:
    """The logger is "phr_refresh", and the message shows the values."""
    with caplog.at_level(logging.INFO, "phr_refresh"):
        lifecycle()
    records = [record for record in caplog.records if record.name == "phr_refresh"]
    completed = next(record for record in records if record.getMessage().startswith(PREFIX + "refresh_completed "))
    assert "from_state=refreshing to_state=complete" in completed.getMessage()
    assert ("refreshing", logging.INFO) == (completed.from_state, completed.levelno)  # type: ignore[attr-defined]


def test_a_level_of_the_hosts_is_respected(caplog: pytest.LogCaptureFixture) -> None:
    """At WARNING, a lifecycle that goes well says nothing."""
    with caplog.at_level(logging.WARNING, "phr_refresh"):
        lifecycle()
    assert [] == [record for record in caplog.records if record.name == "phr_refresh"]


def test_a_configured_hosts_processors_apply() -> None:
    """Where the host has configured structlog, its chain sees every event and the standard logger none."""
    seen: list[str] = []

    def processor(logger: object, method: str, event: dict[str, object]) -> dict[str, object]:
        seen.append(str(event["event"]))
        raise structlog.DropEvent

    structlog.configure(processors=[processor])
    lifecycle()
    assert PREFIX + "refresh_completed" in seen


@pytest.mark.parametrize("wrapper", [structlog.stdlib.BoundLogger, structlog.make_filtering_bound_logger(logging.INFO)])
def test_both_kinds_of_bound_logger_are_served(wrapper: type) -> None:
    """The host may wrap the standard library's loggers or structlog's own."""
    with capture_logs() as captured:
        structlog.configure(wrapper_class=wrapper)
        LogObserver(KEY)(Fact("tried", is_warning=True))
    assert [{"event": PREFIX + "tried", "log_level": "warning"}] == captured


def test_a_pseudonym_is_stable_under_one_key() -> None:
    """Processes that share the key call a patient the same."""
    assert LogObserver(KEY).pseudonym(ADA.key) == LogObserver(KEY).pseudonym(ADA.key)
    assert 12 == len(LogObserver(KEY).pseudonym(ADA.key))


def test_a_pseudonym_differs_under_another_key() -> None:
    """Without the key nobody can tell who is meant; without one, each process draws its own."""
    names = {observer.pseudonym(ADA.key) for observer in (LogObserver(KEY), LogObserver(b"x"), LogObserver())}
    assert 3 == len(names)
    assert LogObserver().pseudonym(ADA.key) != LogObserver().pseudonym(ADA.key)


@pytest.mark.parametrize("key", [b"", b"k" * 1000])
def test_a_key_may_have_any_length(key: bytes) -> None:
    """Longer than a hash takes, or none."""
    assert 12 == len(LogObserver(key).pseudonym(ADA.key))


def test_warnings_are_warnings() -> None:
    """A fact on which somebody may have to act is logged as that."""
    with capture_logs() as captured:
        LogObserver(KEY)(Fact("refresh_failed", ADA.key, "refreshing", "stale", {"reason": "http_503"}, True))
    assert "warning" == captured[0]["log_level"]


def test_details_are_redacted() -> None:
    """A text that slipped into a detail loses what looks like an identifier."""
    with capture_logs() as captured:
        LogObserver(KEY)(Fact("store_failed", details={"error": f"GET /{ICN} Bearer {JWT}", "tries": 3}))
    assert (ICN not in str(captured), JWT not in str(captured), 3) == (True, True, captured[0]["tries"])


def test_nothing_that_is_logged_at_any_level_shows_an_identifier(caplog: pytest.LogCaptureFixture) -> None:
    """All loggers at DEBUG over a whole lifecycle: no user id, ICN, correlation id, token or store key (R7)."""
    upstream = ScriptedUpstream()
    upstream.statuses.append(CouldNotAsk(f"http_500 for {ICN}"))
    with caplog.at_level(logging.DEBUG):
        lifecycle()
        with pytest.raises(AssertionError):
            lifecycle(upstream=upstream)
    shown = caplog.text + "".join(repr(vars(record)) for record in caplog.records)
    assert "refresh_completed" in shown
    for secret in (USER_ID, ICN, "9988776655", JWT, "subject-1", ADA.key):
        assert secret not in shown


def test_no_event_shows_the_store_key() -> None:
    """The raw key is the same everywhere; the log has the keyed hash alone."""
    shown = repr(events())
    for secret in (ADA.key, USER_ID, ICN, JWT, CORRELATION_ID + " "):
        assert secret not in shown
