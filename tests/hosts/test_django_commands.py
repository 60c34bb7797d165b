"""`manage.py phr_explain` and `phr_sweep`: what they print, and their exit codes."""

import json
import socket
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

pytest.importorskip("django")

from freezegun import freeze_time
from phr_refresh import PhrRefresh, State, open_store
from phr_refresh.adapters.workers.inline import InlineWorker
from support.fakes import ScriptedUpstream
from support.manage import Manage
from support.samples import ADA, CORRELATION_ID, ICN, UNHURRIED


@pytest.fixture
def store_url(tmp_path: Path) -> str:
    """The store of the portal."""
    return f"sqlite:///{tmp_path / 'store.db'}"


@pytest.fixture
def manage(store_url: str) -> Manage:
    """`manage.py` of a portal whose settings are right."""
    return Manage(store_url)


def refreshed(store_url: str) -> None:
    """Have ADA's records refreshed, and follow that to no end."""
    with closing(
        PhrRefresh(store=open_store(store_url), upstream=ScriptedUpstream(), worker=InlineWorker(), policy=UNHURRIED)
    ) as phr:
        assert "started" == phr.refresh(ADA).kind


def test_explain_says_why(manage: Manage, store_url: str) -> None:
    """State, reason and events as text; the same as one JSON object; and no identifier."""
    refreshed(store_url)
    code, text, _ = manage("phr_explain", "ada")
    assert (0, State.REFRESHING.label) == (code, text.splitlines()[0])
    assert "Events now:" in text
    code, printed, _ = manage("phr_explain", "ada", "--json")
    explanation = json.loads(printed)
    assert (0, "refreshing") == (code, explanation["state"])
    assert explanation["status"]["refresh_id"]
    assert [] == [value for value in (ICN, CORRELATION_ID) if value in text + printed]


def test_explain_of_somebody_never_seen(manage: Manage) -> None:
    """There is no session, and that is an answer."""
    code, text, _ = manage("phr_explain", "nobody")
    assert (0, State.NO_SESSION.label) == (code, text.splitlines()[0])


def test_sweep_moves_what_is_due(manage: Manage, store_url: str) -> None:
    """A refresh whose deadline has passed is swept up, once."""
    with freeze_time(datetime.now(UTC) - timedelta(minutes=10)):
        refreshed(store_url)
    code, printed, _ = manage("phr_sweep", "--json", "--limit", "10")
    expected = {"due": 1, "moved": 1, "conflicts": 0, "unreadable": 0, "moves": {"refreshing -> stale": 1}}
    assert (0, expected) == (code, json.loads(printed))
    assert (0, "0 due, 0 moved, 0 moved by others, 0 unreadable\n", "") == manage("phr_sweep")


def test_what_is_wrong_is_one_sentence_and_an_exit_code(manage: Manage) -> None:
    """1: the store is down. 2: the settings are wrong, or the command was not called rightly."""
    with closing(socket.socket()) as nobody_listens:
        nobody_listens.bind(("127.0.0.1", 0))
        url = f"redis://127.0.0.1:{nobody_listens.getsockname()[1]}"
        code, printed, error = manage("phr_sweep", PHR_REFRESH_STORE=url)
    assert (1, "", 1) == (code, printed, len(error.splitlines()))
    assert "is unavailable" in error
    code, printed, error = manage("phr_explain", "ada", PHR_REFRESH_STORE="store")
    assert (2, "", "CommandError: store URL: it has no scheme; use") == (code, printed, error[:46])
    code, _, error = manage("phr_sweep", "--limit", "0")
    assert (2, "give a whole number from 1 on") == (code, error.strip()[-29:])
    assert 2 == manage("phr_explain")[0]


def test_check_refuses_wrong_settings(manage: Manage) -> None:
    """`manage.py check`, which every deployment runs, fails with the id and the hint."""
    assert 0 == manage("check")[0]
    code, _, error = manage("check", PHR_REFRESH_APP_TOKEN="")
    assert 1 == code
    assert "(phr_refresh.E005) MhvSettings.app_token (PHR_REFRESH_APP_TOKEN): it is not set" in error
    assert "HINT: Set the environment variable PHR_REFRESH_APP_TOKEN." in error
