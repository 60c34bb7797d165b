"""Checks of the upstream that need no patient: name, connection, TLS, an answer, and its clock."""

import time
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from typing import Final, assert_never
from urllib.parse import urlsplit

from ..upstream.http_client import Answer, HttpClient, Lost, NotSent
from ..upstream.settings import MhvSettings
from .findings import Finding, Findings, error, milliseconds_of, ok, warning

_REMEDIES: Final = {
    "dns_failed": "check the host's name in {variable}, and this host's DNS",
    "connection_refused": "check host and port in {variable}, and that it runs",
    "connect_timed_out": "check host and port in {variable}, the firewall and the proxy",
    "tls_failed": "check its certificate, and PHR_REFRESH_CA_BUNDLE if a private CA signed it",
    "proxy_refused": "check the proxy that HTTPS_PROXY names",
    "bad_proxy": "check the proxy that HTTPS_PROXY names",
    "timed_out": "it is slow or a proxy holds it: ask its operators",
}
_SERVER_ERROR: Final = 500
#: What servers answer that know no HEAD: they are there.
_NO_HEAD: Final = 501
#: An HTTP date has whole seconds.
_DATE_SECONDS: Final = 1.0


def check_upstream(settings: MhvSettings, *, store_skew: float | None = None) -> Findings:
    """All checks of the hosts that `settings` name; `store_skew`: how far the store's clock is ahead of this host's.

    One HEAD request goes to each base URL, with no key, no patient and no meaning: any answer will do.
    """
    http = HttpClient(
        connect_seconds=settings.connect_timeout.total_seconds(),
        read_seconds=settings.read_timeout.total_seconds(),
        pool_size=1,
        verify=settings.verify,
    )
    with closing(http):
        for check, variable, url in _places(settings):
            yield from _check(http, settings, check, variable, url, store_skew)


def _places(settings: MhvSettings) -> Iterator[tuple[str, str, str]]:
    yield "upstream", "PHR_REFRESH_MHV_URL", settings.base_url
    if urlsplit(settings.phrmgr_url).netloc != urlsplit(settings.base_url).netloc:
        yield "upstream.phrmgr", "PHR_REFRESH_PHRMGR_URL", settings.phrmgr_url
    if settings.fhir_url and urlsplit(settings.fhir_url).netloc != urlsplit(settings.base_url).netloc:
        yield "upstream.fhir", "PHR_REFRESH_FHIR_URL", settings.fhir_url


def _check(
    http: HttpClient, settings: MhvSettings, check: str, variable: str, url: str, store_skew: float | None
) -> Findings:
    began = time.perf_counter()
    outcome = http.call("HEAD", f"{url}/", headers={"User-Agent": settings.user_agent}, max_bytes=0)
    seconds = milliseconds_of(time.perf_counter() - began)
    host = urlsplit(url).netloc
    match outcome:
        case NotSent(reason) | Lost(reason):
            remedy = _REMEDIES.get(reason, "check {variable}, the network and the proxy").format(variable=variable)
            yield error(check, f"{host} cannot be reached ({reason})", remedy)
            return
        case Answer() if outcome.status >= _SERVER_ERROR and outcome.status != _NO_HEAD:
            yield warning(check, f"{host} answers {outcome.code} after {seconds}", "ask its operators")
        case Answer():
            yield ok(check, f"{host} answers (HTTP {outcome.status}) after {seconds}")
        case _:
            assert_never(outcome)
    if urlsplit(url).scheme == "http" and not _is_loopback(urlsplit(url).hostname or ""):
        yield error(f"{check}.tls", "identifiers and tokens travel in the clear", f"use https:// in {variable}")
    clock = _clock(f"{check}.clock", outcome, settings.clock_tolerance, store_skew)
    if clock is not None:
        yield clock


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _clock(check: str, answer: Answer, tolerance: timedelta, store_skew: float | None) -> Finding | None:
    """How far the upstream's clock is from the store's. The lifecycle allows for it; people who read both do not."""
    try:
        upstream_at = parsedate_to_datetime(answer.headers.get("Date", "")).timestamp()
    except (TypeError, ValueError):
        return None
    if store_skew is None:
        return None
    apart = abs(upstream_at - (time.time() + store_skew))
    limit = tolerance.total_seconds()
    if apart > limit + _DATE_SECONDS:
        said = f"its clock and the store's are {apart:.0f} s apart: \"as of\" is by its clock, all else by the store's"
        return warning(check, said, "keep the store's host by NTP, and tell the upstream's operators")
    return ok(check, f"its clock and the store's agree within {max(apart, _DATE_SECONDS):.0f} s")
