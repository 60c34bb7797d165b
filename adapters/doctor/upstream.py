"""Checks of the upstream that need no patient: name, connection, TLS, an answer, and its clock."""

import re
import time
from contextlib import closing
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import urlsplit

from ..upstream.http_client import Answer, HttpClient
from ..upstream.settings import MhvSettings
from .findings import Findings, error, milliseconds_of, ok, warning

_REMEDIES: Final = {
    "dns_failed": "check the host's name in {variable}, and this host's DNS",
    "connection_refused": "check host and port in {variable}, and that it runs",
    "connect_timed_out": "check host and port in {variable}, the firewall and the proxy",
    "tls_failed": "check its certificate, and PHR_REFRESH_CA_BUNDLE if a private CA signed it",
    "proxy_refused": "check the proxy that HTTPS_PROXY names",
    "bad_proxy": "check the proxy that HTTPS_PROXY names",
    "timed_out": "it is slow or a proxy holds it: ask its operators",
}
_LOOPBACK: Final = re.compile(r"localhost|::1|127(\.\d{1,3}){3}")
_SERVER_ERROR: Final = 500
#: What servers answer that know no HEAD: they are there.
_NO_HEAD: Final = 501
#: An HTTP date has whole seconds.
_DATE_SECONDS: Final = 1.0


def check_upstream(settings: MhvSettings, *, store_skew: float | None = None) -> Findings:
    """All checks of the hosts that `settings` name; `store_skew`: how far the store's clock is ahead of this host's.

    One HEAD request goes to each host, with no key, no patient and no meaning: any answer will do.
    """
    http = HttpClient(
        connect_seconds=settings.connect_timeout.total_seconds(),
        read_seconds=settings.read_timeout.total_seconds(),
        pool_size=1,
        verify=settings.verify,
    )
    named = (
        ("upstream", "PHR_REFRESH_MHV_URL", settings.base_url),
        ("upstream.phrmgr", "PHR_REFRESH_PHRMGR_URL", settings.phrmgr_url),
        ("upstream.fhir", "PHR_REFRESH_FHIR_URL", settings.fhir_url),
    )
    asked: set[str] = set()
    with closing(http):
        for check, variable, url in named:
            host = urlsplit(url).netloc
            if host and host not in asked:
                asked.add(host)
                yield from _check_host(http, settings, store_skew, check=check, variable=variable, url=url)


def _check_host(
    http: HttpClient, settings: MhvSettings, store_skew: float | None, *, check: str, variable: str, url: str
) -> Findings:
    parts = urlsplit(url)
    began = time.perf_counter()
    outcome = http.call("HEAD", f"{url}/", headers={"User-Agent": settings.user_agent}, max_bytes=0)
    seconds = milliseconds_of(time.perf_counter() - began)
    if not isinstance(outcome, Answer):
        remedy = _REMEDIES.get(outcome.reason, "check {variable}, the network and the proxy").format(variable=variable)
        yield error(check, f"{parts.netloc} cannot be reached ({outcome.reason})", remedy)
        return
    if outcome.status >= _SERVER_ERROR and outcome.status != _NO_HEAD:
        yield warning(check, f"{parts.netloc} answers {outcome.code} after {seconds}", "ask its operators")
    else:
        yield ok(check, f"{parts.netloc} answers (HTTP {outcome.status}) after {seconds}")
    if parts.scheme == "http" and not _LOOPBACK.fullmatch(parts.hostname or ""):
        yield error(f"{check}.tls", "identifiers and tokens travel in the clear", f"use https:// in {variable}")
    if store_skew is not None:
        tolerance = settings.clock_tolerance.total_seconds()
        yield from _check_clock(f"{check}.clock", outcome, now=time.time() + store_skew, tolerance=tolerance)


def _check_clock(check: str, answer: Answer, *, now: float, tolerance: float) -> Findings:
    try:
        apart = abs(parsedate_to_datetime(answer.headers.get("Date", "")).timestamp() - now)
    except (TypeError, ValueError):
        return
    # The lifecycle allows for a difference; people who read both do not.
    if apart > tolerance + _DATE_SECONDS:
        said = f"its clock and the store's are {apart:.0f} s apart: \"as of\" is by its clock, all else by the store's"
        yield warning(check, said, "keep the store's host by NTP, and tell the upstream's operators")
    else:
        yield ok(check, f"its clock and the store's agree within {max(apart, _DATE_SECONDS):.0f} s")
