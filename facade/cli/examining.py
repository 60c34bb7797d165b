"""The doctor: looks at everything that this library runs on, and says what is wrong and what to do about it.

It goes by the service's settings, and changes nothing but a key that no patient has, which is gone soon after. The
upstream gets one HEAD request for each of its hosts, without keys and without a patient.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from phr_refresh.adapters.doctor.findings import Finding, Findings, Level, error, ok, unknown, warning
from phr_refresh.adapters.doctor.store import check_store, skew_of
from phr_refresh.adapters.redaction import safe_error
from phr_refresh.adapters.session_creation.seal import FernetSeal
from phr_refresh.adapters.session_creation.secret_values import read_secret
from phr_refresh.adapters.stores import open_store
from phr_refresh.adapters.stores.urls import scheme_of, sqlite_path
from phr_refresh.adapters.upstream.mhv import MhvUpstream
from phr_refresh.adapters.upstream.settings import MhvSettings
from phr_refresh.statemachine.errors import CallerError, ConfigurationError, MissingExtra
from phr_refresh.statemachine.policy import Policy

from ..assembly import DEFAULT_STORE, flows_under, names_in
from ..embedding import Embedding

__all__ = ["Doctor", "Finding", "Level"]

_APP_TOKEN, _AUTHORIZATION_KEY, _API_KEY = (
    f"PHR_REFRESH_{name}" for name in ("APP_TOKEN", "AUTHORIZATION_KEY", "API_KEY")
)
_SEAL_KEYS, _PSEUDONYM_KEY = "PHR_REFRESH_SEAL_KEYS", "PHR_REFRESH_PSEUDONYM_KEY"
_MHV_URL: Final = "PHR_REFRESH_MHV_URL"
#: Of a settings block, as the environment has them.
_KEYS: Final = {"seal_keys": _SEAL_KEYS, "metrics": "PHR_REFRESH_METRICS"}
_REQUIRED: Final = (_MHV_URL, _APP_TOKEN, _AUTHORIZATION_KEY)
#: What the setting PHR_REFRESH_METRICS may name, and the module that it needs.
_METRICS: Final = {"prometheus": "prometheus_client", "opentelemetry": "opentelemetry.metrics"}


@dataclass(frozen=True, slots=True)
class Doctor:
    """Examines what `environ` sets, under `policy`. `store_url` and `mhv` stand in for what the environment says.

    An empty `store_url`: the host opens a store of its own, which only the host knows.
    """

    environ: Mapping[str, str]
    policy: Policy = field(default_factory=Policy)
    store_url: str | None = None
    mhv: MhvSettings | None = None

    @classmethod
    def of(cls, block: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> Doctor:
        """By a host's settings block, and `environ` for what it leaves out. Raises what `Embedding.of` raises."""
        embedding = Embedding.of(block, environ)
        given = {variable: str(block[key]) for key, variable in _KEYS.items() if block.get(key)}
        mhv = embedding.upstream.settings if isinstance(embedding.upstream, MhvUpstream) else None
        store_url = "" if callable(block.get("store")) else embedding.settings.store_url
        return cls(dict(environ) | given, embedding.policy, store_url, mhv)

    @classmethod
    def here(cls, store_url: str | None = None) -> Doctor:
        """By this process's environment."""
        return cls(os.environ, store_url=store_url)

    def examine(self) -> Iterator[Finding]:
        """One finding after the other, as they are made. Never raises: a check that fails itself is a finding."""
        for check in (self._secrets(), self._sealing(), self._extras(), self._store(), self._upstream()):
            try:
                yield from check
            except Exception as failure:
                yield error("doctor", f"a check itself failed: {safe_error(failure)}", "report it as a bug")

    # The settings.

    def _secrets(self) -> Findings:
        if self.mhv is not None:
            return
        present = []
        for variable in (_APP_TOKEN, _AUTHORIZATION_KEY, _API_KEY, _PSEUDONYM_KEY):
            given = self.environ.get(variable, "").strip()
            try:
                if given and read_secret(variable, given):
                    present.append(variable.removeprefix("PHR_REFRESH_"))
                elif given:
                    yield error("secrets", f"{variable} is empty where it points to", "store its value there")
            except CallerError as failure:
                yield _of("secrets", failure)
        if present:
            yield ok("secrets", f"{', '.join(present)} can be read")

    def _sealing(self) -> Findings:
        given = self.environ.get(_SEAL_KEYS, "").strip()
        if not given:
            said = "off: who can read the store can read the session tokens in it"
            remedy = f"set {_SEAL_KEYS} to keys of cryptography.fernet.Fernet.generate_key()"
            yield warning("sealing", said, remedy)
            return
        try:
            keys = names_in(read_secret(_SEAL_KEYS, given))
            seal = FernetSeal(keys)
            each = [FernetSeal([key]) for key in keys]
        except CallerError as failure:
            yield _of("sealing", failure)
            return
        if all(seal.unseal(one.seal(b"trial")) == b"trial" for one in each):
            yield ok("sealing", f"on, with {len(keys)} {'key' if len(keys) == 1 else 'keys'}; the first one seals")

    def _extras(self) -> Findings:
        for name in names_in(self.environ.get("PHR_REFRESH_METRICS", "")):
            if name not in _METRICS:
                yield error("metrics", "PHR_REFRESH_METRICS names no known kind", f"use {' or '.join(_METRICS)}")
                continue
            try:
                import_module(_METRICS[name])
                yield ok("metrics", name)
            except ImportError:
                yield _of("metrics", MissingExtra(f"PHR_REFRESH_METRICS={name}", name))

    # The store.

    @property
    def _url(self) -> str:
        given = self.environ.get("PHR_REFRESH_STORE") or DEFAULT_STORE
        return given if self.store_url is None else self.store_url

    def _store(self) -> Findings:
        if not self._url:
            yield unknown("store", "the settings give a callable that opens it", "look at it by its URL, with --store")
            return
        try:
            scheme = scheme_of(self._url)
            if scheme == "memory":
                said = "memory://: each process has a store of its own, and refreshes every patient once (R1)"
                yield warning("store", said, "use sqlite:///file on one machine, redis://host for a fleet")
                return
            if scheme == "sqlite":
                yield from self._file()
                return
            # Nothing is connected yet: this is about the URL.
            with closing(open_store(self._url)) as store:
                yield from check_store(store, self.policy)
        except ConfigurationError as failure:
            yield _of("store", failure)
            return
        from phr_refresh.adapters.doctor.server import check_servers

        yield from check_servers(self._url, self.policy)

    def _file(self) -> Findings:
        from phr_refresh.adapters.doctor.file import check_file

        path = Path(sqlite_path(self._url))
        findings = list(check_file(path, is_sealed=bool(self.environ.get(_SEAL_KEYS))))
        yield from findings
        if path.exists() and not any(finding.level is Level.ERROR for finding in findings):
            with closing(open_store(self._url)) as store:
                yield from check_store(store, self.policy)

    # The upstream.

    def _upstream(self) -> Findings:
        mhv = self.mhv
        if mhv is None and not any(self.environ.get(variable) for variable in _REQUIRED):
            remedy = f"set {', '.join(_REQUIRED)}, or ask the doctor where the service has its settings"
            yield unknown("upstream", "none is set in this environment", remedy)
            return
        try:
            mhv = mhv or MhvSettings.from_env(self.environ)
        except CallerError as failure:
            yield _of("upstream", failure)
            return
        yield self._policy_fits(mhv)
        from phr_refresh.adapters.doctor.upstream import check_upstream

        yield from check_upstream(mhv, store_skew=self._skew())

    def _policy_fits(self, mhv: MhvSettings) -> Finding:
        try:
            with closing(MhvUpstream(mhv)) as upstream:
                flows_under(self.policy, upstream)
                longest = upstream.longest_call
        except ConfigurationError as failure:
            return _of("policy", failure)
        return ok("policy", f"claims outlast the longest call to the upstream ({longest:g} s)")

    def _skew(self) -> float | None:
        try:
            if scheme_of(self._url) in ("memory", "sqlite"):
                return 0.0
            with closing(open_store(self._url)) as store:
                return skew_of(store)
        except CallerError:
            return None


def _of(check: str, failure: CallerError) -> Finding:
    if isinstance(failure, ConfigurationError):
        return error(check, f"{failure.setting}: {failure.problem}", failure.remedy)
    if isinstance(failure, MissingExtra):
        said = f"{failure.feature} needs a package that is not installed"
        return error(check, said, f"pip install 'phr-refresh[{failure.extra}]'")
    return error(check, str(failure), "correct it")
