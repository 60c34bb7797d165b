"""What the hosts' adapters are made of: one settings block, whatever the framework.

=================  ====================================================================================================
`patient_of`       a callable, or its dotted path: what the host knows of its user -> `Patient`, or None for no patient
`store`            a store URL, or a callable that opens a store; by default `PHR_REFRESH_STORE`, or a SQLite file
`upstream`         an `Upstream`, or the fields of `MhvSettings`; by default the environment's (`MhvSettings.from_env`)
`policy`           a `Policy`, or its fields; durations as `timedelta` or in seconds
`seal_keys`        Fernet keys, newest first, comma-separated; by default `PHR_REFRESH_SEAL_KEYS`
`pseudonym_key`    any text; by default `PHR_REFRESH_PSEUDONYM_KEY`
`metrics`          ``"prometheus"``, ``"opentelemetry"``, or both, comma-separated; by default `PHR_REFRESH_METRICS`
`longest_wait`     the cap of `Prefer: wait=N`, as `timedelta` or in seconds
`places`           how many requests wait at once, in one process
`worker`           "threads", or who else runs the refreshes: a Celery app, its dotted path, or "celery" (see `celery`)
=================  ====================================================================================================
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import timedelta
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from phr_refresh.adapters.browser import Contract
from phr_refresh.adapters.ports import Upstream, Worker
from phr_refresh.adapters.session_creation.secret_values import read_secret
from phr_refresh.adapters.stores import open_async_store, open_store
from phr_refresh.adapters.upstream.settings import MhvSettings
from phr_refresh.statemachine.errors import ConfigurationError
from phr_refresh.statemachine.patient import Patient
from phr_refresh.statemachine.policy import NO_DURATIONS, Policy

from .assembly import Settings
from .asynchronous import AsyncPhrRefresh
from .synchronous import PhrRefresh

if TYPE_CHECKING:
    from phr_refresh.adapters.workers.celery import CeleryWorker

PatientOf = Callable[[Any], Patient | None]

_KEYS = (
    *("patient_of", "store", "upstream", "policy", "seal_keys", "pseudonym_key", "metrics"),
    *("longest_wait", "places", "worker"),
)
#: Keys of the block that variables stand in for.
VARIABLES: Final = {
    "store": "PHR_REFRESH_STORE",
    "seal_keys": "PHR_REFRESH_SEAL_KEYS",
    "pseudonym_key": "PHR_REFRESH_PSEUDONYM_KEY",
    "metrics": "PHR_REFRESH_METRICS",
}

#: May be the value itself, ``file:...`` or ``ssm:...``.
_SECRETS = ("app_token", "authorization_key", "api_key")


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """A checked settings block. Raises `ConfigurationError` that names the setting, `MissingExtra`."""

    patient_of: PatientOf
    upstream: Upstream
    policy: Policy
    settings: Settings
    contract: Contract
    places: int | None
    worker: object = None
    opens_store: Callable[[], Any] | None = None

    @classmethod
    def of(cls, block: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> "Embedding":
        """Read a settings block; see the module for its keys. What it does not give is looked up in `environ`."""
        for key in block:
            if key not in _KEYS:
                raise ConfigurationError(f"PHR_REFRESH[{key!r}]", "it is unknown", f"use {', '.join(_KEYS)}")
        opens_store = block.get("store")
        opens_store = opens_store if callable(opens_store) else None
        texts = [key for key in VARIABLES if block.get(key) and block[key] is not opens_store]
        given = dict(environ) | {VARIABLES[key]: str(block[key]) for key in texts}
        places = block.get("places")
        if places is not None and (type(places) is not int or places < 0):
            raise _wrong("places", "it is no whole number", "give 0 or more")
        longest = block.get("longest_wait")
        longest = None if longest is None else _duration("longest_wait", longest)
        upstream, kinds = _upstream(block.get("upstream"), environ)
        return cls(
            patient_of=read_patient_of(block.get("patient_of")),
            upstream=upstream,
            policy=read_policy(block.get("policy")),
            settings=Settings.from_env(given),
            contract=Contract(kinds=kinds) if longest is None else Contract(longest_wait=longest, kinds=kinds),
            places=places,
            worker=block.get("worker"),
            opens_store=opens_store,
        )

    def open(self, worker: Worker | None = None) -> PhrRefresh:
        """A `PhrRefresh` by these settings, for a process with threads. `worker`: in place of the one they name."""
        return PhrRefresh(
            store=self.opens_store() if self.opens_store else open_store(self.settings.store_url),
            upstream=self.upstream,
            worker=worker or self._celery_worker(),
            policy=self.policy,
            seal=self.settings.seal,
            observer=self.settings.observer,
        )

    def open_async(self) -> AsyncPhrRefresh:
        """The same for an event loop."""
        worker = self._celery_worker()
        return AsyncPhrRefresh(
            store=self.opens_store() if self.opens_store else open_async_store(self.settings.store_url),
            upstream=self.upstream,
            worker=None if worker is None else worker.for_event_loop(),
            policy=self.policy,
            seal=self.settings.seal,
            observer=self.settings.observer,
        )

    def _celery_worker(self) -> "CeleryWorker | None":
        if self.worker in (None, "threads"):
            return None
        from phr_refresh.adapters.workers.celery import worker_of

        is_path = isinstance(self.worker, str) and self.worker != "celery"
        return worker_of(imported("worker", str(self.worker)) if is_path else self.worker, self.settings.observer)


def _wrong(key: str, problem: str, remedy: str) -> ConfigurationError:
    return ConfigurationError(f"PHR_REFRESH[{key!r}]", problem, remedy)


def read_patient_of(value: object, *, key: str = "patient_of") -> PatientOf:
    """The setting `key` as a callable. Raises `ConfigurationError`, and what importing it raises."""
    value = imported(key, value) if isinstance(value, str) else value
    if not callable(value):
        remedy = f'give a callable, or its dotted path such as "portal.patients.{key}"'
        raise _wrong(key, "it is missing, or nothing that can be called", remedy)
    return value


def imported(key: str, path: str) -> object:
    """What the dotted path that the setting `key` gives stands for; None if its module has no such name."""
    module, _, name = path.rpartition(".")
    try:
        return vars(import_module(module)).get(name) if module else None
    except ImportError as error:
        raise _wrong(key, f"it cannot be imported ({error.name})", "check the dotted path") from error


def _upstream(value: object, environ: Mapping[str, str]) -> tuple[Upstream, tuple[str, ...] | None]:
    """The upstream, and the kinds of records that it has to read, None where that is not known."""
    from phr_refresh.adapters.upstream.mhv import MhvUpstream

    if value is None:
        value = MhvSettings.from_env(environ)
    elif isinstance(value, Mapping):
        given = _known("upstream", value, MhvSettings)
        missing = [name for name in ("base_url", "app_token", "authorization_key") if not given.get(name)]
        if missing:
            raise _wrong("upstream", f"it has no {' and no '.join(missing)}", "give it, or leave upstream out")
        secret = {name: read_secret(name, given[name]) for name in _SECRETS if given.get(name)}
        value = MhvSettings(**given | secret)
    if isinstance(value, MhvSettings):
        value = MhvUpstream(value)
    if isinstance(value, MhvUpstream):
        return value, value.kinds
    return value, None  # type: ignore[return-value]  # an Upstream of the host's own


def read_policy(value: object) -> Policy:
    """The setting `policy`. Raises `ConfigurationError`."""
    if value is None or isinstance(value, Policy):
        return value or Policy()
    if not isinstance(value, Mapping):
        raise _wrong("policy", "it is no Policy and no mapping", "give the fields of Policy that differ")
    known = _known("policy", value, Policy)
    values: dict[str, Any] = {
        name: item if name in NO_DURATIONS else _duration(f"policy.{name}", item) for name, item in known.items()
    }
    if isinstance(schedule := known.get("poll_schedule"), list | tuple):
        values["poll_schedule"] = tuple(_duration("policy.poll_schedule", time) for time in schedule)
    return Policy(**values)


def _known(key: str, given: Mapping[str, Any], kind: type) -> dict[str, Any]:
    names = [item.name for item in fields(kind) if item.init]
    for name in given:
        if name not in names:
            raise _wrong(f"{key}.{name}", "it is unknown", f"use {', '.join(names)}")
    return dict(given)


def _duration(key: str, value: object) -> timedelta:
    if isinstance(value, timedelta):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return timedelta(seconds=value)
    raise _wrong(key, "it is no duration", "give a timedelta, or seconds")
