"""The settings of the upstream, from the program or from environment variables."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

from ...statemachine.errors import ConfigurationError
from ..session_creation.secret_values import read_secret

StatusDialect = Literal["extracts", "http-code"]

#: The extracts that the portal's records pages show.
DEFAULT_WANTED = ("Allergy", "ImagingStudy", "VPR", "ChemistryHematology")

# Fields of MhvSettings whose environment variable is not PHR_REFRESH_ and their own name; see `_variable`.
_OTHER_NAMES = {
    "base_url": "MHV_URL",
    "wanted": "EXTRACTS",
    "verify": "CA_BUNDLE",
    "guard_open_for": "GUARD_OPEN_SECONDS",
}
_MAY_BE_ZERO = ("idle_limit", "throttle_grace", "clock_tolerance", "token_early_expiry")
_LONGEST = timedelta(days=1)
_FLAGS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}

# The type of a field -> how a variable's text is read, and what to say where it cannot be.
_READERS: Mapping[Any, tuple[Callable[[str], object], str, str]] = {
    "bool": (lambda text: _FLAGS[text.lower()], "it is neither true nor false", 'give "true" or "false"'),
    "int": (int, "it is not a whole number", "give a number such as 10"),
    "timedelta": (
        lambda text: timedelta(seconds=float(text)),
        "it is not a number of seconds",
        "give a number such as 5",
    ),
    "tuple[str, ...]": (lambda text: tuple(part.strip() for part in text.split(",") if part.strip()), "", ""),
}

#: What is wrong and what to do about it; None where nothing is.
_Wrong = tuple[str, str] | None


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
    #: A connection that was idle for longer is not used again: a firewall may have forgotten it without a word.
    idle_limit: timedelta = timedelta(seconds=5)
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
        values = asdict(self)
        for item in fields(self):
            wrong = _wrong(item, values[item.name])
            if wrong is not None:
                raise ConfigurationError(_label(item), *wrong)
        object.__setattr__(self, "base_url", self.base_url.rstrip("/"))
        object.__setattr__(self, "phrmgr_url", self.phrmgr_url.rstrip("/") or self.base_url)
        object.__setattr__(self, "fhir_url", self.fhir_url.rstrip("/"))

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> MhvSettings:
        """The settings by the variables PHR_REFRESH_*; unset or blank ones keep their defaults.

        A variable is called as its field, with `_SECONDS` behind a duration; those in `_OTHER_NAMES` are not.
        A secret is the value itself, `file:/path`, or `ssm:/name/of/parameter` (AWS Parameter Store, extra `aws`).
        """
        values: dict[str, Any] = {}
        for item in fields(cls):
            variable = _variable(item)
            text = environ.get(variable, "").strip()
            if text:
                values[item.name] = _read(item, text)
            elif item.default is MISSING and item.default_factory is MISSING:
                raise ConfigurationError(_label(item), "it is not set", f"set the environment variable {variable}")
        return cls(**values)

    def secrets(self) -> tuple[str, ...]:
        """The values that may appear nowhere, for `redaction`."""
        return tuple(value for value in (self.app_token, self.authorization_key, self.api_key) if value)

    def common_headers(self) -> dict[str, str]:
        """What every call carries."""
        headers = {"Accept": "application/json", "Content-Type": "application/json", "User-Agent": self.user_agent}
        return headers | {"x-api-key": self.api_key} if self.api_key else headers


def _variable(item: Field[Any]) -> str:
    """The environment variable of a field; empty for what no text can give."""
    seconds = "_SECONDS" if item.type == "timedelta" else ""
    return "" if item.name == "records" else f"PHR_REFRESH_{_OTHER_NAMES.get(item.name, item.name.upper() + seconds)}"


def _label(item: Field[Any]) -> str:
    variable = _variable(item)
    return f"MhvSettings.{item.name} ({variable})" if variable else f"MhvSettings.{item.name}"


def _read(item: Field[Any], text: str) -> object:
    """The value that a variable's `text` stands for. What `repr` does not show is a secret."""
    if not item.repr:
        return read_secret(_label(item), text)
    read, problem, remedy = _READERS.get(item.type, (str, "", ""))
    try:
        return read(text)
    except (ValueError, OverflowError, KeyError):
        raise ConfigurationError(_label(item), problem, remedy) from None


def _wrong(item: Field[Any], value: Any) -> _Wrong:
    """Each type of field has its rule, whether the program or the environment gave `value`. A default "" may stay."""
    match item.type:
        case "str" if value != "" or item.default != "":
            return _wrong_url(value) if item.name.endswith("_url") else _wrong_header(value)
        case "int" if type(value) is not int or value < 1:
            return "it is not a positive whole number", "give at least 1"
        case "timedelta":
            least = timedelta(milliseconds=item.name not in _MAY_BE_ZERO)
            if not isinstance(value, timedelta) or not least <= value <= _LONGEST:
                return "it is no duration, too short or longer than a day", "give a datetime.timedelta"
        case "StatusDialect" if value not in get_args(StatusDialect):
            return "it is unknown", 'give "extracts" or "http-code"'
        case "tuple[str, ...]":
            if not isinstance(value, tuple) or not value or not all(isinstance(name, str) and name for name in value):
                return "it names no extract", "give at least one name, such as VPR"
            if len(set(value)) < len(value):
                return "it names an extract twice", "name each one once"
        # An empty text would mean False to requests, and to pathlib the folder that exists.
        case "str | Literal[True]" if value is not True:
            if not isinstance(value, str) or value == "" or not Path(value).exists():
                return "it is not the path of a CA bundle", "give an existing path, or leave it unset"
    return None


def _wrong_url(url: Any) -> _Wrong:
    problem = _url_problem(url)
    return (problem, "give an address such as https://host.example or https://host.example/base") if problem else None


def _url_problem(url: Any) -> str:
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
    return "it holds a query or a fragment" if "?" in url or "#" in url else ""


def _wrong_header(value: Any) -> _Wrong:
    # Who sends it would name the value in its own complaint about it.
    if not isinstance(value, str) or not value:
        return "it is empty", "give its value"
    if not value.isascii() or not value.isprintable() or value != value.strip():
        return "it holds characters that no HTTP header can carry", "give printable ASCII text"
    return None
