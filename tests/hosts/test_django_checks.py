"""`manage.py check`: what is wrong with the settings is said before traffic says it, each with its id and a hint."""

import os
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from phr_refresh.statemachine.effects import Load

pytest.importorskip("django")

from django.conf import settings
from django.core.checks import CheckMessage, run_checks
from django.test import modify_settings, override_settings
from phr_refresh import open_store
from phr_refresh.django.checks import TAG
from support import django_project  # noqa: F401 - the project that is checked
from support.fakes import ScriptedUpstream

SECRET = "canary-app-token"


def nobody(user: object) -> None:
    """Nobody is a patient."""


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing comes from the environment of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith("PHR_REFRESH_")]:
        monkeypatch.delenv(name)


def found(block: Any, *, deploy: bool = False) -> list[CheckMessage]:
    """What `manage.py check --tag phr_refresh` finds with this setting."""
    with override_settings(PHR_REFRESH=block):
        return run_checks(tags=[TAG], include_deployment_checks=deploy)


def ids(messages: list[CheckMessage]) -> list[str]:
    """The ids of messages, without what all have in common."""
    return sorted(message.id.removeprefix(f"{TAG}.") for message in messages)


def right(**changes: object) -> dict[str, object]:
    """A settings block that is right, with `changes`."""
    return {"patient_of": nobody, "store": "memory://", "upstream": ScriptedUpstream()} | changes


def test_right_settings_pass() -> None:
    """There is nothing to say."""
    assert [] == found(right())


HALF = {"base_url": "https://mhv.example", "authorization_key": "key"}
WRONG = {
    "no mapping": ("memory://", "E001", "PHR_REFRESH: it is no mapping", "Write PHR_REFRESH = {"),
    "no settings": (None, "E001", "PHR_REFRESH: it is not set", "Write PHR_REFRESH = {"),
    "unknown key": (right(stroe="memory://"), "E002", "PHR_REFRESH['stroe']: it is unknown", "Use patient_of, store,"),
    "no module": (right(patient_of="nowhere.to_be"), "E003", "it cannot be imported (nowhere)", "Check the dotted"),
    "no function": (right(patient_of="json.nothing"), "E003", "nothing that can be called", "Give a callable, or"),
    "no scheme": (right(store="memory"), "E004", "store URL: it has no scheme", "Use memory://, sqlite:///<file>"),
    "no folder": (right(store="sqlite:////no/folder/s.db"), "E004", "directory of its file does not", "Create it."),
    "no secret": (right(upstream=HALF), "E005", "it has no app_token", "Give it"),
    "no environment": (right(upstream=None), "E005", "MhvSettings.base_url", "PHR_REFRESH_MHV_URL"),
    "unreadable": (right(upstream=HALF | {"app_token": "file:/no/file"}), "E005", "cannot be read", "Check the path"),
    "no upstream": (right(upstream=7), "E006", "AttributeError", "See phr_refresh.embedding"),
    "no duration": (right(policy={"login_budget": "long"}), "E006", "login_budget", "Give a timedelta, or seconds."),
    "short claim": (right(policy={"session_claim": 1}), "E006", "Policy.session_claim", "Make it longer"),
    "no seal": (right(seal_keys="no key"), "E007", "", "Give keys made by"),
    "no wait": (right(longest_wait="long"), "E008", "longest_wait", "Give a timedelta, or seconds."),
    "no places": (right(places=-1), "E008", "places", "Give 0 or more."),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_setting_is_one_error(case: str) -> None:
    """Its id says which setting, its text what is wrong, its hint what to do."""
    block, number, message, hint = WRONG[case]
    errors = found(block)
    assert [number] == ids(errors)
    assert (message in errors[0].msg, hint in errors[0].hint) == (True, True), (errors[0].msg, errors[0].hint)


def test_all_wrong_settings_are_told_at_once() -> None:
    """Nobody has to run the check once for each."""
    block = {"patient_of": None, "store": "x", "policy": 1, "places": "many", "colour": "red", "upstream": HALF}
    assert ["E002", "E003", "E004", "E005", "E006", "E008"] == ids(found(block))


def test_a_setting_that_is_not_there_at_all_is_told() -> None:
    """The app without its settings block."""
    assert not hasattr(settings, "PHR_REFRESH")
    assert ["E001"] == ids(run_checks(tags=[TAG]))


def test_settings_may_lie_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the block leaves out is looked for there, and what is wrong there is told."""
    monkeypatch.setenv("PHR_REFRESH_STORE", "memory://")
    monkeypatch.setenv("PHR_REFRESH_MHV_URL", "https://mhv.example")
    monkeypatch.setenv("PHR_REFRESH_AUTHORIZATION_KEY", "key")
    assert ["E005"] == ids(found({"patient_of": nobody}))
    monkeypatch.setenv("PHR_REFRESH_APP_TOKEN", SECRET)
    assert [] == found({"patient_of": nobody})
    monkeypatch.setenv("PHR_REFRESH_SEAL_KEYS", "no key")
    monkeypatch.setenv("PHR_REFRESH_STORE", "store")
    assert ["E004", "E007"] == ids(found({"patient_of": nobody}))


def test_a_portal_without_logins_is_told() -> None:
    """Without Django's authentication there is nothing to hang in."""
    with modify_settings(INSTALLED_APPS={"remove": ["django.contrib.auth"]}):
        assert ["E009"] == ids(found(right()))


def test_no_message_shows_a_secret(tmp_path: Path) -> None:
    """Values stay where they are."""
    upstream = HALF | {"app_token": f"{SECRET}\n", "base_url": f"https://{SECRET}@mhv.example"}
    block = right(upstream=upstream, seal_keys=SECRET, store=f"redis://:{SECRET}@host:port")
    shown = "\n".join(f"{message.msg} {message.hint}" for message in found(block, deploy=True))
    assert ["E004", "E005", "E007"] == ids(found(block, deploy=True))
    assert SECRET not in shown


@pytest.fixture
def dead_store() -> Iterator[str]:
    """A store that nobody serves."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        yield f"redis://127.0.0.1:{probe.getsockname()[1]}"


def test_the_store_is_reached_for_on_deployment_alone(dead_store: str) -> None:
    """A store that is down is no reason not to run `migrate`; with --deploy it is a warning."""
    assert [] == found(right(store=dead_store))
    warnings = found(right(store=dead_store), deploy=True)
    assert ["W001", "W003"] == ids(warnings)
    assert any("is unavailable" in warning.msg and "Check that it runs" in warning.hint for warning in warnings)


def test_a_store_that_works_is_not_warned_of(shared_server, tmp_path: Path) -> None:
    """Nor is a file that the service will create; the check leaves that to it."""
    assert ["W003"] == ids(found(right(store=shared_server("valkey").url), deploy=True))
    file = tmp_path / "store.db"
    assert ["W003"] == ids(found(right(store=f"sqlite:///{file}"), deploy=True))
    assert not file.exists()
    with closing(open_store(f"sqlite:///{file}")) as store:
        store.call(Load("key"))
    assert ["W003"] == ids(found(right(store=f"sqlite:///{file}"), deploy=True))


def test_a_file_that_is_no_store_is_warned_of(tmp_path: Path) -> None:
    """Another program's database is found out before traffic finds it."""
    with closing(sqlite3.connect(tmp_path / "store.db")) as database:
        database.execute("PRAGMA user_version = 99")
    assert "W001" in ids(found(right(store=f"sqlite:///{tmp_path / 'store.db'}"), deploy=True))


def test_what_suits_no_fleet_is_warned_of() -> None:
    """A store for each process, and tokens that are not sealed; sealed ones are right."""
    from cryptography.fernet import Fernet

    assert ["W002", "W003"] == ids(found(right(), deploy=True))
    assert ["W002"] == ids(found(right(seal_keys=Fernet.generate_key().decode()), deploy=True))


def test_the_parameter_store_is_asked_on_deployment_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without AWS rights can run `migrate`; with --deploy a secret that cannot be read is an error."""
    pytest.importorskip("boto3")
    pytest.importorskip("moto")
    from moto import mock_aws

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "synthetic")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-gov-west-1")
    monkeypatch.setenv("PHR_REFRESH_PSEUDONYM_KEY", "ssm:/not/there")
    block = right(upstream=HALF | {"app_token": "ssm:/not/there"}, seal_keys="ssm:/not/there")
    with mock_aws():
        assert [] == found(block)
        assert ["E005", "E007", "E007"] == ids(found(block, deploy=True))
