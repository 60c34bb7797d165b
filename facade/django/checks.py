"""System checks: what is wrong with the settings, before traffic tells.

====================  ===============================================================================================
`phr_refresh.E001`    PHR_REFRESH is not set, or no mapping
`phr_refresh.E002`    a key of it is unknown
`phr_refresh.E003`    `patient_of`
`phr_refresh.E004`    `store`
`phr_refresh.E005`    `upstream`: an address or a secret is missing or malformed
`phr_refresh.E006`    `policy`, or it does not suit the upstream
`phr_refresh.E007`    `seal_keys`, `pseudonym_key`
`phr_refresh.E008`    `longest_wait`, `places`
`phr_refresh.E009`    Django's authentication is not installed
`phr_refresh.W001`    with ``--deploy``: the store cannot be used now
`phr_refresh.W002`    with ``--deploy``: each process has a store of its own
`phr_refresh.W003`    with ``--deploy``: tokens are not sealed at rest
====================  ===============================================================================================

Without ``--deploy`` nothing is connected: neither the store, nor the AWS Parameter Store where secrets lie in it.
``--tag phr_refresh`` runs these alone.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from django.apps import AppConfig, apps
from django.core.checks import CheckMessage, Error
from django.core.checks import Warning as CheckWarning
from phr_refresh.adapters.redaction import safe_error
from phr_refresh.adapters.session_creation.seal import PlainSeal
from phr_refresh.adapters.stores import open_store
from phr_refresh.adapters.stores.urls import scheme_of, sqlite_path
from phr_refresh.statemachine.effects import Load
from phr_refresh.statemachine.errors import ConfigurationError, MissingExtra, StoreError
from phr_refresh.statemachine.patient import Patient, key_of

from ..embedding import VARIABLES, Embedding
from ..unconnected import UnconnectedUpstream
from .settings import NAME, settings_block

TAG: Final = "phr_refresh"
_IDS: Final = {
    "patient_of": "E003",
    "store": "E004",
    "upstream": "E005",
    "policy": "E006",
    "seal_keys": "E007",
    "pseudonym_key": "E007",
    "longest_wait": "E008",
    "places": "E008",
}


def check_settings(app_configs: Sequence[AppConfig] | None, **_: object) -> list[CheckMessage]:
    """What is wrong with the settings, as far as can be told without a connection."""
    found = [] if apps.is_installed("django.contrib.auth") else [_no_authentication()]
    return [*found, *_errors_of_settings(are_secrets_fetched=False)]


def check_deployment(app_configs: Sequence[AppConfig] | None, **_: object) -> list[CheckMessage]:
    """What keeps the settings from working here and now."""
    errors = _errors_of_settings(are_secrets_fetched=True)
    if errors:
        known = _errors_of_settings(are_secrets_fetched=False)
        return [error for error in errors if error not in known]
    embedding = Embedding.of(settings_block())
    return [*_store_warnings(embedding.settings.store_url), *_seal_warnings(embedding)]


def _errors_of_settings(*, are_secrets_fetched: bool) -> list[CheckMessage]:
    try:
        block = settings_block()
    except ConfigurationError as error:
        return [_error("E001", error)]
    environ: Mapping[str, str] = os.environ
    if not are_secrets_fetched:
        block, environ = _without_parameter_store(block), _without_parameter_store(environ)
    found = []
    for key in (*_IDS, *(key for key in block if key not in _IDS)):
        try:
            _probe(key, block.get(key), environ)
        except Exception as error:
            found.append(_error(_IDS.get(key, "E002"), error))
    if not found:
        try:
            with closing(Embedding.of(block, environ).open()):
                pass
        except Exception as error:
            found.append(_error("E006", error))
    return found


def _probe(key: str, value: object, environ: Mapping[str, str]) -> None:
    """Raises what is wrong with this setting, whatever the others are."""
    if key == "upstream":
        wanted = {name for name in environ if name not in VARIABLES.values()}
    else:
        wanted = {VARIABLES[key]} if key in VARIABLES else set()
    block = {"patient_of": _nobody, "upstream": UnconnectedUpstream(), "store": "memory://"} | {key: value}
    embedding = Embedding.of(block, {name: environ[name] for name in wanted if name in environ})
    with closing(open_store(embedding.settings.store_url)):
        pass


def _nobody(user: object) -> Patient | None:
    return None


def _without_parameter_store(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same without secrets that would be fetched. Keys that seal have a form, so they are left out."""
    kept: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            kept[name] = _without_parameter_store(value)
        elif not (isinstance(value, str) and value.startswith("ssm:")):
            kept[name] = value
        elif name.lower().removeprefix("phr_refresh_") != "seal_keys":
            kept[name] = "not-fetched"
    return kept


def _store_warnings(url: str) -> Iterator[CheckMessage]:
    if scheme_of(url) == "memory":
        hint = "Have all processes share one: sqlite:///<file> on one machine, redis://<host> for a fleet."
        yield _warning("W002", "each process has a store of its own: patients are refreshed once in each", hint)
        return
    path = Path(sqlite_path(url)) if scheme_of(url) == "sqlite" else None
    if path is not None and not path.exists():
        # Not created here: it would belong to who runs the check, not to the service.
        if not os.access(path.parent, os.W_OK):
            yield _warning("W001", "the SQLite store cannot be created", "Check who may write to its directory.")
        return
    try:
        with closing(open_store(url)) as store:
            store.call(Load(key_of("phr_refresh.check")))
    except StoreError as error:
        message, hint = _split(error)
        yield _warning("W001", message, hint)


def _seal_warnings(embedding: Embedding) -> Iterator[CheckMessage]:
    if isinstance(embedding.settings.seal, PlainSeal):
        message = f"{NAME}['seal_keys'] is not set: who can read the store can read the tokens in it"
        hint = "Give it keys made by cryptography.fernet.Fernet.generate_key() (extra: sealed), or silence this."
        yield _warning("W003", message, hint)


def _no_authentication() -> CheckMessage:
    message = "django.contrib.auth is not installed: there are no logins to refresh at"
    return Error(message, hint='Add "django.contrib.auth" to INSTALLED_APPS.', id=f"{TAG}.E009")


def _error(number: str, error: Exception) -> CheckMessage:
    message, hint = _split(error)
    return Error(message, hint=hint, id=f"{TAG}.{number}")


def _warning(number: str, message: str, hint: str) -> CheckMessage:
    return CheckWarning(message, hint=hint, id=f"{TAG}.{number}")


def _split(error: Exception) -> tuple[str, str]:
    """What is wrong, and what to do about it."""
    if isinstance(error, ConfigurationError | MissingExtra | StoreError):
        message, _, remedy = str(error).rpartition("; ")
        return message, f"{remedy[:1].upper()}{remedy[1:]}"
    return safe_error(error), "See phr_refresh.embedding for what PHR_REFRESH may hold."
