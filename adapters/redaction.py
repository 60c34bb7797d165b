"""Keeping identifiers, tokens and keys out of log records that this library does not write itself (rule R7).

The upstream wants the ICN in its URL path, and the HTTP libraries log URL paths. What they log passes through a filter
here before any handler sees it. It knows an ICN, a JWT, a bearer value, the key headers and FHIR search values by their
form, and secrets that it was told by their value.
"""

import logging
import re
import traceback
from collections.abc import Iterable, Iterator

_WITHHELD = "<withheld>"
_DIGIT = r"(?:[0-9]|%(?:25)*3[0-9])"
_ICN = rf"{_DIGIT}{{10}}(?:[Vv]|%(?:25)*[57]6){_DIGIT}{{6}}"
_JWT = r"eyJ[\w-]+\.[\w-]+(?:\.[\w-]*)*"
_BEARER = r"(?i:\bbearer(?:\s|%20|\+)+)[^\s\"',;)}]+"
_WHOLE = re.compile(rf"{_BEARER}|{_JWT}|{_ICN}")
_NAMED = re.compile(
    r"(?i)((?:\bx-authorization-key|\bx-api-key|\bapptoken)[\"']?\s*[:=,]\s*b?[\"']?|[?&](?:identifier|patient|subject)=)"
    r"[^\s\"'&,;)}]+"
)
_SHORTEST_SECRET = 4
_LONGEST_TEXT = 500

#: The loggers that would show an identifier or a token when an embedding program turns their levels up.
FOREIGN_LOGGERS = (
    "requests",
    "urllib3",
    "urllib3.connection",
    "urllib3.connectionpool",
    "urllib3.poolmanager",
    "urllib3.response",
    "urllib3.util.retry",
    "transitions",
    "transitions.core",
)


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """`text` without ICNs, JWTs, bearer values, upstream keys by header, FHIR search values, and each of `secrets`.

    >>> redact("GET /v2/phrmgr/status/0000000000v000000")
    'GET /v2/phrmgr/status/<withheld>'
    """
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, _WITHHELD)
    return _NAMED.sub(rf"\g<1>{_WITHHELD}", _WHOLE.sub(_WITHHELD, text))


def safe_error(error: BaseException) -> str:
    """What may be logged of `error`: its type, those of its causes, and the start of its redacted text."""
    names = error_types(error)
    try:
        text = redact(str(error))
    except Exception:  # a foreign __str__ may raise anything
        text = "<no text>"
    return f"{names}: {text[:_LONGEST_TEXT]}" if text else names


def error_types(error: BaseException) -> str:
    """The type of `error` and those of its causes: all that may be logged of an error in the host's own code."""
    return " <- ".join(type(link).__name__ for link in _chain(error))


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


class RedactingFilter(logging.Filter):
    """Rewrites each log record that passes so that nothing sensitive is left: its message, arguments, texts, traceback.

    For a logger or a handler. Thread-safe. Exceptions are replaced by their redacted rendering where that differs.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        super().__init__()
        self._secrets: frozenset[str] = frozenset()
        self.learn(secrets)

    def learn(self, secrets: Iterable[str]) -> None:
        """Withhold these values too. Those of fewer than 4 characters are left out: they would blank half the log."""
        self._secrets |= {secret for secret in secrets if len(secret) >= _SHORTEST_SECRET}

    def filter(self, record: logging.LogRecord) -> bool:
        """Always True: every record stays, without what may not be in it."""
        try:
            message = record.getMessage()
        except Exception:  # a foreign argument's __str__ may raise anything
            message = f"<a record of {record.name} that cannot be rendered>"
        clean = redact(message, self._secrets)
        if clean != message or record.args:
            record.msg, record.args = clean, ()
        if record.exc_info:
            self._clean_exception(record)
        for name, value in vars(record).items():
            if isinstance(value, str):
                vars(record)[name] = redact(value, self._secrets)
        return True

    def _clean_exception(self, record: logging.LogRecord) -> None:
        info = record.exc_info
        if info is None or info[1] is None:
            return
        rendered = "".join(traceback.format_exception(info[1])).rstrip("\n")
        clean = redact(rendered, self._secrets)
        if clean != rendered:
            record.exc_info, record.exc_text = None, clean

    def __repr__(self) -> str:
        return f"RedactingFilter(<{len(self._secrets)} secrets withheld>)"


def guard_loggers(names: Iterable[str] = FOREIGN_LOGGERS, *, secrets: Iterable[str] = ()) -> None:
    """Let everything that the loggers `names` record pass through a `RedactingFilter`. Again: it adds `secrets`.

    A logger's filter sees what is logged to that very logger, not to those below it: hence the list of names.
    """
    known = frozenset(secrets)
    for name in names:
        logger = logging.getLogger(name)
        guards = [item for item in logger.filters if isinstance(item, RedactingFilter)]
        if guards:
            guards[0].learn(known)
        else:
            logger.addFilter(RedactingFilter(known))
