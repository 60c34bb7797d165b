"""How long an upstream asks to be left alone (RFC 9110, section 10.2.3)."""

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

#: No upstream may silence us for longer than a refresh window.
LONGEST_SECONDS = 3600.0

_SECONDS = re.compile(r"[0-9]+")
_LONGEST_DATE = 64


def retry_after_seconds(header: str | None, *, now: datetime) -> float | None:
    """The seconds that a `Retry-After` header asks to wait, from 0 to `LONGEST_SECONDS`; None if it is no such header.

    It holds whole seconds or an HTTP-date, which is judged by `now` (aware). A date in the past asks for nothing.
    A negative number, a fraction or any other text is not in the grammar: None.

    >>> now = datetime(2030, 1, 1, tzinfo=UTC)
    >>> retry_after_seconds("120", now=now), retry_after_seconds("Tue, 01 Jan 2030 00:00:05 GMT", now=now)
    (120.0, 5.0)
    """
    text = (header or "").strip()
    if _SECONDS.fullmatch(text):
        # Nobody needs the value of a number so long, and Python refuses to parse one beyond 4300 digits.
        return min(float(int(text)), LONGEST_SECONDS) if len(text) < 10 else LONGEST_SECONDS
    if not text or len(text) > _LONGEST_DATE:
        return None
    try:
        until = parsedate_to_datetime(text)
        if until.tzinfo is None:
            until = until.replace(tzinfo=UTC)
        seconds = (until - now).total_seconds()
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
    return min(max(seconds, 0.0), LONGEST_SECONDS)
