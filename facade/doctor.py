"""The doctor: looks at everything that this library runs on, and says what is wrong and what to do about it.

>>> from phr_refresh.doctor import examine
>>> [finding.remedy for finding in examine(environ={}, store_url="memory://") if finding.check == "store"]
['use sqlite:///file on one machine, redis://host for a fleet']

It goes by the service's settings, and changes nothing but a key that no patient has, which is gone soon after. The
upstream gets one HEAD request for each of its hosts, without keys and without a patient.
"""

import os
from collections.abc import Generator, Mapping
from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from phr_refresh.adapters.doctor.findings import Finding, Findings, Level, error, faults_of, ok, unknown, warning
from phr_refresh.adapters.doctor.store import check_file, check_store
from phr_refresh.adapters.redaction import safe_error
from phr_refresh.adapters.session_creation.seal import FernetSeal
from phr_refresh.adapters.session_creation.secret_values import read_secret
from phr_refresh.adapters.stores import open_store
from phr_refresh.adapters.stores.urls import scheme_of, sqlite_path
from phr_refresh.adapters.upstream.mhv import MhvUpstream
from phr_refresh.adapters.upstream.settings import MhvSettings
from phr_refresh.statemachine.errors import ConfigurationError, MissingExtra
from phr_refresh.statemachine.policy import Policy

from .assembly import DEFAULT_STORE, flows_under, names_in
from .embedding import VARIABLES, Embedding

__all__ = ["Finding", "Level", "examine"]

#: Returns what another check needs to know.
Check = Generator[Finding, None, float | None]

_SECRETS: Final = tuple(
    f"PHR_REFRESH_{name}" for name in ("APP_TOKEN", "AUTHORIZATION_KEY", "API_KEY", "PSEUDONYM_KEY")
)
_REQUIRED: Final = ("PHR_REFRESH_MHV_URL", "PHR_REFRESH_APP_TOKEN", "PHR_REFRESH_AUTHORIZATION_KEY")
#: What the setting PHR_REFRESH_METRICS may name, and the module that it needs.
_METRICS: Final = {"prometheus": "prometheus_client", "opentelemetry": "opentelemetry.metrics"}


def examine(
    block: Mapping[str, Any] | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    store_url: str | None = None,
    policy: Policy | None = None,
) -> Findings:
    """One finding after the other, as they are made: a check that fails itself is one, too.

    `block`: the settings block of a host, whichever it is; `environ` says what it leaves out, or all. Raises what
    `Embedding.of` raises. `store_url` and `policy` stand in for what these say.
    """
    mhv = None
    if block is not None:
        embedding = Embedding.of(block, environ)
        policy = policy or embedding.policy
        mhv = embedding.upstream.settings if isinstance(embedding.upstream, MhvUpstream) else None
        if callable(block.get("store")):
            store_url = store_url or ""
        environ = dict(environ) | {name: str(block[key]) for key, name in VARIABLES.items() if block.get(key)}
    if store_url is None:
        store_url = environ.get("PHR_REFRESH_STORE") or DEFAULT_STORE
    return _examined(environ, store_url, policy or Policy(), mhv)


def _examined(environ: Mapping[str, str], store_url: str, policy: Policy, mhv: MhvSettings | None) -> Findings:
    if mhv is None:
        yield from _guarded("secrets", _secrets(environ))
    yield from _guarded("sealing", _sealing(environ))
    yield from _guarded("metrics", _metrics(environ))
    store_skew = yield from _guarded("store", _store(environ, store_url, policy))
    yield from _guarded("upstream", _upstream(environ, policy, mhv, store_skew))


def _guarded(name: str, check: Check) -> Check:
    """What `check` finds, and as a finding about `name`, or a bug, what it raises."""
    try:
        return (yield from check)
    except ConfigurationError as failure:
        yield error(name, f"{failure.setting}: {failure.problem}", failure.remedy)
    except MissingExtra as failure:
        said = f"{failure.feature} needs a package that is not installed"
        yield error(name, said, f"pip install 'phr-refresh[{failure.extra}]'")
    except Exception as failure:
        yield error("doctor", f"a check itself failed: {safe_error(failure)}", "report it as a bug")
    return None


def _secrets(environ: Mapping[str, str]) -> Findings:
    present: list[str] = []
    for variable in _SECRETS:
        if given := environ.get(variable, "").strip():
            yield from _guarded("secrets", _secret(variable, given, present))
    if present:
        yield ok("secrets", f"{', '.join(present)} can be read")


def _secret(variable: str, given: str, present: list[str]) -> Findings:
    if read_secret(variable, given):
        present.append(variable.removeprefix("PHR_REFRESH_"))
    else:
        yield error("secrets", f"{variable} is empty where it points to", "store its value there")


def _sealing(environ: Mapping[str, str]) -> Findings:
    variable = VARIABLES["seal_keys"]
    given = environ.get(variable, "").strip()
    if given:
        keys = names_in(read_secret(variable, given))
        FernetSeal(keys)
        yield ok("sealing", f"on, with {len(keys)} {'key' if len(keys) == 1 else 'keys'}; the first one seals")
    else:
        said = "off: who can read the store can read the session tokens in it"
        yield warning("sealing", said, f"set {variable} to keys of cryptography.fernet.Fernet.generate_key()")


def _metrics(environ: Mapping[str, str]) -> Findings:
    for name in names_in(environ.get(VARIABLES["metrics"], "")):
        try:
            import_module(_METRICS[name])
            yield ok("metrics", name)
        except KeyError:
            yield error("metrics", "PHR_REFRESH_METRICS names no known kind", f"use {' or '.join(_METRICS)}")
        except ImportError:
            said = f"PHR_REFRESH_METRICS={name} needs a package that is not installed"
            yield error("metrics", said, f"pip install 'phr-refresh[{name}]'")


def _store(environ: Mapping[str, str], url: str, policy: Policy) -> Check:
    """Returns how many seconds the store's clock is ahead of this host's, where that is known."""
    if not url:
        yield unknown("store", "the settings give a callable that opens it", "look at it by its URL, with --store")
        return None
    scheme = scheme_of(url)
    if scheme == "memory":
        said = "memory://: each process has a store of its own, and refreshes every patient once (R1)"
        yield warning("store", said, "use sqlite:///file on one machine, redis://host for a fleet")
        return 0.0
    if scheme == "sqlite":
        path = Path(sqlite_path(url))
        findings = list(check_file(path, is_sealed=bool(environ.get(VARIABLES["seal_keys"]))))
        yield from findings
        if not path.exists() or faults_of(findings, strict=False):
            return 0.0
    # Nothing is connected yet: what is raised is about the URL.
    with closing(open_store(url)) as store:
        skew = yield from check_store(store, policy)
    if scheme == "sqlite":
        return 0.0
    from phr_refresh.adapters.doctor.server import check_servers

    yield from check_servers(url, policy)
    return skew


def _upstream(environ: Mapping[str, str], policy: Policy, mhv: MhvSettings | None, store_skew: float | None) -> Check:
    if mhv is None and not any(environ.get(variable) for variable in _REQUIRED):
        remedy = f"set {', '.join(_REQUIRED)}, or ask the doctor where the service has its settings"
        yield unknown("upstream", "none is set in this environment", remedy)
        return None
    mhv = mhv or MhvSettings.from_env(environ)
    yield from _guarded("policy", _policy(policy, mhv))
    from phr_refresh.adapters.doctor.upstream import check_upstream

    yield from check_upstream(mhv, store_skew=store_skew)
    return None


def _policy(policy: Policy, mhv: MhvSettings) -> Findings:
    with closing(MhvUpstream(mhv)) as upstream:
        flows_under(policy, upstream)
        yield ok("policy", f"claims outlast the longest call to the upstream ({upstream.longest_call:g} s)")
