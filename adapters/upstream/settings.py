"""The settings of the upstream, from the program or from environment variables."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from ...statemachine.errors import ConfigurationError
from ..session_creation.secret_values import read_secret

StatusDialect = Literal["extracts", "http-code"]

#: The extracts that the portal's records pages show.
DEFAULT_WANTED = ("Allergy", "ImagingStudy", "VPR", "ChemistryHematology")

# field of MhvSettings -> environment variable
_VARIABLES = {
    "base_url": "PHR_REFRESH_MHV_URL",
    "phrmgr_url": "PHR_REFRESH_PHRMGR_URL",
    "fhir_url": "PHR_REFRESH_FHIR_URL",
    "app_id": "PHR_REFRESH_APP_ID",
    "app_token": "PHR_REFRESH_APP_TOKEN",
    "authorization_key": "PHR_REFRESH_AUTHORIZATION_KEY",
    "api_key": "PHR_REFRESH_API_KEY",
    "legacy_paths": "PHR_REFRESH_LEGACY_PATHS",
    "dialect": "PHR_REFRESH_DIALECT",
    "wanted": "PHR_REFRESH_EXTRACTS",
    "connect_timeout": "PHR_REFRESH_CONNECT_TIMEOUT_SECONDS",
    "read_timeout": "PHR_REFRESH_READ_TIMEOUT_SECONDS",
    "pool_size": "PHR_REFRESH_POOL_SIZE",
    "verify": "PHR_REFRESH_CA_BUNDLE",
    "user_agent": "PHR_REFRESH_USER_AGENT",
    "concurrency": "PHR_REFRESH_CONCURRENCY",
    "guard_failures": "PHR_REFRESH_GUARD_FAILURES",
    "guard_open_for": "PHR_REFRESH_GUARD_OPEN_SECONDS",
}
_REQUIRED = ("base_url", "app_token", "authorization_key")
_LONGEST = timedelta(days=1)
_FLAGS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class MhvSettings:
    """Where the upstream is, how it is spoken to, and with which keys. `repr` shows no secret.

    Raises `ConfigurationError` on anything missing or malformed; no error shows a secret's value.
    """

    #: Of the MHV API, without the path; `phrmgr_url` is the same unless it is set.
    base_url: str
    phrmgr_url: str = ""
    #: Of the FHIR server's base, such as "https://host/fhir"; needed to read records only.
    fhir_url: str = ""
    app_id: str = "103"
    app_token: str = field(repr=False)
    #: Sent as X-Authorization-Key.
    authorization_key: str = field(repr=False)
    #: Sent as x-api-key, where the upstream lies behind an API gateway.
    api_key: str = field(default="", repr=False)
    #: Older bases have their paths under /mhvapi.
    legacy_paths: bool = False
    #: How the status call speaks (UPSTREAM, section 2, two dialects).
    dialect: StatusDialect = "extracts"
    wanted: tuple[str, ...] = DEFAULT_WANTED
    #: For each attempt to connect, and for the whole answer.
    connect_timeout: timedelta = timedelta(seconds=5)
    read_timeout: timedelta = timedelta(seconds=15)
    pool_size: int = 10
    #: Calls at once, of one process; a patient whose call finds no room is deferred (`guard.GuardedUpstream`).
    concurrency: int = 20
    #: Once so many of the last twice as many calls failed, none is made for `guard_open_for`.
    guard_failures: int = 10
    guard_open_for: timedelta = timedelta(seconds=30)
    #: How long after an accepted kick-off the upstream's earlier data are not yet taken for its last word.
    throttle_grace: timedelta = timedelta(seconds=10)
    clock_tolerance: timedelta = timedelta(minutes=2)
    #: A token counts as expired this long before it is.
    token_early_expiry: timedelta = timedelta(seconds=20)
    #: True: the usual certificate authorities; or the path of a CA bundle. There is no way to trust everybody.
    verify: str | Literal[True] = True
    user_agent: str = "phr-refresh"
    max_answer_bytes: int = 1_048_576
    #: The records that patients can read: name -> FHIR search, to which the patient is added.
    records: Mapping[str, str] = field(default_factory=lambda: {"vitals": "Observation?category=vital-signs"})
    #: The same for a page of records.
    max_bundle_bytes: int = 16_777_216

    def __post_init__(self) -> None:
        object.__setattr__(self, "base_url", _checked_url("base_url", self.base_url))
        object.__setattr__(self, "phrmgr_url", _checked_url("phrmgr_url", self.phrmgr_url or self.base_url))
        object.__setattr__(self, "fhir_url", self.fhir_url and _checked_url("fhir_url", self.fhir_url))
        _check_header_value("app_token", self.app_token)
        _check_header_value("authorization_key", self.authorization_key)
        _check_header_value("app_id", self.app_id)
        _check_header_value("user_agent", self.user_agent)
        if self.api_key:
            _check_header_value("api_key", self.api_key)
        for name, duration in (("connect_timeout", self.connect_timeout), ("read_timeout", self.read_timeout)):
            _check_duration(name, duration, least=timedelta(milliseconds=1))
        for name, duration in (
            ("throttle_grace", self.throttle_grace),
            ("clock_tolerance", self.clock_tolerance),
            ("token_early_expiry", self.token_early_expiry),
        ):
            _check_duration(name, duration, least=timedelta(0))
        _check_duration("guard_open_for", self.guard_open_for, least=timedelta(milliseconds=1))
        _check_count("concurrency", self.concurrency)
        _check_count("guard_failures", self.guard_failures)
        _check_count("pool_size", self.pool_size)
        _check_count("max_answer_bytes", self.max_answer_bytes)
        _check_count("max_bundle_bytes", self.max_bundle_bytes)
        self._check_choices()

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> MhvSettings:
        """The settings by the variables PHR_REFRESH_*; unset or blank ones keep their defaults.

        A secret is the value itself, `file:/path`, or `ssm:/name/of/parameter` (AWS Parameter Store, extra `aws`).
        """
        given = {name: environ.get(variable, "").strip() for name, variable in _VARIABLES.items()}
        for name in _REQUIRED:
            if not given[name]:
                raise _wrong(name, "it is not set", f"set the environment variable {_VARIABLES[name]}")
        values: dict[str, Any] = {name: _parsed(name, text) for name, text in given.items() if text}
        return cls(**values)

    def secrets(self) -> tuple[str, ...]:
        """The values that may appear nowhere, for `redaction`."""
        return tuple(value for value in (self.app_token, self.authorization_key, self.api_key) if value)

    def common_headers(self) -> dict[str, str]:
        """What every call carries."""
        headers = {"Accept": "application/json", "Content-Type": "application/json", "User-Agent": self.user_agent}
        return headers | {"x-api-key": self.api_key} if self.api_key else headers

    def _check_choices(self) -> None:
        if self.dialect not in ("extracts", "http-code"):
            raise _wrong("dialect", "it is unknown", 'give "extracts" or "http-code"')
        names = self.wanted
        if not isinstance(names, tuple) or not names or not all(isinstance(name, str) and name for name in names):
            raise _wrong("wanted", "it names no extract", "give at least one name, such as VPR")
        if len(set(names)) < len(names):
            raise _wrong("wanted", "it names an extract twice", "name each one once")
        # An empty text would mean False to requests, and to pathlib the folder that exists.
        is_bundle = isinstance(self.verify, str) and self.verify != "" and Path(self.verify).exists()
        if self.verify is not True and not is_bundle:
            raise _wrong("verify", "it is not the path of a CA bundle", "give an existing path, or leave it unset")


def _parsed(name: str, text: str) -> object:
    """The value that the environment variable of the field `name` stands for."""
    match name:
        case "app_token" | "authorization_key" | "api_key":
            return read_secret(_label(name), text)
        case "legacy_paths":
            if text.lower() not in _FLAGS:
                raise _wrong(name, "it is neither true nor false", 'give "true" or "false"')
            return _FLAGS[text.lower()]
        case "wanted":
            return tuple(part.strip() for part in text.split(",") if part.strip())
        case "connect_timeout" | "read_timeout" | "guard_open_for":
            try:
                return timedelta(seconds=float(text))
            except (ValueError, OverflowError):
                raise _wrong(name, "it is not a number of seconds", "give a number such as 5") from None
        case "pool_size" | "concurrency" | "guard_failures":
            if not re.fullmatch("[0-9]{1,6}", text):
                raise _wrong(name, "it is not a whole number", "give a number such as 10")
            return int(text)
    return text


def _label(name: str) -> str:
    return f"MhvSettings.{name} ({_VARIABLES[name]})" if name in _VARIABLES else f"MhvSettings.{name}"


def _wrong(name: str, problem: str, remedy: str) -> ConfigurationError:
    return ConfigurationError(_label(name), problem, remedy)


def _checked_url(name: str, url: str) -> str:
    problem = _url_problem(url)
    if problem:
        raise _wrong(name, problem, "give an address such as https://host.example or https://host.example/base")
    return url.rstrip("/")


def _url_problem(url: object) -> str:
    if not isinstance(url, str) or not url.isascii() or not url.isprintable() or " " in url:
        return "it holds characters that no URL has"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "it is not a URL"
    if parts.scheme not in ("http", "https"):
        return "its scheme is neither http nor https"
    if not parts.hostname or port == 0:
        return "it names no host, or port 0"
    if "@" in parts.netloc:
        return "it holds credentials"
    if "?" in url or "#" in url:
        return "it holds a query or a fragment"
    return ""


def _check_header_value(name: str, value: object) -> None:
    # requests would name the value in its own complaint about it.
    if not isinstance(value, str) or not value:
        raise _wrong(name, "it is empty", "give its value")
    if not value.isascii() or not value.isprintable() or value != value.strip():
        raise _wrong(name, "it holds characters that no HTTP header can carry", "give printable ASCII text")


def _check_duration(name: str, duration: object, *, least: timedelta) -> None:
    if not isinstance(duration, timedelta) or not least <= duration <= _LONGEST:
        raise _wrong(name, "it is no duration, too short or longer than a day", "give a datetime.timedelta")


def _check_count(name: str, count: object) -> None:
    if type(count) is not int or count < 1:
        raise _wrong(name, "it is not a positive whole number", "give at least 1")
