"""The settings of the upstream and where their secrets come from."""

import logging
import sys
from datetime import timedelta

import boto3
import pytest
from moto import mock_aws
from phr_refresh.adapters.redaction import redact
from phr_refresh.adapters.upstream.settings import DEFAULT_WANTED, MhvSettings
from phr_refresh.statemachine.errors import ConfigurationError, MissingExtra
from support.values import replace

CANARY = "canary-Zx81-do-not-log"
ENVIRON = {
    "PHR_REFRESH_MHV_URL": "https://mhv.example/",
    "PHR_REFRESH_APP_TOKEN": "app-token",
    "PHR_REFRESH_AUTHORIZATION_KEY": "system-key",
}


@pytest.fixture
def settings():
    return MhvSettings.from_env(ENVIRON)


@pytest.fixture
def parameter_store(monkeypatch):
    """A Parameter Store with one encrypted parameter, in memory."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-gov-west-1")
    with mock_aws():
        client = boto3.client("ssm")
        client.put_parameter(Name="/mhv/key", Value=CANARY, Type="SecureString")
        yield client


def refused(**changes):
    with pytest.raises(ConfigurationError) as caught:
        MhvSettings.from_env(ENVIRON | changes)
    return caught.value


def test_three_variables_are_enough(settings):
    """An address and two secrets give settings with the documented defaults."""
    expected = ("https://mhv.example", "https://mhv.example", "", "103", "", "extracts", DEFAULT_WANTED)
    assert expected == (
        settings.base_url,
        settings.phrmgr_url,
        settings.fhir_url,
        settings.app_id,
        settings.api_key,
        settings.dialect,
        settings.wanted,
    )


def test_every_variable_is_read(tmp_path):
    """Each variable sets its field."""
    given = {
        "PHRMGR_URL": "http://phr.example/base/",
        "FHIR_URL": "https://fhir.example/fhir",
        "APP_ID": "104",
        "API_KEY": "gateway-key",
        "LEGACY_PATHS": "True",
        "DIALECT": "http-code",
        "EXTRACTS": "VPR, Allergy,",
        "CONNECT_TIMEOUT_SECONDS": "1.5",
        "READ_TIMEOUT_SECONDS": "7",
        "IDLE_LIMIT_SECONDS": "0",
        "POOL_SIZE": "3",
        "CA_BUNDLE": str(tmp_path),
        "USER_AGENT": "portal/1",
    }
    settings = MhvSettings.from_env(ENVIRON | {f"PHR_REFRESH_{name}": value for name, value in given.items()})
    expected = MhvSettings(
        base_url="https://mhv.example",
        phrmgr_url="http://phr.example/base",
        fhir_url="https://fhir.example/fhir",
        app_id="104",
        app_token="app-token",
        authorization_key="system-key",
        api_key="gateway-key",
        legacy_paths=True,
        dialect="http-code",
        wanted=("VPR", "Allergy"),
        connect_timeout=timedelta(seconds=1.5),
        read_timeout=timedelta(seconds=7),
        idle_limit=timedelta(0),
        pool_size=3,
        verify=str(tmp_path),
        user_agent="portal/1",
    )
    assert expected == settings


@pytest.mark.parametrize("name", ENVIRON)
@pytest.mark.parametrize("value", ["", "  ", None])
def test_what_is_missing_is_named(name, value):
    """Without a required variable, the error names the field and the variable, and says what to do."""
    environ = {key: text for key, text in (ENVIRON | {name: value}).items() if text is not None}
    with pytest.raises(ConfigurationError) as caught:
        MhvSettings.from_env(environ)
    assert str(caught.value).endswith(f"({name}): it is not set; set the environment variable {name}.")


WRONG_URLS = {
    "ftp://mhv.example": "its scheme is neither http nor https",
    "mhv.example": "its scheme is neither http nor https",
    "https://": "it names no host, or port 0",
    "https://mhv.example:0": "it names no host, or port 0",
    "https://mhv.example:99999": "it is not a URL",
    "https://[::1": "it is not a URL",
    f"https://user:{CANARY}@mhv.example": "it holds credentials",
    f"https://mhv.example/?key={CANARY}": "it holds a query or a fragment",
    "https://mhv.example#x": "it holds a query or a fragment",
    "https://mhv.ex ample": "it holds characters that no URL has",
    "https://mhv.exämple": "it holds characters that no URL has",
}


@pytest.mark.parametrize("name", ["MHV_URL", "PHRMGR_URL", "FHIR_URL"])
@pytest.mark.parametrize(("url", "problem"), WRONG_URLS.items(), ids=WRONG_URLS)
def test_a_wrong_address_is_refused_without_being_shown(name, url, problem):
    """Each kind of wrong address has its own sentence, which does not hold the address."""
    error = refused(**{f"PHR_REFRESH_{name}": url})
    assert problem == error.problem
    assert CANARY not in str(error)


WRONG_VALUES = {
    "DIALECT": ("soap", "it is unknown"),
    "EXTRACTS": (",", "it names no extract"),
    "LEGACY_PATHS": ("maybe", "it is neither true nor false"),
    "CONNECT_TIMEOUT_SECONDS": ("0", "it is no duration, too short or longer than a day"),
    "READ_TIMEOUT_SECONDS": ("soon", "it is not a number of seconds"),
    "POOL_SIZE": ("0", "it is not a positive whole number"),
    "CA_BUNDLE": ("false", "it is not the path of a CA bundle"),
    "API_KEY": (f"{CANARY}\nX-Evil: 1", "it holds characters that no HTTP header can carry"),
}


@pytest.mark.parametrize(
    ("name", "value", "problem"), [(n, *rest) for n, rest in WRONG_VALUES.items()], ids=WRONG_VALUES
)
def test_a_wrong_value_is_refused(name, value, problem):
    """Each wrong value has one clear sentence that names its setting and does not show it."""
    error = refused(**{f"PHR_REFRESH_{name}": value})
    assert (problem, True, False) == (error.problem, f"PHR_REFRESH_{name}" in error.setting, CANARY in str(error))


@pytest.mark.parametrize("seconds", ["nan", "inf", "-1", "1e300", "90000"])
def test_a_time_out_is_a_positive_number_of_seconds(seconds):
    """No call goes without a time-out."""
    assert isinstance(refused(PHR_REFRESH_READ_TIMEOUT_SECONDS=seconds), ConfigurationError)


@pytest.mark.parametrize(
    "changes", [{"verify": False}, {"verify": ""}, {"pool_size": True}, {"wanted": "VPR"}], ids=repr
)
def test_a_program_cannot_set_it_wrong_either(settings, changes):
    """What types forbid is refused at run time too: above all, TLS cannot be left unverified."""
    with pytest.raises(ConfigurationError):
        replace(settings, **changes)


def test_an_extract_named_twice_is_refused():
    """Wanting an extract twice is a slip of the pen."""
    assert "it names an extract twice" == refused(PHR_REFRESH_EXTRACTS="VPR,VPR").problem


def test_repr_shows_no_secret():
    """Settings in a log line show neither token nor keys."""
    settings = MhvSettings(base_url="http://h", app_token="sec-1", authorization_key="sec-2", api_key="sec-3")
    assert "sec-" not in repr(settings)
    assert ("sec-1", "sec-2", "sec-3") == settings.secrets()


def test_a_secret_may_lie_in_a_file(tmp_path):
    """`file:` reads the secret without the newline at its end."""
    (tmp_path / "key").write_text("from-file\r\n")
    settings = MhvSettings.from_env(ENVIRON | {"PHR_REFRESH_APP_TOKEN": f"file:{tmp_path}/key"})
    assert "from-file" == settings.app_token


def test_an_unreadable_file_is_named_by_its_setting(tmp_path):
    """A file that is not there is an error of its setting."""
    error = refused(PHR_REFRESH_APP_TOKEN=f"file:{tmp_path}/missing")
    assert (
        "MhvSettings.app_token (PHR_REFRESH_APP_TOKEN): its file cannot be read (FileNotFoundError); "
        "check the path and who may read it." == str(error)
    )


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff" + CANARY.encode()], ids=["empty", "newline", "no text"])
def test_a_file_without_a_secret_is_refused_and_not_shown(tmp_path, content):
    """An empty or binary file is refused, and no error in the chain holds what was in it."""
    (tmp_path / "key").write_bytes(content)
    error = refused(PHR_REFRESH_APP_TOKEN=f"file:{tmp_path}/key")
    assert CANARY not in "".join(repr(link) for link in (error, error.__cause__, error.__context__))


def test_a_secret_may_lie_in_the_parameter_store(parameter_store):
    """`ssm:` reads the parameter decrypted."""
    settings = MhvSettings.from_env(ENVIRON | {"PHR_REFRESH_AUTHORIZATION_KEY": "ssm:/mhv/key"})
    assert CANARY == settings.authorization_key


def test_reading_a_parameter_logs_no_secret(parameter_store, caplog):
    """With every logger at DEBUG, no record holds the value; botocore logs on once it was read."""
    loggers = [logging.getLogger(name) for name in ["", *logging.getLogger().manager.loggerDict]]
    for logger in loggers:
        caplog.set_level(logging.DEBUG, logger=logger.name if logger.name != "root" else None)
    MhvSettings.from_env(ENVIRON | {"PHR_REFRESH_AUTHORIZATION_KEY": "ssm:/mhv/key"})
    assert [] == [record for record in caplog.records if CANARY in repr(vars(record)) + record.getMessage()]
    parameter_store.get_parameter(Name="/mhv/key", WithDecryption=True)
    assert CANARY in caplog.text


def test_an_unknown_parameter_is_an_error_of_its_setting(parameter_store):
    """A parameter that does not exist is told by the store's own code."""
    error = refused(PHR_REFRESH_API_KEY="ssm:/mhv/none")
    assert (
        "MhvSettings.api_key (PHR_REFRESH_API_KEY): the AWS Parameter Store refused it (ParameterNotFound); "
        "check the parameter's name and the IAM rights." == str(error)
    )


def test_a_store_that_cannot_be_asked_is_an_error_of_its_setting(monkeypatch, tmp_path):
    """Without a region, the error says what to check."""
    for name in ("AWS_DEFAULT_REGION", "AWS_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    assert (
        "the AWS Parameter Store cannot be asked (NoRegionError)" == refused(PHR_REFRESH_API_KEY="ssm:/mhv/key").problem
    )


def test_without_boto3_the_extra_is_named(monkeypatch):
    """Where `boto3` is not installed, the error says what to install."""
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(MissingExtra) as caught:
        MhvSettings.from_env(ENVIRON | {"PHR_REFRESH_API_KEY": "ssm:/mhv/key"})
    assert str(caught.value).endswith("run: pip install 'phr-refresh[aws]'.")


def test_settings_import_no_http_library():
    """Reading settings costs no import of requests or boto3."""
    import subprocess

    found = "sorted({'requests', 'boto3', 'jwt'} & set(sys.modules))"
    program = f"import sys, phr_refresh.adapters.upstream.settings; print({found})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "[]" == done.stdout.strip()


def test_the_secrets_of_settings_can_be_redacted(settings):
    """What `secrets` gives is what `redact` takes."""
    assert "a <withheld>" == redact("a system-key", settings.secrets())
