"""The FHIR server's two searches: bearer tokens, the wait for the first refresh, and its cache."""

import json
import threading

from ...statemachine.policy import Instant
from . import fhir
from .messages import Answer, Request
from .patients import Feed, Patients
from .tokens import TokenIssuer, subject_id_of

_MEDIA_TYPE = "application/fhir+json;charset=UTF-8"


class FhirServer:
    """Answers `Patient?identifier=` and `Observation?patient=&category=vital-signs`. Thread-safe.

    As upstream, a search is answered from a cache for up to `cache_ms`, unless it says `Cache-Control: no-cache`.
    """

    def __init__(self, patients: Patients, tokens: TokenIssuer, *, cache_ms: int) -> None:
        self._patients = patients
        self._tokens = tokens
        self._cache_ms = cache_ms
        self._lock = threading.Lock()
        self._cache: dict[str, tuple[Instant, bytes]] = {}

    def subject_of(self, request: Request, *, now: Instant) -> str | None:
        """Whose valid token the request bears."""
        return self._tokens.subject_of(request.headers.get("authorization", ""), now=now / 1000)

    def answer(self, request: Request, *, base: str, now: Instant) -> Answer:
        """Answer one request below `base`, the FHIR server's own URL."""
        subject_id = self.subject_of(request, now=now)
        icn = None if subject_id is None else self._patients.icn_of(subject_id)
        if subject_id is None or icn is None:
            return _outcome(401, "login", diagnostics="The bearer token is missing, malformed or expired.")
        resource_type = request.path.removeprefix("/fhir/")
        feed = self._patients.feed(icn, now=now)
        if resource_type == "Patient":
            if _value(request.query.get("identifier", "")) != subject_id:
                return _outcome(403, "forbidden", diagnostics="The token is not of the patient that was asked for.")
            if feed is None:
                return _outcome(202, "incomplete", diagnostics="The patient is being loaded.", severity="information")
        elif resource_type == "Observation":
            asked_for = request.query.get("patient", "").removeprefix("Patient/")
            if asked_for != fhir.patient_id_of(subject_id):
                return _outcome(403, "forbidden", diagnostics="The token is not of the patient that was asked for.")
        else:
            return _outcome(404, "not-supported", diagnostics="Only Patient and Observation can be searched.")
        return self._search(request, icn, feed=feed, base=base, now=now)

    def _search(self, request: Request, icn: str, *, feed: Feed | None, base: str, now: Instant) -> Answer:
        key = f"{icn} {request.target}"
        wants_new = "no-cache" in request.headers.get("cache-control", "").lower()
        with self._lock:
            cached_at, body = self._cache.get(key, (0, b""))
            if wants_new or not body or now - cached_at >= self._cache_ms:
                bundle = fhir.searchset(
                    self._found(request, icn, feed), url=base.removesuffix("/fhir") + request.target, base=base, now=now
                )
                body = json.dumps(bundle, separators=(",", ":")).encode()
                self._cache[key] = (now, body)
        return Answer(200, body, {"Content-Type": _MEDIA_TYPE})

    def _found(self, request: Request, icn: str, feed: Feed | None) -> list[fhir.Resource]:
        subject_id = subject_id_of(icn)
        if feed is None:
            return []
        if request.path.endswith("/Patient"):
            return [fhir.patient(subject_id, feed)]
        if _value(request.query.get("category", "")) != "vital-signs":
            return []
        dice = self._patients.dice(icn, f"vital signs {feed.number} {feed.fed_at}")
        return fhir.vital_signs(fhir.patient_id_of(subject_id), feed, dice)


def _value(token: str) -> str:
    """The value of a FHIR search token, which may be preceded by its system."""
    return token.rpartition("|")[2]


def _outcome(status: int, code: str, *, diagnostics: str, severity: str = "error") -> Answer:
    outcome = fhir.operation_outcome(severity, code, diagnostics=diagnostics)
    return Answer(status, json.dumps(outcome).encode(), {"Content-Type": _MEDIA_TYPE})
